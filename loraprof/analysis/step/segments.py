"""When was the step in which state? The partition as pieces in time order, for timelines.

The pieces of a window are disjoint and together exactly the window; summed by (kind, phase, role) they are its
partition to the nanosecond. A device gap runs in the order of the partition's rule: turnaround then queued, or the
states of the launching thread, the launch call, the latency.
"""

from collections.abc import Iterator

import numpy as np
from msgspec import Struct

from loraprof.analysis.analyse import Analysis
from loraprof.analysis.attribution.attribute import Attribution
from loraprof.analysis.partition.cpu import free_of, slices_of, waits_of
from loraprof.analysis.partition.gpu import DeviceWork, device_work, gaps_of
from loraprof.analysis.partition.host_state import PYTHON, Timeline, idle_causes, states_of
from loraprof.analysis.partition.ledger import OTHER_PHASE, OTHER_ROLE, Ledger, idle_kind
from loraprof.analysis.trace.intervals import cover_of_disjoint, gaps, meet, owned, union
from loraprof.analysis.trace.step_windows import Window, windows
from loraprof.model.trace import NONE, Int64, Ints, Trace, distinct
from loraprof.model.vocabulary import CAUSES, CLASSES, PHASES, ROLE, ROLES, Cause, DeviceClass

FAR = np.int64(2**62)

Pieces = tuple[Int64, Int64, Ints, Ints, Ints]  # start, end, kind, phase, role


class Segments(Struct, frozen=True, eq=False):
    """One window of one track in time order; ``kind``, ``phase`` and ``role`` as in Ledger. ``device`` -1: the CPU."""

    window: Window
    device: int
    start: Int64  # ns
    end: Int64
    kind: Ints
    phase: Ints
    role: Ints

    @property
    def track(self) -> str:
        """The step's name, with its device where that is not the CPU."""
        return self.window.name if self.device < 0 else f"{self.window.name} on GPU {self.device}"

    def rows(self) -> Iterator[tuple[int, int, str, dict[str, str]]]:
        """(start, end, label, details): the role of busy time, the cause of idle time."""
        columns = (self.start, self.end, self.kind, self.phase, self.role)
        for start, end, kind, phase, role in zip(*(c.tolist() for c in columns), strict=True):
            details = {"phase": PHASES[phase], "role": ROLES[role]}
            if kind < len(CLASSES):
                yield start, end, ROLES[role], {"kind": "busy", "class": CLASSES[kind], **details}
            else:
                cause = CAUSES[kind - len(CLASSES)]
                yield start, end, f"idle: {cause}", {"kind": "idle", "cause": cause, **details}


def segments(analysis: Analysis) -> Iterator[Segments]:
    """Every step of every device; of the main device first. Pieces of equal state that touch are one."""
    trace = analysis.trace
    if analysis.work is None:
        for ledger in analysis.ledgers:
            pieces = _unread(ledger) if analysis.unread else _cpu(trace, analysis.attribution, ledger.window)
            yield _segments(ledger.window, NONE, pieces)
        return
    states = states_of(trace, analysis.links, analysis.marks.thread)
    device = trace.device.device
    for index in (int(device[analysis.work.rows[0]]), *analysis.others):
        work = device_work(trace, analysis.links, analysis.attribution, device == index, analysis.graphs)
        for window in windows(analysis.marks, trace, analysis.links, device == index):
            yield _segments(window, index, _device(trace, work, window, states, analysis.tau_ns))


def device_segments(
    trace: Trace, work: DeviceWork, window: Window, states: dict[int, Timeline], tau: int, device: int
) -> Segments:
    """One window of a device's records, wherever they stand."""
    return _segments(window, device, _device(trace, work, window, states, tau))


def _segments(window: Window, device: int, pieces: Pieces) -> Segments:
    order = np.argsort(pieces[0], kind="stable")
    start, end = (column[order] for column in pieces[:2])
    state = [column[order] for column in pieces[2:]]
    fresh = np.ones(len(start), np.bool_)
    fresh[1:] = np.any([column[1:] != column[:-1] for column in state], axis=0)
    last = np.append(fresh[1:], True)[: len(start)]
    return Segments(window, device, start[fresh], end[last], *(column[fresh] for column in state))


def _device(trace: Trace, work: DeviceWork, window: Window, states: dict[int, Timeline], tau: int) -> Pieces:
    near = work.overlapping(window)
    start, end = np.maximum(work.start[near], window.start), np.minimum(work.end[near], window.end)
    out, above = [], cover_of_disjoint(np.zeros(0, np.int64), np.zeros(0, np.int64))
    for cls in range(len(CLASSES)):
        of_class = np.flatnonzero(work.kind[near] == cls)
        of_class = of_class[np.argsort(start[of_class], kind="stable")]
        s, e, row, _ = meet(*owned(start[of_class], end[of_class]), *gaps(above, window.start, window.end))
        at = near[of_class[row]]
        out.append((s, e, work.kind[at], work.phase[at], work.role[at]))
        above = union(np.concatenate((above.start, start[of_class])), np.concatenate((above.end, end[of_class])))
    return _joined([*out, *_idle(trace, work, *gaps(above, window.start, window.end), states, tau)])


def _idle(
    trace: Trace, work: DeviceWork, low: Int64, high: Int64, states: dict[int, Timeline], tau: int
) -> Iterator[Pieces]:
    gap = gaps_of(trace, work, low, high)
    phase, role = gap.owner(work.phase, OTHER_PHASE), gap.owner(work.role, OTHER_ROLE)

    def pieces(cause: Cause, rows: Int64, start: Int64, end: Int64) -> Pieces:
        keep = end > start
        kind = np.full(int(keep.sum()), idle_kind(cause), np.int64)
        return start[keep], end[keep], kind, phase[rows][keep], role[rows][keep]

    rows = np.flatnonzero(gap.unknown)
    yield pieces("unknown", rows, low[rows], high[rows])
    rows = np.flatnonzero(gap.queued)
    turned = np.minimum(low[rows] + tau, high[rows])
    yield pieces("turnaround", rows, low[rows], turned)
    yield pieces("queued", rows, turned, high[rows])
    rows = np.flatnonzero(~gap.unknown & ~gap.queued)
    yield pieces("launch_api", rows, gap.call[rows], gap.called[rows])
    yield pieces("launch_latency", rows, gap.called[rows], high[rows])
    kinds = np.array([idle_kind(cause) for cause in idle_causes(trace)], np.int64)
    thread = trace.host.thread[gap.launch[rows]]
    for one in distinct(thread).tolist():
        of_class = rows[thread == one]
        edges = np.concatenate(([-FAR], states[one].at, [FAR]))
        state = np.concatenate(([PYTHON], states[one].state))
        start, end, at, during = meet(low[of_class], gap.call[of_class], edges[:-1], edges[1:])
        yield start, end, kinds[state[during]], phase[of_class[at]], role[of_class[at]]


def _cpu(trace: Trace, attribution: Attribution, window: Window) -> Pieces:
    slices = slices_of(trace, attribution, window)
    low, high = free_of(slices, window)
    waits = waits_of(trace, attribution, window, low, high)
    work, data = ~slices.data, slices.data
    phases, roles = (
        np.append(attribution.phase, OTHER_PHASE).astype(np.int64),
        np.append(attribution.role, OTHER_ROLE).astype(np.int64),
    )
    busy = slices.owner[work]
    kind = np.full(len(busy), int(DeviceClass.COMPUTE), np.int64)
    out: list[Pieces] = [(slices.begin[work], slices.stop[work], kind, phases[busy], roles[busy])]

    def idle(cause: Cause, start: Int64, end: Int64, ender: Int64) -> Pieces:
        kind = np.full(len(start), idle_kind(cause), np.int64)
        role = np.full(len(start), ROLE["comm"], np.int64) if cause == "sync" else roles[ender]
        return start, end, kind, phases[ender], role

    out.append(idle("data", slices.begin[data], slices.stop[data], slices.next_op(slices.begin[data])))
    causes: tuple[tuple[Cause, tuple[Int64, Int64]], ...] = (
        ("sync", (waits.start, waits.end)),
        ("python", gaps(waits, window.start, window.end)),
    )
    for cause, (s, e) in causes:
        start, end, row, _ = meet(low, high, s, e)
        out.append(idle(cause, start, end, slices.next_op(high[row])))
    return _joined(out)


def _unread(ledger: Ledger) -> Pieces:
    start = np.full(len(ledger.ns), ledger.window.start, np.int64)
    return start, start + ledger.ns, ledger.kind, ledger.phase, ledger.role


def _joined(parts: list[Pieces]) -> Pieces:
    start, end, kind, phase, role = (np.concatenate(column).astype(np.int64) for column in zip(*parts, strict=True))
    return start, end, kind, phase, role
