"""The exact split of each device window into busy and idle.

Busy is the union of device records; compute owns an instant before comm before copy, within a class the record
that started first. A gap is charged to the record that ends it and to what the thread that launched it was doing.
All arithmetic is integer, so the parts sum to the window by construction and the ledger proves it again.
"""

import re

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from loraprof.analysis.attribution.attribute import Attribution
from loraprof.analysis.attribution.graph_launches import GraphWork
from loraprof.analysis.partition.host_state import Timeline, idle_causes, measure
from loraprof.analysis.partition.ledger import OTHER_PHASE, OTHER_ROLE, Ledger, idle_kind, ids
from loraprof.analysis.trace.intervals import Cover, cover_of_disjoint, gaps, owned, union
from loraprof.analysis.trace.launch_links import Links
from loraprof.analysis.trace.step_windows import Window
from loraprof.model.report import Overlap
from loraprof.model.trace import NONE, Bool, Int8, Int32, Int64, Integer, Ints, Trace, distinct, taken
from loraprof.model.vocabulary import CLASSES, ROLE, Cause, DeviceClass, DeviceKind, HostKind

# Libraries of collectives; the kernels of torch's symmetric memory and of inference engines that do without one.
_COMM = re.compile(
    r"nccl|rccl|msccl|oneccl|nvshmem|(multimem|one_shot|two_shot)_(all_|reduce_)|cross_device_reduce", re.IGNORECASE
)
_DEQUANT = ("dequantize", "Dequantize", "kDequant")


class DeviceWork(Struct, frozen=True, eq=False):
    """Device records of one device with their class and owner; sorted by (start, stream, correlation)."""

    rows: Int64  # -> Trace.device
    start: Int64
    end: Int64
    kind: Int64  # DeviceClass
    module: Int32
    phase: Int8
    role: Int8
    launch: Int64  # -> Trace.host, -1 none
    call: Int64  # when the launch call started, and ended; 0 none
    called: Int64
    op: Int32  # -> Trace.host, innermost op around the launch, -1 none
    reach: Int64  # latest end so far, this record's included
    causes: tuple[Cause, ...]  # idle cause of each state of a host thread

    def overlapping(self, window: Window) -> Int64:
        """Records that share time with a window; one that lasts no time belongs to the window it closes."""
        low, high = window.start, window.end
        first = np.searchsorted(self.reach, low, side="left" if window.first else "right")
        last = np.searchsorted(self.start, high, side="right")
        start, end = self.start[first:last], self.end[first:last]
        empty = start == end
        inside = ((end > low) & ((start < high) | empty)) | (empty & window.first & (start == low))
        return first + np.flatnonzero(inside)

    def starting(self, low: int, high: int) -> Int64:
        """Records that start in ``[low, high)``."""
        return np.arange(*np.searchsorted(self.start, (low, high)))


def device_work(
    trace: Trace, links: Links, attribution: Attribution, on_device: Bool, graphs: GraphWork | None = None
) -> DeviceWork:
    """Class, module, phase and role of every record of one device, through its launch call or its graph's order."""
    device = trace.device
    rows = np.flatnonzero(on_device)
    rows = rows[np.lexsort((device.correlation[rows], device.stream[rows], device.start[rows]))]
    launch = links.launch[rows]
    names = trace.names or ("",)
    comm = np.array([bool(_COMM.search(n)) for n in names])
    dequant = np.array([any(w in n for w in _DEQUANT) for n in names])
    is_copy = device.kind[rows] != DeviceKind.KERNEL
    is_comm = ~is_copy & comm[device.name[rows]]
    kind = np.where(is_copy, DeviceClass.COPY, np.where(is_comm, DeviceClass.COMM, DeviceClass.COMPUTE))
    module = taken(attribution.module, launch)
    phase, role = taken(attribution.phase, launch, OTHER_PHASE), taken(attribution.role, launch, OTHER_ROLE)
    if graphs is not None:
        graphs.into(rows, module, phase, role)
    role = np.where(is_copy & (role == OTHER_ROLE), ROLE["copy"], role)
    role = np.where(is_comm, ROLE["comm"], np.where(dequant[device.name[rows]], ROLE["dequant"], role))
    op = taken(attribution.tree.nearest(trace.host.kind == HostKind.OP), launch)
    start, end = device.start[rows], device.end[rows]
    reach = np.maximum.accumulate(end)
    call, called = taken(trace.host.start, launch, 0), taken(trace.host.end, launch, 0)
    causes = idle_causes(trace)
    return DeviceWork(
        rows, start, end, kind.astype(np.int64), module, phase, role, launch, call, called, op, reach, causes
    )


def turnaround_floor(trace: Trace, links: Links) -> int:
    """tau, ns: 5th percentile of next.start - prev.end over same-stream pairs already queued; 0 on ROCm."""
    device = trace.device
    if trace.rocm or len(device) < 2 or not len(trace.host):
        return 0
    order = np.lexsort((device.correlation, device.start, device.stream, device.device))
    same = (np.diff(device.stream[order]) == 0) & (np.diff(device.device[order]) == 0)
    first, second = order[:-1][same], order[1:][same]
    launch = links.launch[second]
    queued = (launch != NONE) & (taken(trace.host.end, launch) < device.end[first])
    wait = np.sort((device.start[second] - device.end[first])[queued])
    wait = wait[wait >= 0]
    return int(wait[int(0.05 * (len(wait) - 1))]) if len(wait) else 0


def split(trace: Trace, work: DeviceWork, window: Window, states: dict[int, Timeline], tau: int) -> Ledger:
    """One window's ledger."""
    near = work.overlapping(window)
    start = np.maximum(work.start[near], window.start)
    end = np.minimum(work.end[near], window.end)
    ns, covers = _busy(start, end, work.kind[near])
    everything = union(start, end)
    low, high = gaps(everything, window.start, window.end)
    idle = _idle(trace, work, low, high, states, tau)
    counted = (work.start[near] >= window.start) | window.first
    device, rows, m = trace.device, work.rows[near], len(idle.ns)
    blank = np.full(m, NONE, dtype=np.int64)
    return Ledger(
        window=window,
        kind=ids(work.kind[near], idle.kind),
        phase=ids(work.phase[near], idle.phase),
        role=ids(work.role[near], idle.role),
        module=ids(work.module[near], idle.module),
        name=ids(device.name[rows], blank),
        op=ids(work.op[near], blank),
        record=ids(rows, blank),
        blocks=np.concatenate((device.blocks[rows], blank)),
        ns=np.concatenate((ns, idle.ns)),
        full_ns=np.concatenate((end - start, idle.ns)),
        events=np.concatenate((counted.astype(np.int64), idle.events)),
        overlap=_overlap(covers),
    )


def _busy(start: Int64, end: Int64, kind: Int64) -> tuple[Int64, list[tuple[Cover, Int64, Int64]]]:
    """Exclusive time of each record, and per class (union, owned starts, owned ends)."""
    ns = np.zeros(len(start), dtype=np.int64)
    none = np.zeros(0, np.int64)
    above: Cover = cover_of_disjoint(none, none)
    empty, out = above, []
    for cls in range(len(CLASSES)):
        of_class = np.flatnonzero(kind == cls)
        if not len(of_class):
            out.append((empty, none, none))
            continue
        of_class = of_class[np.argsort(start[of_class], kind="stable")]
        begin, stop = owned(start[of_class], end[of_class])
        ns[of_class] = (stop - begin) - above.measure(begin, stop)
        out.append((union(start[of_class], end[of_class]), begin, stop))
        above = union(np.concatenate((above.start, start[of_class])), np.concatenate((above.end, end[of_class])))
    return ns, out


def _overlap(covers: list[tuple[Cover, Int64, Int64]]) -> tuple[Overlap, ...]:
    """Time of a lower class hidden under a higher one that owns the instant."""
    out = []
    for over in range(len(CLASSES)):
        for under in range(over + 1, len(CLASSES)):
            top, low = covers[over][0], covers[under][0]
            if not (len(top.start) and len(low.start)):
                continue
            ns = int(low.measure(top.start, top.end).sum())
            if over == DeviceClass.COMM:  # compute owns what all three share
                compute = covers[DeviceClass.COMPUTE][0]
                both = _intersection(top, low)
                ns -= int(compute.measure(both.start, both.end).sum())
            if ns:
                out.append(Overlap(over=CLASSES[over], under=CLASSES[under], ns=ns))
    return tuple(out)


def _intersection(a: Cover, b: Cover) -> Cover:
    cuts = distinct(np.concatenate((a.start, a.end, b.start, b.end)))
    begin, stop = cuts[:-1], cuts[1:]
    keep = (a.measure(begin, stop) > 0) & (b.measure(begin, stop) > 0)
    return cover_of_disjoint(begin[keep], stop[keep])


class _Idle(Struct, frozen=True, eq=False):
    kind: Int64
    phase: Int64
    role: Int64
    module: Int64
    ns: Int64
    events: Int64


class Gaps(Struct, frozen=True, eq=False):
    """Idle gaps ``[low, high)`` with the record that ends each and that record's launch call ``[call, called)``."""

    low: Int64
    high: Int64
    ender: Int64  # -> DeviceWork, -1 none
    launch: Int64  # -> Trace.host, -1 none
    call: Int64
    called: Int64  # clipped to the gap
    unknown: Bool  # no launch record, or one that starts at or after the gap's end
    queued: Bool  # launched before the gap began

    def owner(self, column: npt.NDArray[Integer], default: int) -> npt.NDArray[Integer]:
        """A column of DeviceWork per gap; ``default`` where no record ends it."""
        return taken(column, self.ender, default)


def gaps_of(trace: Trace, work: DeviceWork, low: Int64, high: Int64) -> Gaps:
    """What ended each gap: the record that starts there, of several the one with the lowest correlation."""
    near = work.starting(int(high.min()), int(high.max()) + 1) if len(high) else np.zeros(0, np.int64)
    by_start = near[np.lexsort((trace.device.correlation[work.rows[near]], work.start[near]))]
    at = np.searchsorted(work.start[by_start], high)
    ender = taken(by_start, np.where(at < len(by_start), at, NONE))
    ender = np.where(taken(work.start, ender, 0) == high, ender, NONE)
    launch = taken(work.launch, ender)
    call = taken(work.call, ender, 0)
    unknown = (launch == NONE) | (call >= high)
    called = np.clip(taken(work.called, ender, 0), call, high)
    return Gaps(low, high, ender, launch, call, called, unknown, ~unknown & (call <= low))


def _idle(trace: Trace, work: DeviceWork, low: Int64, high: Int64, states: dict[int, Timeline], tau: int) -> _Idle:
    """Charges every gap ``[low, high)`` to the record that ends it; the pieces of a gap sum to it."""
    gap = gaps_of(trace, work, low, high)
    pieces: dict[Cause, Int64] = {"unknown": np.where(gap.unknown, high - low, 0)}
    pieces["turnaround"] = np.where(gap.queued, np.minimum(tau, high - low), 0)
    pieces["queued"] = np.where(gap.queued, high - low - pieces["turnaround"], 0)
    waiting = ~gap.unknown & ~gap.queued
    pieces["launch_api"] = np.where(waiting, gap.called - gap.call, 0)
    pieces["launch_latency"] = np.where(waiting, high - gap.called, 0)
    thread = taken(trace.host.thread, gap.launch)
    for one in distinct(thread[waiting]).tolist():
        of_class = np.flatnonzero(waiting & (thread == one))
        spent = measure(states[one], low[of_class], gap.call[of_class])
        for i, cause in enumerate(work.causes):
            pieces.setdefault(cause, np.zeros(len(low), dtype=np.int64))[of_class] += spent[i]
    phase, role = gap.owner(work.phase, OTHER_PHASE), gap.owner(work.role, OTHER_ROLE)
    module = gap.owner(work.module, NONE)
    columns: list[tuple[Ints, ...]] = []
    for cause, ns in pieces.items():
        some = np.flatnonzero(ns)
        if len(some) or not columns:
            ones = np.ones(len(some), dtype=np.int64)
            columns.append((ones * idle_kind(cause), phase[some], role[some], module[some], ns[some], ones))
    return _Idle(*(np.concatenate(c).astype(np.int64) for c in zip(*columns, strict=True)))
