"""How many steps are timed, and which count: on a CPU as many as asked for, on a GPU until they are steady."""

from dataclasses import dataclass

import pytest
import torch

from loraprof.capture.passes import timing as timing_pass
from loraprof.capture.passes.timing import LEAST_NS, MOST, TimingPass
from loraprof.model.recording import Timing

MS = 1_000_000


@dataclass
class Clock:
    now: int = 0

    def __call__(self) -> int:
        return self.now


@dataclass
class Event:
    clock: Clock
    at: int = 0

    def record(self) -> None:
        self.at = self.clock.now

    def elapsed_time(self, later: "Event") -> float:
        return (later.at - self.at) / MS


def run(device: str, steps: list[int], wanted: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, Timing]:
    """Steps it took, and the timing, of steps that last as listed and then as the last one."""
    clock = Clock()
    monkeypatch.setattr(timing_pass, "timing_event", lambda: Event(clock))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    timed = TimingPass(torch.device(device), wanted, clock)
    timed.stamp()
    done = 0
    while not timed.enough():
        clock.now += steps[min(done, len(steps) - 1)]
        timed.stamp()
        done += 1
    found = timed.timing(skipped=3)
    assert found is not None
    return done, found


def test_a_cpu_times_as_many_steps_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    done, timing = run("cpu", [20 * MS] * 5 + [10 * MS], 10, monkeypatch)
    assert (done, timing.dropped, timing.clock) == (10, 3, "perf_counter_ns")
    assert timing.samples_ns == [20 * MS] * 5 + [10 * MS] * 5


def test_a_gpu_goes_on_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    step = LEAST_NS // 20
    done, timing = run("cuda", [step], 10, monkeypatch)
    assert (done, timing.dropped, timing.clock) == (20, 3, "cuda_event")
    assert run("cuda", [LEAST_NS], 10, monkeypatch)[0] == 10
    assert run("cuda", [MS], 10, monkeypatch)[0] == MOST * 10


def test_a_slow_start_is_dropped_and_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, steady = 180 * MS, 110 * MS
    steps = [slow + i * MS for i in range(8)] + [steady + i % 3 * MS for i in range(40)]
    done, timing = run("cuda", steps, 20, monkeypatch)
    assert done == 28
    assert timing.dropped == 3 + 8
    assert len(timing.samples_ns) == 20
    assert max(timing.samples_ns) < slow


def test_nothing_was_timed() -> None:
    timed = TimingPass(torch.device("cpu"), 10)
    assert timed.timing(skipped=3) is None
    timed.stamp()
    assert timed.timing(skipped=3) is None
