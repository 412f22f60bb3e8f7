"""Which part of a step would go away, and what is it worth? Masks over a ledger, and their unprofiled time.

    worth = exclusive time of the chosen entries + their share of the idle time before the same module's entries

in unprofiled ns. ``low`` and ``high`` are the least and the largest worth over the recorded steps, at the two ends of
the interval of the unprofiled median: the two inputs that are known to vary.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from loraprof.analysis.partition.ledger import Ledger, idle_kind
from loraprof.diagnosis.case import Case, TimedLedger, gain
from loraprof.model.recording import ModuleInfo
from loraprof.model.report import Gain
from loraprof.model.trace import Bool
from loraprof.model.vocabulary import PHASE, ROLE, Cause, Phase, Role

Select = Callable[[Ledger], Bool]


@dataclass(frozen=True, slots=True)
class Worth:
    """Unprofiled ns of one step."""

    ns: float
    low: float
    high: float

    def times(self, factor: float, low: float | None = None, high: float | None = None) -> "Worth":
        """Scaled; the ends by factors of their own where given."""
        ends = (factor if low is None else low), (factor if high is None else high)
        return Worth(self.ns * factor, self.low * ends[0], self.high * ends[1])

    def plus(self, other: "Worth") -> "Worth":
        return Worth(self.ns + other.ns, self.low + other.low, self.high + other.high)


def roles(*names: Role, phase: Phase | None = None) -> Select:
    """Entries of these roles, idle ones included."""
    wanted = [ROLE[n] for n in names]

    def select(ledger: Ledger) -> Bool:
        found: Bool = np.isin(ledger.role, wanted)
        return found & (ledger.phase == PHASE[phase]) if phase else found

    return select


def phase(name: Phase) -> Select:
    return lambda ledger: ledger.phase == PHASE[name]


def idle(*causes: Cause, above_ns: int = 0, upto_ns: int | None = None) -> Select:
    """Idle entries of these causes, longer than ``above_ns`` and no longer than ``upto_ns`` each."""
    kinds = [idle_kind(c) for c in causes]
    most = np.iinfo(np.int64).max if upto_ns is None else upto_ns
    return lambda ledger: np.isin(ledger.kind, kinds) & (ledger.ns > above_ns) & (ledger.ns <= most)


def modules(case: Case, test: Callable[[ModuleInfo], bool]) -> Select:
    """Entries of the modules that pass, forward and backward, idle ones included. Nothing without a recording."""
    table = case.recording.modules if case.recording else []
    wanted = [i for i, m in enumerate(table) if test(m)]
    return lambda ledger: np.isin(ledger.module, wanted)


def within(case: Case, pattern: str) -> Select:
    """Busy entries whose op is, or was called by, an op whose name matches."""
    return of_rows(case, np.array([bool(re.search(pattern, n)) for n in case.analysis.trace.names] or [False])[
        case.analysis.trace.host.name
    ])  # fmt: skip


def of_rows(case: Case, flag: Bool) -> Select:
    """Busy entries whose op is, or was called by, a flagged host row."""
    above = case.analysis.who.tree.nearest(flag)

    def select(ledger: Ledger) -> Bool:
        found: Bool = ledger.busy & (ledger.op >= 0)
        return found & (above[np.maximum(ledger.op, 0)] >= 0) if len(above) else found & False

    return select


def both(first: Select, second: Select) -> Select:
    return lambda ledger: first(ledger) & second(ledger)


def either(first: Select, second: Select) -> Select:
    return lambda ledger: first(ledger) | second(ledger)


def busy_ns(case: Case, select: Select) -> int:
    """Exclusive busy time of the chosen entries in the reported step, profiled ns."""
    ledger = case.ledger
    return int(ledger.ns[select(ledger) & ledger.busy].sum())


def total_ns(case: Case, select: Select) -> int:
    """Time of the chosen entries in the reported step, idle included, profiled ns."""
    return int(case.ledger.ns[select(case.ledger)].sum())


def worth(case: Case, select: Select) -> Worth | None:
    """None without an unprofiled time."""
    unprofiled = case.timing.unprofiled
    if unprofiled is None or not case.timed:
        return None
    values = {id(t.ledger): _worth(t, select(t.ledger)) for t in case.timed}
    low, high = unprofiled.low_ns / unprofiled.median_ns, unprofiled.high_ns / unprofiled.median_ns
    reported = case.ledger if case.unprofiled is None else case.unprofiled
    return Worth(values[id(reported)], min(values.values()) * low, max(values.values()) * high)


def _worth(timed: TimedLedger, chosen: Bool) -> float:
    """The chosen entries, and their share (by count) of the idle time before their (module, phase, role)."""
    ledger, entries = timed.ledger, timed.entries
    mine = np.bincount(timed.group, ledger.busy & chosen, minlength=len(entries))
    share = np.divide(mine, entries, out=np.zeros_like(mine), where=entries > 0)
    waiting = ~ledger.busy & ~chosen
    return float(timed.ns[chosen].sum() + (timed.ns[waiting] * share[timed.group[waiting]]).sum())


def scaled(value: Worth | None, factor: float, low: float, high: float) -> Worth | None:
    return value.times(factor, low, high) if value is not None else None


def gain_of(case: Case, saved: Worth | None) -> Gain | None:
    return gain(case, saved.ns, saved.low, saved.high) if saved is not None else None
