"""What do the devices say to each other in a step: which collectives, how large, how long, and how much is exposed?

Exposed is the time of the step that a collective owns alone: on a device nothing but communication ran and this record
started first (the partition's own rule), on a CPU the main thread waited for it. Hidden is the rest of the time in
which no collective that started earlier ran: two that overlap hide each other from nobody. The exposed times add up to
the step's exposed communication, and with the hidden ones to the time in which any collective ran.
"""

from typing import Final

import numpy as np
from msgspec import Struct

from loraprof.analysis.analyse import Analysis
from loraprof.analysis.partition.cpu import free_of, slices_of, waits_of
from loraprof.analysis.partition.ledger import Ledger
from loraprof.analysis.ranks.gloo import ran
from loraprof.analysis.ranks.messages import KINDS, kind_of, size_of
from loraprof.analysis.trace.intervals import owned
from loraprof.model.report import Step
from loraprof.model.trace import NONE, Bool, Collective, Group, Int64, Trace
from loraprof.model.vocabulary import DeviceClass

UNKNOWN: Final = -1


class Collectives(Struct, frozen=True, eq=False):
    """One step's collectives, by start, those that run into it included; ``UNKNOWN`` where the trace does not say."""

    kind: Int64  # -> messages.KINDS
    start: Int64  # ns, this trace's clock
    end: Int64
    exposed: Int64  # ns
    hidden: Int64  # ns, by computation
    nbytes: Int64  # S of nccl-tests
    group: Int64  # -> groups
    sequence: Int64  # of the group
    began: Bool  # in this step: each collective counts once
    groups: tuple[Group, ...]

    def __len__(self) -> int:
        return len(self.kind)

    def of(self, *kinds: str) -> Int64:
        """Rows of these kinds that began in the step."""
        return np.flatnonzero(self.began & np.isin(self.kind, [KINDS.index(kind) for kind in kinds]))


def exposed_ns(step: Step, on_gpu: bool) -> int:
    """Time of a step in which nothing but communication ran; on a CPU in which it was waited for."""
    return step.ns(kind="busy", class_="comm") if on_gpu else step.ns(kind="idle", role="comm", cause="sync")


def collectives_of(analysis: Analysis, ledger: Ledger) -> Collectives:
    """Those that share time with one step."""
    return _on_device(analysis, ledger) if analysis.on_gpu else _on_cpu(analysis, ledger)


def _on_device(analysis: Analysis, ledger: Ledger) -> Collectives:
    trace, work, window = analysis.trace, analysis.work, ledger.window
    assert work is not None
    near = work.overlapping(window)  # the ledger's first entries are these records
    at = np.flatnonzero(work.kind[near] == DeviceClass.COMM)
    rows = work.rows[near[at]]
    device, known = trace.device, trace.collectives
    groups = _Groups(trace)
    columns = []
    for row in rows.tolist():
        told = known[int(device.collective[row])] if device.collective[row] != NONE else None
        named = told.name if told and told.name else trace.names[int(device.name[row])]
        size = size_of(told) if told else None
        sequence = told.sequence if told else None
        columns.append((kind_of(named), _known(size), groups.of(told) if told else UNKNOWN, _known(sequence)))
    kind, nbytes, group, number = _columns(columns)
    exposed, start, end = ledger.ns[at], device.start[rows], device.end[rows]
    begin, stop = owned(np.maximum(start, window.start), np.minimum(end, window.end))
    began = (start >= window.start) | window.first
    return Collectives(kind, start, end, exposed, stop - begin - exposed, nbytes, group, number, began, groups.all)


def _on_cpu(analysis: Analysis, ledger: Ledger) -> Collectives:
    trace, window = analysis.trace, ledger.window
    groups = _Groups(trace)
    only = groups.only()
    found = [one for one in ran(trace, groups.all[only] if only != NONE else None) if _inside(trace, one.row, ledger)]
    rows = np.array([one.row for one in found], np.int64)
    start, end = trace.host.start[rows], trace.host.end[rows]
    low, high = free_of(slices_of(trace, analysis.attribution, window), window)
    waits = waits_of(trace, analysis.attribution, window, low, high)
    begin, stop = owned(np.maximum(start, window.start), np.minimum(end, window.end))
    exposed = waits.measure(begin, stop)
    kind, nbytes, group, sequence = _columns([(one.kind, _known(one.nbytes), only, UNKNOWN) for one in found])
    began = start >= window.start
    return Collectives(kind, start, end, exposed, stop - begin - exposed, nbytes, group, sequence, began, groups.all)


def _inside(trace: Trace, row: int, ledger: Ledger) -> bool:
    return bool(trace.host.start[row] < ledger.window.end and trace.host.end[row] > ledger.window.start)


class _Groups:
    """Process groups: those the file lists, then those its collectives name besides; the same for every step."""

    def __init__(self, trace: Trace) -> None:
        known = {group.name: group for group in trace.groups}
        for one in trace.collectives:
            known.setdefault(one.group, Group(one.group, one.group_size))
        self.all = tuple(known.values())
        self._at = {name: i for i, name in enumerate(known)}

    def of(self, told: Collective) -> int:
        return self._at[told.group]

    def only(self) -> int:
        """The group of a trace that has but one."""
        return 0 if len(self.all) == 1 else UNKNOWN


def _known(value: int | None) -> int:
    return UNKNOWN if value is None else value


def _columns(rows: list[tuple[int, int, int, int]]) -> tuple[Int64, Int64, Int64, Int64]:
    table = np.array(rows, np.int64).reshape(len(rows), 4)
    return table[:, 0], table[:, 1], table[:, 2], table[:, 3]
