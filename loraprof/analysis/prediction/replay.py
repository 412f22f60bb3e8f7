"""Would the step be faster on a faster host? Replays host calls and device queues at another host speed sigma.

    s      = t + sigma gap                            the call starts
    launch: t = s + sigma min(duration, cap), and not before the Q-th last call's first record started (a full queue
            blocks; a graph takes one place); each record starts at max(s + lambda, end of its stream + tau)
    sync:   t = max(s + sigma min(duration, 2 us), last end + 2 us)
    other:  t = s + sigma duration

The window is last end - first start. cap = 3 median launch durations: longer calls are back-pressure, which Q
models; graph launches, longer by nature, have a median of their own. Model only where the replay at sigma = 1
reproduces the profiled window within 5 %: dependencies between streams are not in a trace, and a step that has them
must fail this gate. Related: Daydream (ATC'20).
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np

from loraprof.analysis.partition.host_state import STATES, classify
from loraprof.analysis.trace.launch_links import Links
from loraprof.model.trace import Int8, Int32, Int64, Trace, distinct
from loraprof.model.vocabulary import HostKind

QUEUE: Final = 1022
SYNC_NS: Final = 2000
CAP: Final = 3  # median launch calls
GATE: Final = 0.05
SOLVE_STEPS: Final = 20


class Call(IntEnum):
    """What a host call does to the device. ``BLOCKING`` launches and then waits (a copy to pageable memory)."""

    LAUNCH = 0
    SYNC = 1
    OTHER = 2
    BLOCKING = 3


@dataclass(frozen=True, slots=True, eq=False)
class Calls:
    """Host calls in order, and the device records each launched: ``first[i]`` to ``first[i + 1]``.

    ``gap_ns`` is host time before the call; ``span_ns`` the profiled window, first start to last end.
    """

    gap_ns: Int64
    duration_ns: Int64
    kind: Int8
    first: Int64
    record_ns: Int64
    stream: Int64
    span_ns: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class StepCalls:
    """The calls of a step and where they stand in the trace: ``row`` -> Trace.host, ``record`` -> Trace.device."""

    calls: Calls
    row: Int64
    record: Int64


def replay(calls: Calls, sigma: float, latency_ns: int, turnaround_ns: int, queue: int = QUEUE) -> int:
    """The window in ns at ``sigma`` times the host's time; 0 without device records."""
    return _engine(calls, latency_ns, turnaround_ns, queue)(sigma)


def gate_error(calls: Calls, latency_ns: int, turnaround_ns: int, queue: int = QUEUE) -> float | None:
    """(replayed - profiled) / profiled at sigma = 1; ``None`` without device records."""
    if not calls.span_ns:
        return None
    return (replay(calls, 1.0, latency_ns, turnaround_ns, queue) - calls.span_ns) / calls.span_ns


def accepted(error: float | None) -> bool:
    """Whether a counterfactual may be printed."""
    return error is not None and abs(error) <= GATE


def solve_host_factor(
    calls: Calls, target_ns: int, latency_ns: int, turnaround_ns: int, queue: int = QUEUE
) -> float | None:
    """The largest sigma in [0, 1] whose window is at most ``target_ns``, to 1e-6.

    ``None`` where the gate refuses, or no sigma reaches the target: it lies below the replay's floor.
    """
    if not accepted(gate_error(calls, latency_ns, turnaround_ns, queue)):
        return None
    window = _engine(calls, latency_ns, turnaround_ns, queue)
    if window(1.0) <= target_ns:
        return 1.0
    if window(0.0) > target_ns:
        return None
    low, high = 0.0, 1.0
    for _ in range(SOLVE_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if window(middle) <= target_ns else (low, middle)
    return low


def _engine(calls: Calls, latency_ns: int, turnaround_ns: int, queue: int) -> Callable[[float], int]:
    """The replay as a function of sigma; columns become lists once, since solving calls it twenty times."""
    launches = (calls.kind == Call.LAUNCH) | (calls.kind == Call.BLOCKING)
    limit = np.where(calls.kind == Call.SYNC, SYNC_NS, np.iinfo(np.int64).max)
    graph = launches & (np.diff(calls.first) > 1)
    for alike in (launches & ~graph, graph):
        if alike.any():
            limit[alike] = CAP * int(np.median(calls.duration_ns[alike]))
    capped = np.minimum(calls.duration_ns, limit)
    kinds, first = calls.kind.tolist(), calls.first.tolist()
    records = list(zip(calls.record_ns.tolist(), calls.stream.tolist(), strict=True))

    def window(sigma: float) -> int:
        gaps = np.rint(sigma * calls.gap_ns).astype(np.int64).tolist()
        durations = np.rint(sigma * capped).astype(np.int64).tolist()
        free: dict[int, int] = {}
        started: list[int] = []
        t = last = 0
        begun: int | None = None
        for i, kind in enumerate(kinds):
            s = t + gaps[i]
            t = s + durations[i]
            if kind in (Call.LAUNCH, Call.BLOCKING):
                if len(started) >= queue:
                    t = max(t, started[-queue])
                for at in range(first[i], first[i + 1]):
                    duration, stream = records[at]
                    begin = max(s + latency_ns, free[stream] + turnaround_ns) if stream in free else s + latency_ns
                    if at == first[i]:
                        started.append(begin)
                    begun = begin if begun is None else min(begun, begin)
                    free[stream] = begin + duration
                    last = max(last, begin + duration)
            if kind in (Call.SYNC, Call.BLOCKING) and started:
                t = max(t, last + SYNC_NS)
        return 0 if begun is None else last - begun

    return window


def calls_of(trace: Trace, links: Links, window: tuple[int, int]) -> Calls:
    """The calls of ``step_calls`` alone."""
    return step_calls(trace, links, window).calls


def step_calls(trace: Trace, links: Links, window: tuple[int, int]) -> StepCalls:
    """The calls behind the device records that start in ``window``; ``links`` from ``link(trace)``.

    Calls of all launching threads in order of start. A driver call inside a runtime call belongs to the outer one.
    """
    host, device = trace.host, trace.device
    chosen = np.flatnonzero((device.start >= window[0]) & (device.start < window[1]) & (links.launch >= 0))
    if not len(chosen):
        none = np.zeros(0, np.int64)
        return StepCalls(Calls(none, none, np.zeros(0, np.int8), np.zeros(1, np.int64), none, none), none, none)
    used = links.launch[chosen]
    threads = distinct(host.thread[used])
    around = (host.end >= host.start[used].min()) & (host.start <= host.start[used].max())
    rows = np.flatnonzero(around & (host.kind == HostKind.RUNTIME) & np.isin(host.thread, threads))
    outer = _outermost(host.start[rows], host.end[rows], host.thread[rows])
    owner = np.zeros(len(host), np.int64)
    owner[rows] = rows[outer]
    used = owner[used]
    low, high = int(host.start[used].min()), int(host.start[used].max())
    # Calls after the last launch cannot change the window.
    keep = distinct(rows[outer])
    keep = keep[(host.start[keep] >= low) & (host.start[keep] <= high)]
    keep = keep[np.lexsort((host.thread[keep], host.start[keep]))]
    place = np.zeros(len(host), np.int64)
    place[keep] = np.arange(len(keep))
    order = np.lexsort((device.correlation[chosen], device.start[chosen], place[used]))
    records = chosen[order]
    counts = np.bincount(place[used], minlength=len(keep))
    start, end = host.start[keep], host.end[keep]
    before = np.concatenate((start[:1], np.maximum.accumulate(end)[:-1]))
    waits = classify(trace, links)[keep] == STATES.index("sync")
    kind = np.where(counts > 0, np.where(waits, Call.BLOCKING, Call.LAUNCH), np.where(waits, Call.SYNC, Call.OTHER))
    calls = Calls(
        gap_ns=np.maximum(start - before, 0),
        duration_ns=end - start,
        kind=kind.astype(np.int8),
        first=np.concatenate(([0], np.cumsum(counts))),
        record_ns=(device.end - device.start)[records],
        stream=_stream(trace, records),
        span_ns=int(device.end[records].max() - device.start[records].min()),
    )
    return StepCalls(calls, keep, records)


def _stream(trace: Trace, records: Int64) -> Int64:
    """One number per (device, stream)."""
    pairs = np.stack((trace.device.device[records].astype(np.int64), trace.device.stream[records]), axis=1)
    numbers: Int64 = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)
    return numbers


def _outermost(start: Int64, end: Int64, thread: Int32) -> Int64:
    """Index of the outermost record around each one; rows sorted by (thread, start, -end)."""
    out = list(range(len(start)))
    ends, threads = end.tolist(), thread.tolist()
    top = 0
    for i in range(1, len(out)):
        if threads[i] == threads[top] and ends[i] <= ends[top]:
            out[i] = top
        else:
            top = i
    return np.array(out, dtype=np.int64)
