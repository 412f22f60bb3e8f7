"""Where do a step's calls and device records end up on a host of another speed? A replay of its launches.

    s      = t + sigma gap                            the call starts
    launch: t = s + sigma min(duration, cap), and not before the Q-th last call's first record started (a full queue
            blocks; a graph takes one place); each record starts at max(s + lambda, end of its stream + tau, end of
            the stream it waits for)
    sync:   t = max(s + sigma min(duration, 2 us), last end + 2 us)
    other:  t = s + sigma duration

One pass starts with an empty queue, as a profiled step does: its window is last end - first start. Steps that follow
one another are the second of two passes: its window is from one last end to the next, and ``lead_ns`` is the host's
time between the last call of a step and the first of the next. cap = 3 median launch durations where the queue may have
been full: longer calls are back-pressure then, which Q models; elsewhere the time is the host's own. Graph launches,
longer by nature, have a median of their own. Model only where one pass
at sigma = 1 reproduces the profiled window within 5 %: what streams wait for is not in a trace but seen in its times,
and a step in which it was not seen must fail this gate. Related: Daydream (ATC'20).
"""

from enum import IntEnum
from itertools import islice
from typing import Final

import numpy as np
from msgspec import Struct

from loraprof.analysis.partition.host_state import STATES, classify
from loraprof.analysis.trace.launch_links import Links
from loraprof.model.trace import NONE, Bool, Int8, Int32, Int64, Trace, among, distinct
from loraprof.model.vocabulary import HostKind

QUEUE: Final = 1022
SYNC_NS: Final = 2000
CAP: Final = 3  # median launch calls
GATE: Final = 0.05
FULL: Final = 0.9  # of the most launches on their way
SHALLOW: Final = 8  # launches that every queue has room for


class Call(IntEnum):
    """What a host call does to the device. ``BLOCKING`` launches and then waits (a copy to pageable memory)."""

    LAUNCH = 0
    SYNC = 1
    OTHER = 2
    BLOCKING = 3


class Calls(Struct, frozen=True, eq=False):
    """Host calls in order, and the device records each launched: ``first[i]`` to ``first[i + 1]``.

    ``gap_ns`` is host time before the call, of the first 0; ``lead_ns`` that between two steps; ``span_ns`` the
    profiled window, first start to last end.
    """

    gap_ns: Int64
    duration_ns: Int64
    kind: Int8
    first: Int64
    record_ns: Int64
    stream: Int64
    span_ns: int | None = None
    lead_ns: int = 0
    own: Bool | None = None  # calls whose whole duration is the host's; None: none is known to be
    waits: Int64 | None = None  # per record the stream whose work so far it waits for, -1 none; None: none is known


class StepCalls(Struct, frozen=True, eq=False):
    """The calls of a step and where they stand in the trace: ``row`` -> Trace.host, ``record`` -> Trace.device."""

    calls: Calls
    row: Int64
    record: Int64


class Replayed(Struct, frozen=True, eq=False):
    """The last pass: each call's ``start`` and ``end``, each record's ``begin``; ``host`` is when the host was done
    with the pass before, ``[opened, closed)`` the window. ns."""

    start: list[int]
    end: list[int]
    begin: list[int]
    host: int
    opened: int
    closed: int

    @property
    def window_ns(self) -> int:
        return self.closed - self.opened


def replay(calls: Calls, sigma: float, latency_ns: int, turnaround_ns: int, queue: int = QUEUE) -> int:
    """The window of one pass in ns at ``sigma`` times the host's time; 0 without device records."""
    return replayed(calls, sigma, latency_ns, turnaround_ns, queue, passes=1).window_ns


def gate_error(calls: Calls, latency_ns: int, turnaround_ns: int, queue: int = QUEUE) -> float | None:
    """(replayed - profiled) / profiled at sigma = 1; ``None`` without device records."""
    if not calls.span_ns:
        return None
    return (replay(calls, 1.0, latency_ns, turnaround_ns, queue) - calls.span_ns) / calls.span_ns


def accepted(error: float | None) -> bool:
    """Whether a counterfactual may be printed."""
    return error is not None and abs(error) <= GATE


def host_ns(calls: Calls) -> int:
    """Time of the host in one step, waits left out."""
    return int(calls.gap_ns.sum() + _capped(calls).sum()) + calls.lead_ns


def replayed(
    calls: Calls, sigma: float, latency_ns: int, turnaround_ns: int, queue: int = QUEUE, passes: int = 2
) -> Replayed:
    """The last of ``passes`` at ``sigma`` times the host's time."""
    gaps = np.rint(sigma * calls.gap_ns).astype(np.int64).tolist()
    durations = np.rint(sigma * _capped(calls)).astype(np.int64).tolist()
    counts, lead = np.diff(calls.first).tolist(), round(sigma * calls.lead_ns)
    waits = ((calls.kind == Call.SYNC) | (calls.kind == Call.BLOCKING)).tolist()
    lengths, streams = calls.record_ns.tolist(), calls.stream.tolist()
    awaited = [NONE] * len(streams) if calls.waits is None else calls.waits.tolist()
    long_ago = -latency_ns - turnaround_ns  # no stream is busy when the first pass begins
    free: dict[int, int] = dict.fromkeys(streams, long_ago)
    started: list[int] = []
    t = last = opened = host = 0
    for index in range(passes):
        start: list[int] = []
        end: list[int] = []
        begin: list[int] = []
        host, opened = t, last
        t += lead if index else 0
        records = zip(streams, lengths, awaited, strict=True)
        for gap, duration, count, wait in zip(gaps, durations, counts, waits, strict=True):
            s = t + gap
            t = s + duration
            if count:
                if len(started) >= queue and started[-queue] > t:
                    t = started[-queue]
                ready = s + latency_ns
                for stream, length, before in islice(records, count):
                    queued = free[stream] + turnaround_ns
                    begins = ready if ready > queued else queued
                    if before != NONE:
                        begins = max(begins, free.get(before, begins))
                    begin.append(begins)
                    free[stream] = ended = begins + length
                    if ended > last:
                        last = ended
                started.append(begin[-count])
            if wait and started and last + SYNC_NS > t:
                t = last + SYNC_NS
            start.append(s)
            end.append(t)
    opened = min(begin, default=last) if passes == 1 else opened
    return Replayed(start, end, begin, host, opened, last)


def _capped(calls: Calls) -> Int64:
    """Host time of each call, without its waits."""
    launches = (calls.kind == Call.LAUNCH) | (calls.kind == Call.BLOCKING)
    limit = np.where(calls.kind == Call.SYNC, SYNC_NS, np.iinfo(np.int64).max)
    graph = launches & (np.diff(calls.first) > 1)
    for alike in (launches & ~graph, graph):
        if alike.any():
            limit[alike] = CAP * int(np.median(calls.duration_ns[alike]))
    if calls.own is not None:
        limit[calls.own & launches] = np.iinfo(np.int64).max
    capped: Int64 = np.minimum(calls.duration_ns, limit)
    return capped


def calls_of(trace: Trace, links: Links, window: tuple[int, int]) -> Calls:
    """The calls of ``step_calls`` alone."""
    return step_calls(trace, links, window).calls


def step_calls(trace: Trace, links: Links, window: tuple[int, int], noted: tuple[int, int] | None = None) -> StepCalls:
    """The calls behind the device records that start in ``window``, and all others in ``noted``, the step's
    annotation; ``links`` from ``link(trace)``.

    Calls of all launching threads in order of start. A driver call inside a runtime call belongs to the outer one.
    """
    host, device = trace.host, trace.device
    chosen = np.flatnonzero((device.start >= window[0]) & (device.start < window[1]) & (links.launch != NONE))
    if not len(chosen):
        none = np.zeros(0, np.int64)
        return StepCalls(Calls(none, none, np.zeros(0, np.int8), np.zeros(1, np.int64), none, none), none, none)
    used = links.launch[chosen]
    threads = distinct(host.thread[used])
    low, high = int(host.start[used].min()), int(host.start[used].max())
    low, high = (min(low, noted[0]), max(high, noted[1] - 1)) if noted else (low, high)
    around = (host.end >= low) & (host.start <= high)
    rows = np.flatnonzero(around & (host.kind == HostKind.RUNTIME))
    rows = rows[among(host.thread[rows], threads)]
    owner = rows[_outermost(host.start[rows], host.end[rows], host.thread[rows])]
    used = owner[np.searchsorted(rows, used)]
    low = min(low, int(host.start[used].min()))
    kept = distinct(owner)
    kept = kept[(host.start[kept] >= low) & (host.start[kept] <= high)]
    in_time = np.lexsort((host.thread[kept], host.start[kept]))
    keep, place = kept[in_time], np.argsort(in_time, kind="stable")[np.searchsorted(kept, used)]
    order = np.lexsort((device.correlation[chosen], device.start[chosen], place))
    records = chosen[order]
    counts = np.bincount(place, minlength=len(keep))
    start, end = host.start[keep], host.end[keep]
    before = np.concatenate((start[:1], np.maximum.accumulate(end)[:-1]))
    waits = classify(trace, links)[keep] == STATES.index("sync")
    kind = np.where(counts > 0, np.where(waits, Call.BLOCKING, Call.LAUNCH), np.where(waits, Call.SYNC, Call.OTHER))
    calls = Calls(
        gap_ns=np.maximum(start - before, 0),
        duration_ns=end - start,
        own=~_pressed(trace, links, start),  # a long launch call that no full queue explains is the host's own time
        kind=kind.astype(np.int8),
        first=np.concatenate(([0], np.cumsum(counts))),
        record_ns=(device.end - device.start)[records],
        stream=_stream(trace, records),
        span_ns=int(device.end[records].max() - device.start[records].min()),
        lead_ns=max(0, int(start[0]) - noted[0]) + max(0, noted[1] - int(end.max())) if noted else 0,
    )
    return StepCalls(calls, keep, records)


def _pressed(trace: Trace, links: Links, start: Int64) -> Bool:
    """Calls made at ``start`` when about as many launches were on their way as ever: the queue may be full."""
    rows, first = np.unique(links.launch, return_index=True)  # device records stand in order of start
    known = rows != NONE
    called, begun = np.sort(trace.host.start[rows[known]]), np.sort(trace.device.start[first[known]])
    ahead = np.searchsorted(called, start) - np.searchsorted(begun, start)
    found: Bool = ahead >= max(SHALLOW, FULL * ahead.max(initial=0))
    return found


def _stream(trace: Trace, records: Int64) -> Int64:
    """One number per (device, stream)."""
    streams, stream = np.unique(trace.device.stream[records], return_inverse=True)
    pair = trace.device.device[records].astype(np.int64) * len(streams) + stream
    numbers: Int64 = np.unique(pair, return_inverse=True)[1]
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
