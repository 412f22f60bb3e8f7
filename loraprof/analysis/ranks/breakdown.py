"""What of one rank is needed to compare it with the others? A few kilobytes, however long its trace.

Per step: the window, the partition as cells (class or cause, phase, role), and the collectives. A rank's own work is
its window less the exposed communication: waiting for a slower rank is communication time, so the rank with the most
own work is the one the others wait for. Collectives are the first of each step, ``MOST_COLLECTIVES`` in all.
"""

from hashlib import sha256
from typing import Final

import numpy as np
from msgspec import Struct

from loraprof.analysis.analyse import Analysis
from loraprof.analysis.partition.ledger import Ledger, idle_kind
from loraprof.analysis.ranks.collectives import Collectives, collectives_of
from loraprof.model.recording import Recording
from loraprof.model.trace import Bool, Group, Int64
from loraprof.model.vocabulary import CAUSES, CLASSES, PHASES, ROLE, ROLES, DeviceClass, Phase, Role

MOST_STEPS: Final = 16
MOST_COLLECTIVES: Final = 1024


class Cell(Struct, frozen=True):
    """One place in a partition; ``what`` is a class of busy time or a cause of idle time."""

    busy: bool
    what: str
    phase: Phase
    role: Role


class Members(Struct, frozen=True):
    """A process group, told from others of its name by its ranks; a list of them would grow with the run."""

    name: str
    size: int | None
    ranks: str  # digest; empty where the file does not list them
    joined: bool  # this rank is one of them, as far as the file says


class Calls(Struct, frozen=True, eq=False):
    """Collectives that began in one step, on the clock of the machine, epoch ns."""

    kind: Int64  # -> messages.KINDS
    start: Int64
    end: Int64
    group: Int64  # -> RankBreakdown.groups, -1 unknown
    sequence: Int64  # -1 unknown
    exposed: Int64  # ns of the step in which nothing but this went on
    whole: int  # how many the step had

    def __len__(self) -> int:
        return len(self.kind)


class StepBreakdown(Struct, frozen=True, eq=False):
    """One step of one rank. ``cell`` holds keys for ``cell_of``, ascending; ``ns`` their time: the window, in all."""

    name: str
    wall_ns: int
    cell: Int64
    ns: Int64
    overlapped_comm_ns: int
    calls: Calls

    def total(self, *, busy: bool | None = None, phase: Phase | None = None) -> int:
        """Time of the cells that are busy (or not) and of a phase."""
        use = np.ones(len(self.cell), np.bool_)
        if busy is not None:
            use &= (self.cell // _PER_KIND < len(CLASSES)) == busy
        if phase is not None:
            use &= self.cell // len(ROLES) % len(PHASES) == PHASES.index(phase)
        return int(self.ns[use].sum())

    @property
    def exposed(self) -> Bool:
        """Which cells are communication that nothing hides."""
        kind, role = self.cell // _PER_KIND, self.cell % len(ROLES)
        found: Bool = (kind == DeviceClass.COMM) | (kind == idle_kind("sync")) & (role == ROLE["comm"])
        return found

    @property
    def exposed_comm_ns(self) -> int:
        return int(self.ns[self.exposed].sum())

    @property
    def own_ns(self) -> int:
        return self.wall_ns - self.exposed_comm_ns

    def own_in(self, phase: Phase) -> int:
        """Own work of one phase; over all phases it adds up to ``own_ns``."""
        return int(self.ns[~self.exposed & (self.cell // len(ROLES) % len(PHASES) == PHASES.index(phase))].sum())


class RankBreakdown(Struct, frozen=True, eq=False):
    """One rank. The identity fields are None where no recording says."""

    rank: int
    trace: str  # name of its file
    device: str  # "cuda" or "cpu"
    groups: tuple[Members, ...]
    steps: tuple[StepBreakdown, ...]
    launch: str | None = None
    first_step: int | None = None
    world: int | None = None
    machine: str | None = None  # ranks with the same have the same clock

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(step.name for step in self.steps)

    def step(self, name: str) -> StepBreakdown:
        return next(step for step in self.steps if step.name == name)


_PER_KIND: Final = len(PHASES) * len(ROLES)


def cell_of(key: int) -> Cell:
    kind, rest = divmod(key, _PER_KIND)
    phase, role = divmod(rest, len(ROLES))
    busy = kind < len(CLASSES)
    what = CLASSES[kind] if busy else CAUSES[kind - len(CLASSES)]
    return Cell(busy, what, PHASES[phase], ROLES[role])


def breakdown_of(rank: int, name: str, analysis: Analysis, recording: Recording | None) -> RankBreakdown:
    """Of the steps that hold work, or else time, the first ``MOST_STEPS``."""
    working = [i for i, step in enumerate(analysis.steps) if step.ns(kind="busy")]
    chosen = (working or [i for i, step in enumerate(analysis.steps) if step.wall_ns])[:MOST_STEPS]
    most = MOST_COLLECTIVES // max(len(chosen), 1)
    found = [collectives_of(analysis, analysis.ledgers[i]) for i in chosen]
    base_ns = analysis.trace.base_ns or 0
    groups = found[0].groups if found else ()
    steps = tuple(_step(analysis, i, one, base_ns, most) for i, one in zip(chosen, found, strict=True))
    around = recording.environment if recording else None
    return RankBreakdown(
        rank=rank,
        trace=name,
        device="cuda" if analysis.on_gpu else "cpu",
        groups=tuple(_members(group, rank) for group in groups),
        steps=steps,
        launch=around.launch or None if around else None,
        first_step=recording.first_step if recording else None,
        world=around.world_size if around else analysis.trace.world_size,
        machine=around.machine or None if around else None,
    )


def _members(group: Group, rank: int) -> Members:
    digest = sha256(repr(group.ranks).encode()).hexdigest()[:12] if group.ranks else ""
    return Members(group.name, group.size, digest, not group.ranks or rank in group.ranks)


def _step(analysis: Analysis, index: int, found: Collectives, base_ns: int, most: int) -> StepBreakdown:
    step, ledger = analysis.steps[index], analysis.ledgers[index]
    cell, ns = _cells(ledger)
    on_cpu = not analysis.on_gpu
    return StepBreakdown(
        name=step.name,
        wall_ns=step.wall_ns,
        cell=cell,
        ns=ns,
        overlapped_comm_ns=sum(o.ns for o in step.overlap if o.under == "comm") + on_cpu * int(found.hidden.sum()),
        calls=_calls(found, base_ns, most),
    )


def _calls(found: Collectives, base_ns: int, most: int) -> Calls:
    at = np.flatnonzero(found.began)
    whole, at = len(at), at[:most]
    return Calls(
        kind=found.kind[at],
        start=found.start[at] + base_ns,
        end=found.end[at] + base_ns,
        group=found.group[at],
        sequence=found.sequence[at],
        exposed=found.exposed[at],
        whole=whole,
    )


def _cells(ledger: Ledger) -> tuple[Int64, Int64]:
    key = (ledger.kind * len(PHASES) + ledger.phase) * len(ROLES) + ledger.role
    cell, inverse = np.unique(key, return_inverse=True)
    ns = np.zeros(len(cell), np.int64)
    np.add.at(ns, inverse, ledger.ns)
    return cell.astype(np.int64), ns
