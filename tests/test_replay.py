"""Properties R1 to R6 and the oracle of the replay."""

import numpy as np
import pytest
from builders import call, copy, kernel, step, trace_of
from hypothesis import given
from hypothesis import strategies as some
from msgspec.structs import replace as changed

from loraprof.analysis.prediction.replay import (
    Call,
    Calls,
    accepted,
    calls_of,
    gate_error,
    host_ns,
    replay,
    replayed,
    step_calls,
)
from loraprof.analysis.trace.launch_links import link

US = 1000


def calls(rows: list[tuple[int, int, Call, list[tuple[int, int]]]], span_ns: int | None = None) -> Calls:
    """Rows of (gap, duration, kind, [(record duration, stream)])."""
    records = [r for row in rows for r in row[3]]
    return Calls(
        gap_ns=np.array([r[0] for r in rows], dtype=np.int64),
        duration_ns=np.array([r[1] for r in rows], dtype=np.int64),
        kind=np.array([r[2] for r in rows], dtype=np.int8),
        first=np.cumsum([0, *(len(r[3]) for r in rows)]),
        record_ns=np.array([r[0] for r in records], dtype=np.int64),
        stream=np.array([r[1] for r in records], dtype=np.int64),
        span_ns=span_ns,
    )


ORACLE = calls([(gap, 5 * US, Call.LAUNCH, [(4 * US, 7)]) for gap in (0, 10 * US, 10 * US)], 34 * US)

times = some.integers(0, 50_000)
kinds = some.sampled_from(Call)
records = some.lists(some.tuples(some.integers(1, 50_000), some.integers(0, 2)), min_size=1, max_size=3)
rows = some.lists(
    some.tuples(times, times, kinds, records).map(
        lambda r: (r[0], r[1], r[2], r[3] if r[2] in (Call.LAUNCH, Call.BLOCKING) else [])
    ),
    min_size=1,
    max_size=12,
)
sigmas = some.floats(0, 1)


@pytest.mark.parametrize(("sigma", "window"), [(1, 34_000), (0.75, 26_500), (0.5, 19_000), (0.25, 14_000), (0, 14_000)])
def test_r4_oracle(sigma: float, window: int) -> None:
    assert replay(ORACLE, sigma, 6 * US, 1 * US) == window


@given(rows, sigmas, sigmas, times, times, times, times, some.integers(1, 6), some.integers(0, 20))
def test_r2_monotone(
    r: list[tuple[int, int, Call, list[tuple[int, int]]]],
    sigma: float,
    more: float,
    latency: int,
    later: int,
    tau: int,
    longer: int,
    queue: int,
    which: int,
) -> None:
    c = calls(r)
    base = replay(c, sigma, latency, tau, queue)
    assert replay(c, max(sigma, more), latency, tau, queue) >= base
    assert replay(c, sigma, latency + later, tau, queue) >= base
    assert replay(c, sigma, latency, tau + later, queue) >= base
    assert replay(c, sigma, latency, tau, queue + 1) <= base
    if len(c.record_ns):
        durations = c.record_ns.copy()
        durations[which % len(durations)] += longer
        assert replay(changed(c, record_ns=durations), sigma, latency, tau, queue) >= base


@given(rows, times, times)
def test_r3_no_host_no_dependencies(
    r: list[tuple[int, int, Call, list[tuple[int, int]]]], latency: int, tau: int
) -> None:
    c = calls(r)
    window = replay(c, 0.0, latency, tau)
    for stream in set(c.stream.tolist()):
        mine = c.record_ns[c.stream == stream]
        assert window >= int(mine.sum()) + (len(mine) - 1) * tau


def test_r6_queue_limit() -> None:
    """Long kernels: with Q = 2 the host blocks, yet the GPU is the bottleneck and ends at the same time."""
    c = calls([(0, US, Call.LAUNCH, [(100 * US, 7)]) for _ in range(6)])
    assert replay(c, 1.0, 5 * US, US, queue=2) == replay(c, 1.0, 5 * US, US, queue=100) == 605 * US
    # A host-bound tail shows the blocking: other work after the launches starts later with a short queue.
    tail = calls([(0, US, Call.LAUNCH, [(100 * US, 7)])] * 6 + [(0, 900 * US, Call.OTHER, []),
                                                               (0, US, Call.LAUNCH, [(US, 7)])])  # fmt: skip
    assert replay(tail, 1.0, 5 * US, US, queue=100) == 907 * US
    assert replay(tail, 1.0, 5 * US, US, queue=2) > 1200 * US


def test_the_host_s_time_between_two_steps_is_what_its_annotation_has_before_and_behind_the_calls() -> None:
    trace = trace_of([step(0, 0, 1000)], [kernel(200, 300, (100, 110)), kernel(800, 900, (700, 710))])
    assert step_calls(trace, link(trace), (0, 1000), (0, 1000)).calls.lead_ns == 100 + 290
    assert step_calls(trace, link(trace), (0, 1000), (150, 650)).calls.lead_ns == 0  # it is shorter than they are
    assert step_calls(trace, link(trace), (0, 1000)).calls.lead_ns == 0


def test_steps_that_follow_one_another_overlap() -> None:
    """The host submits the next step while the device still works: what it does between them does not show."""
    busy = calls([(0, US, Call.LAUNCH, [(100 * US, 7)])] * 3)
    assert replay(busy, 1.0, 5 * US, US) == 302 * US
    for lead in (0, 50 * US):
        again = replayed(changed(busy, lead_ns=lead), 1.0, 5 * US, US)
        assert again.window_ns == 303 * US
        assert again.begin[0] - again.opened == US
        assert again.start[0] - again.host == lead
    late = replayed(changed(busy, lead_ns=400 * US), 1.0, 5 * US, US)  # it comes 98 us after the last kernel
    assert late.window_ns == 403 * US
    assert replayed(changed(busy, lead_ns=400 * US), 0.5, 5 * US, US).window_ns == 303 * US


def test_r1_a_trace_made_by_the_model_is_reproduced_exactly() -> None:
    """lambda 6 us, tau 1 us; a sync between the kernels, and a second kernel queued behind the first."""
    trace = trace_of(
        host=[call("cudaStreamSynchronize", 12_000, 34_000)],
        device=[
            kernel(6_000, 16_000, launch=(0, 5_000)),
            kernel(17_000, 32_000, launch=(6_000, 11_000)),
            kernel(46_000, 50_000, launch=(40_000, 45_000)),
        ],
    )
    c = calls_of(trace, link(trace), (0, 60_000))
    assert c.kind.tolist() == [Call.LAUNCH, Call.LAUNCH, Call.SYNC, Call.LAUNCH]
    assert c.gap_ns.tolist() == [0, 1_000, 1_000, 6_000]
    assert c.span_ns == 44_000 == replay(c, 1.0, 6_000, 1_000)
    assert gate_error(c, 6_000, 1_000) == 0.0
    # A host twice as fast: launches 0..2.5, 3..5.5; sync ends 2 us after the last kernel (32); launch at 37.
    assert replay(c, 0.5, 6_000, 1_000) == 37_000 + 6_000 + 4_000 - 6_000


def test_r5_waits_between_streams_fail_the_gate() -> None:
    """Stream 9's kernel waits for stream 7 by an event that no trace records."""
    trace = trace_of(
        device=[
            kernel(6_000, 106_000, launch=(0, 5_000), stream=7),
            kernel(107_000, 207_000, launch=(6_000, 11_000), stream=9),
        ]
    )
    c = calls_of(trace, link(trace), (0, 300_000))
    error = gate_error(c, 6_000, 1_000)
    assert error is not None
    assert error < -0.05
    assert not accepted(error)


def test_a_blocking_copy_launches_and_waits_and_a_nested_driver_call_counts_once() -> None:
    trace = trace_of(
        host=[call("cuLaunchKernel", 1_000, 2_000)],
        device=[
            kernel(6_000, 106_000, launch=(0, 5_000)),
            copy(107_000, 108_000, launch=(6_000, 110_000), name="Memcpy DtoH (Device -> Pageable)"),
            kernel(121_000, 122_000, launch=(115_000, 120_000)),
        ],
    )
    c = calls_of(trace, link(trace), (0, 200_000))
    assert c.kind.tolist() == [Call.LAUNCH, Call.BLOCKING, Call.LAUNCH]
    assert replay(c, 1.0, 6_000, 1_000) == 116_000 == c.span_ns


def test_no_device_work_is_nothing_to_replay() -> None:
    trace = trace_of(host=[call("cudaDeviceSynchronize", 0, 10)])
    c = calls_of(trace, link(trace), (0, 100))
    assert replay(c, 1.0, 6_000, 1_000) == 0
    assert gate_error(c, 6_000, 1_000) is None
    assert not accepted(None)


def test_a_long_launch_call_is_the_hosts_own_unless_the_queue_may_be_full() -> None:
    """Kernels of 100 us, launched every 6 us: the last of ten finds nine on their way, and may wait for room. A later
    one comes to an idle device."""
    queued = [
        kernel(
            6_000 + 101_000 * i, 106_000 + 101_000 * i, launch=(6_000 * i, 6_000 * i + (90_000 if i == 9 else 5_000))
        )
        for i in range(10)
    ]
    late = kernel(2_006_000, 2_007_000, launch=(2_000_000, 2_100_000))
    trace = trace_of(device=[*queued, late])
    c = calls_of(trace, link(trace), (0, 3_000_000))
    assert c.own is not None
    assert c.own.tolist() == [True] * 9 + [False, True]
    assert host_ns(c) - int(c.gap_ns.sum()) == 9 * 5_000 + 15_000 + 100_000
