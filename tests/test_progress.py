"""How far a profile is: on a terminal one line, rewritten; in a pipe a line each ten seconds; in no step's time."""

import io

import pytest
import torch

from loraprof.capture.device.cpu import Cpu
from loraprof.capture.passes.phases import timing_sentence
from loraprof.capture.passes.plan import Plan
from loraprof.capture.passes.progress import LIVE_NS, PIPED_NS, Progress
from loraprof.capture.passes.timing import TimingPass

MS = 1_000_000


class Clock:
    now = 0

    def __call__(self) -> int:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "every"), [(Terminal(), LIVE_NS), (io.StringIO(), PIPED_NS)])
def test_it_is_due_now_and_then(stream: io.StringIO, every: int) -> None:
    clock = Clock()
    progress = Progress(stream, clock)
    clock.now = every - 1
    assert not progress.due()
    clock.now = every
    assert progress.due()
    progress.show("timing 1/2")
    assert not progress.due()


def test_a_terminal_has_one_line_and_a_pipe_many() -> None:
    live, piped = Terminal(), io.StringIO()
    for stream in (live, piped):
        progress = Progress(stream)
        progress.show("timing 14/20 · 132 ms")
        progress.show("timing 15/20")
        progress.clear()
    assert "\n" not in live.getvalue()
    assert live.getvalue().endswith("\r")
    assert live.getvalue().split("\r")[3].rstrip() == "loraprof: timing 15/20"
    assert piped.getvalue() == "loraprof: timing 14/20 · 132 ms\nloraprof: timing 15/20\n"


def test_nobody_is_told_where_nothing_listens() -> None:
    closed = io.StringIO()
    closed.close()
    assert not Progress().due()
    Progress().show("x")
    progress = Progress(io.StringIO())
    progress._stream = closed
    progress.show("x")


def test_what_is_done_between_steps_is_in_no_step() -> None:
    clock = Clock()
    timed = TimingPass(Cpu(torch.device("cpu"), clock), 4, clock=clock)
    timed.stamp()
    for number in range(4):
        clock.now += 10 * MS
        timed.stamp()
        if number == 1:
            clock.now += 3 * MS  # a line is printed
            timed.again()
    timing = timed.timing(0)
    assert timing is not None
    assert timing.samples_ns == timed.steps_ns == [10 * MS] * 4
    assert timed.enough()


def test_the_sentence() -> None:
    clock = Clock()
    timed = TimingPass(Cpu(torch.device("cpu"), clock), 20, clock=clock)
    timed.stamp()
    for _ in range(14):
        clock.now += 132 * MS
        timed.stamp()
    assert timing_sentence(timed, Plan(), False) == "timing 14/20 · 132 ms ±0.0 % · 8.9 s left"
