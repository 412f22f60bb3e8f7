"""The exact split of a CPU step: busy is time inside ops of the step's main thread, by the innermost op.

Markers and annotations are not work, nor is what ``torch.compile`` runs while it compiles: that is Python, whatever ops
it tries and whatever op needed it (a backward pass, the first time). Time inside a data loader is idle cause ``data``,
its ops included. A gap in which a collective on another thread ends was a wait for it: cause ``sync``, role ``comm``.
The rest is python.
"""

import numpy as np
from msgspec import Struct

from loraprof.analysis.attribution.attribute import Attribution
from loraprof.analysis.partition.ledger import OTHER_PHASE, OTHER_ROLE, Ledger, idle_kind, ids
from loraprof.analysis.trace.intervals import Cover, innermost, union
from loraprof.analysis.trace.step_windows import Window
from loraprof.model.report import Overlap
from loraprof.model.trace import NONE, Bool, Int64, Ints, Trace, taken
from loraprof.model.vocabulary import ROLE, Cause, DeviceClass, HostKind

Columns = tuple[tuple[Ints, ...], tuple[Int64, ...]]  # kind, phase, role, module, name, op; ns, full_ns, events


class Slices(Struct, frozen=True, eq=False):
    """What the main thread of a window was in: disjoint, sorted pieces; nothing covers what they leave free."""

    begin: Int64
    stop: Int64
    owner: Int64  # -> Trace.host, the innermost op or loader
    data: Bool  # inside a data loader

    def next_op(self, t: Int64) -> Int64:
        """The op (not a loader's) that comes at or after each instant; -1 none."""
        begin, owner = self.begin[~self.data], self.owner[~self.data]
        at = np.searchsorted(begin, t, side="left")
        return np.append(owner, NONE)[at]


def slices_of(trace: Trace, attribution: Attribution, window: Window) -> Slices:
    """The window's main thread, cut by the innermost op."""
    host = trace.host

    def loads(rows: Int64) -> Bool:
        flag: Bool = attribution.names.loader[host.name[rows]] & (host.kind[rows] == HostKind.ANNOTATION)
        return flag

    inside = attribution.tree.overlapping(host, window.thread, window.start, window.end)
    noted = host.kind[inside] == HostKind.ANNOTATION
    work = (host.kind[inside] == HostKind.OP) & ~_compiles(attribution, inside)
    inside = inside[work | loads(inside) | (noted & _compiles(attribution, inside))]
    start, end = np.maximum(host.start[inside], window.start), np.minimum(host.end[inside], window.end)
    order = np.lexsort((inside, -end, start))
    inside, start, end = inside[order], start[order], end[order]
    begin, stop, at = innermost(start, end)
    owned = ~_compiles(attribution, inside[at])
    begin, stop, owner = begin[owned], stop[owned], inside[at][owned]
    data = np.zeros(len(owner), np.bool_)
    if loads(inside).any():
        for rows in attribution.tree.around(owner):
            data |= loads(rows)
    return Slices(begin, stop, owner, data)


def _compiles(attribution: Attribution, rows: Int64) -> Bool:
    return np.zeros(len(rows), np.bool_) if attribution.compiling is None else attribution.compiling[rows]


def elsewhere(trace: Trace, attribution: Attribution, window: Window) -> Int64:
    """Rows of other threads that share time with the window."""
    threads = [t for t in range(len(trace.threads)) if t != window.thread]
    parts = [attribution.tree.overlapping(trace.host, t, window.start, window.end) for t in threads]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def split_cpu(trace: Trace, attribution: Attribution, window: Window) -> Ledger:
    """One window's ledger; entries of ops carry their own time, without that of the ops they call."""
    slices = slices_of(trace, attribution, window)
    begin, stop, owner, data = slices.begin, slices.stop, slices.owner, slices.data
    busy_ids, busy_sizes = _busy(trace, attribution, window, owner[~data], (stop - begin)[~data])
    idle_ids, idle_sizes = _idle(trace, attribution, window, slices)
    kind, phase, role, module, name, op = (ids(*columns) for columns in zip(busy_ids, idle_ids, strict=True))
    ns, full, events = (np.concatenate(columns) for columns in zip(busy_sizes, idle_sizes, strict=True))
    overlap = _overlap(trace, attribution, window, begin[~data], stop[~data])
    record, blocks = np.broadcast_to(np.int32(NONE), len(ns)), np.broadcast_to(np.int64(NONE), len(ns))  # no memory
    return Ledger(window, kind, phase, role, module, name, op, record, blocks, ns, full, events, overlap)


def split_unread(_trace: Trace, _attribution: Attribution, window: Window) -> Ledger:
    """One window of a trace whose accelerator's records cannot be read: when it worked and for what is unknown."""
    some = int(window.end > window.start)
    ns, blocks, events = (np.full(some, value, np.int64) for value in (window.end - window.start, NONE, 1))
    kind, phase, role, blank = (
        np.full(some, value, np.int32) for value in (idle_kind("unknown"), OTHER_PHASE, OTHER_ROLE, NONE)
    )
    return Ledger(window, kind, phase, role, blank, blank, blank, blank, blocks, ns, ns, events, ())


def _busy(trace: Trace, attribution: Attribution, window: Window, owner: Int64, length: Int64) -> Columns:
    host = trace.host
    rows, inverse = np.unique(owner, return_inverse=True)
    ns = np.zeros(len(rows), dtype=np.int64)
    np.add.at(ns, inverse, length)
    full = np.minimum(host.end[rows], window.end) - np.maximum(host.start[rows], window.start)
    events = (host.start[rows] >= window.start).astype(np.int64)
    kind = np.full(len(rows), int(DeviceClass.COMPUTE), dtype=np.int64)
    phase, role, module = attribution.phase[rows], attribution.role[rows], attribution.module[rows]
    return (kind, phase, role, module, host.name[rows], rows), (ns, full, events)


def _idle(trace: Trace, attribution: Attribution, window: Window, slices: Slices) -> Columns:
    """Gaps between slices, and the slices of the data loader; charged to the op that comes next."""
    begin, stop, data = slices.begin, slices.stop, slices.data
    low, high = free_of(slices, window)
    ender, loaded = slices.next_op(high), slices.next_op(begin[data])
    waited = waits_of(trace, attribution, window, low, high).measure(low, high)
    causes: tuple[tuple[Cause, int], ...] = (("python", len(low)), ("sync", len(low)), ("data", int(data.sum())))
    cause = np.concatenate([np.full(n, idle_kind(name)) for name, n in causes])
    ns = np.concatenate((high - low - waited, waited, (stop - begin)[data]))
    row = np.concatenate((ender, ender, loaded))
    some = ns > 0
    cause, ns, row = cause[some], ns[some], row[some]
    comm = cause == idle_kind("sync")
    phase, role = taken(attribution.phase, row, OTHER_PHASE), taken(attribution.role, row, OTHER_ROLE)
    module = taken(attribution.module, row)
    blank = np.full(len(ns), NONE, dtype=np.int64)
    return (cause, phase, np.where(comm, ROLE["comm"], role), module, blank, blank), (ns, ns, np.ones_like(ns))


def free_of(slices: Slices, window: Window) -> tuple[Int64, Int64]:
    """The parts of the window that no slice covers, sorted."""
    low = np.concatenate(([window.start], slices.stop))
    high = np.concatenate((slices.begin, [window.end]))
    keep = high > low
    return low[keep], high[keep]


def waits_of(trace: Trace, attribution: Attribution, window: Window, low: Int64, high: Int64) -> Cover:
    """Time the gaps ``[low, high)`` spent waiting for collectives of other threads.

    A gap waits for a collective that ends inside it, or that lies in it by more than half: the thread that carries
    a collective closes its record a little after the main thread has gone on.
    """
    host = trace.host
    rows = elsewhere(trace, attribution, window) if len(low) else np.zeros(0, dtype=np.int64)
    rows = rows[attribution.names.collective[host.name[rows]] & (host.kind[rows] == HostKind.ANNOTATION)]
    start, end = host.start[rows], host.end[rows]
    last = np.searchsorted(low, end, side="left") - 1
    middle = np.searchsorted(low, (start + end) // 2, side="right") - 1
    begin, stop = [], []
    for gap, by_half in ((last, False), (middle, True)):
        known = gap != NONE
        s, e, at = start[known], end[known], gap[known]
        from_, to = np.maximum(s, low[at]), np.minimum(e, high[at])
        hit = 2 * (to - from_) > e - s if by_half else e <= high[at]
        begin.append(from_[hit])
        stop.append(to[hit])
    return union(np.concatenate(begin), np.concatenate(stop))


def _overlap(trace: Trace, attribution: Attribution, window: Window, begin: Int64, stop: Int64) -> tuple[Overlap, ...]:
    """Ops of other threads that ran while the main thread was busy."""
    host = trace.host
    rows = elsewhere(trace, attribution, window)
    rows = rows[host.kind[rows] == HostKind.OP]
    ns = int(union(host.start[rows], host.end[rows]).measure(begin, stop).sum())
    return (Overlap(over="compute", under="compute", ns=ns),) if ns else ()
