"""What a record waits for on another stream, seen in when it started."""

import numpy as np
import pytest
from builders import Device, Host, call, kernel, trace_of
from msgspec.structs import replace

from loraprof.analysis.prediction.edits import Launch, with_launches, without
from loraprof.analysis.prediction.replay import StepCalls, gate_error, replay, step_calls
from loraprof.analysis.prediction.stream_waits import with_waits
from loraprof.analysis.trace.launch_links import link

US = 1000
LATENCY, TURNAROUND = 5 * US, 1 * US
WAIT = call("cudaStreamWaitEvent", 6 * US, 7 * US)


def launched(*starts: int) -> list[Host]:
    """A launch call of 1 us at each of these us, numbered from 1."""
    return [call("cudaLaunchKernel", us * US, (us + 1) * US, correlation=i) for i, us in enumerate(starts, 1)]


def waited(host: list[Host], device: list[Device]) -> StepCalls:
    trace = trace_of(host, device)
    step = step_calls(trace, link(trace), (0, 1_000 * US))
    return with_waits(trace, step, LATENCY, TURNAROUND)


def on(stream: int, start: int, end: int, number: int) -> Device:
    return kernel(start * US, end * US, correlation=number, stream=stream)


FIRST = on(7, 5, 105, 1)


@pytest.mark.parametrize(
    ("host", "second", "waits"),
    [
        ([], on(20, 106, 126, 2), True),  # it started when the other ended, and not for its own sake
        ([], on(20, 13, 33, 2), False),  # it ran beside it
        ([WAIT], on(20, 13, 33, 2), False),  # what it was told to wait for was something else
        ([], on(20, 150, 170, 2), False),  # long after it: something else held it
        ([WAIT], on(20, 150, 170, 2), True),
        ([], on(7, 106, 126, 2), False),  # its own stream
    ],
)
def test_a_record_waits_for_what_had_ended_right_then_or_was_told_to(
    host: list[Host], second: Device, waits: bool
) -> None:
    step = waited([*launched(0, 8), *host], [FIRST, second])
    found = step.calls.waits
    number = None if found is None else found[list(step.record).index(1)]
    assert (number is not None and number >= 0) == waits


def test_the_replay_then_reproduces_the_step_and_keeps_the_order_on_a_faster_host() -> None:
    step = waited(launched(0, 8), [FIRST, on(20, 105, 125, 2)])
    assert gate_error(step.calls, LATENCY, TURNAROUND) == 0
    assert gate_error(replace(step.calls, waits=None), LATENCY, TURNAROUND) == pytest.approx(-20 / 120)
    assert replay(step.calls, 0.0, LATENCY, TURNAROUND) == 120 * US


def test_what_is_waited_for_may_go_and_other_launches_may_come() -> None:
    calls = waited(launched(0, 8), [FIRST, on(20, 105, 125, 2)]).calls
    gone = without(calls, np.zeros(2, np.bool_), np.array([True, False]))
    assert replay(gone, 1.0, LATENCY, TURNAROUND) == 20 * US
    more = with_launches(calls, [Launch(after=0, gap_ns=0, duration_ns=US, record_ns=30 * US, stream=calls.stream[0])])
    assert replay(more, 1.0, LATENCY, TURNAROUND) == 120 * US + TURNAROUND + 30 * US
