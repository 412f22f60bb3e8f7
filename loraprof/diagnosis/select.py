"""Which part of a step would go away, and what is it worth? Masks over a ledger, and their unprofiled time.

    worth = exclusive time of the chosen entries + their share of the idle time before the same module's entries

in unprofiled ns. ``low`` and ``high`` are the least and the largest worth over the recorded steps, at the two ends of
the interval of the unprofiled median: the two inputs that are known to vary.
"""

import re
from collections.abc import Callable

import numpy as np

from loraprof.analysis.partition.ledger import Ledger, idle_kind
from loraprof.diagnosis.case import Case, TimedLedger
from loraprof.diagnosis.worth import Taken, Worth
from loraprof.model.recording import ModuleInfo
from loraprof.model.trace import Bool, among, named
from loraprof.model.vocabulary import PHASE, ROLE, Cause, Phase, Role

Select = Callable[[Ledger], Bool]


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
    return lambda ledger: among(ledger.module, wanted)


def within(case: Case, pattern: str) -> Select:
    """Busy entries whose op is, or was called by, an op whose name matches."""
    trace = case.analysis.trace
    return of_rows(case, named(trace.names, re.compile(pattern).search)[trace.host.name])


def of_rows(case: Case, flag: Bool) -> Select:
    """Busy entries whose op is, or was called by, a flagged host row."""
    above = case.analysis.attribution.tree.nearest(flag)

    def select(ledger: Ledger) -> Bool:
        found: Bool = ledger.busy & (ledger.op >= 0)
        return found & (above[np.maximum(ledger.op, 0)] >= 0) if len(above) else found & False

    return select


def both(first: Select, second: Select) -> Select:
    return lambda ledger: first(ledger) & second(ledger)


def either(first: Select, second: Select) -> Select:
    return lambda ledger: first(ledger) | second(ledger)


def without(first: Select) -> Select:
    return lambda ledger: ~first(ledger)


def busy_ns(case: Case, select: Select) -> int:
    """Exclusive busy time of the chosen entries in the step, without the profiler where that is known."""
    ledger = case.reported
    return int(ledger.ns[select(ledger) & ledger.busy].sum())


def total_ns(case: Case, select: Select) -> int:
    """Time of the chosen entries in the step, idle included, without the profiler where that is known."""
    return int(case.reported.ns[select(case.reported)].sum())


def worth(case: Case, select: Select, waiting: bool = True) -> Worth | None:
    """None without an unprofiled time. ``waiting=False``: the work becomes less and its launches stay, so that the idle
    time before them does."""
    unprofiled = case.timing.unprofiled
    if unprofiled is None or not case.timed:
        return None
    values = {id(t.ledger): _worth(t, select(t.ledger), waiting) for t in case.timed}
    low, high = unprofiled.low_ns / unprofiled.median_ns, unprofiled.high_ns / unprofiled.median_ns
    own = reported(case)
    edit = _taken(own, select(own.ledger), waiting)
    return Worth(values[id(own.ledger)], min(values.values()) * low, max(values.values()) * high, edit=edit)


def at_most(case: Case, ns: float) -> Worth | None:
    """Where what goes is a wait, and another one may take its place; None without an unprofiled time."""
    return Worth(ns, 0.0, ns) if case.timing.unprofiled else None


def reported(case: Case) -> TimedLedger:
    """The reported step; there is one where ``case.timed`` has any."""
    return next(timed for timed in case.timed if timed.ledger is case.reported)


def _worth(timed: TimedLedger, chosen: Bool, waiting: bool) -> float:
    """The chosen entries, and their share (by count) of the idle time before their (module, phase, role)."""
    return saved_ns(timed, _taken(timed, chosen, waiting))


def _taken(timed: TimedLedger, chosen: Bool, waiting: bool) -> Taken:
    busy = chosen & timed.ledger.busy
    return Taken(
        (chosen if waiting else busy).astype(np.float64), (busy if waiting else busy & False).astype(np.float64)
    )


def saved_ns(timed: TimedLedger, taken: Taken) -> float:
    """What the step is shorter without what is taken: of idle time what was chosen itself, or the share of the launches
    behind it that go, whichever is more."""
    before = np.bincount(timed.group, np.where(timed.ledger.busy, taken.launch, 0.0), minlength=len(timed.entries))
    share = np.divide(before, timed.entries, out=np.zeros_like(before), where=timed.entries > 0)
    return float((timed.ns * np.where(timed.ledger.busy, taken.time, np.maximum(taken.time, share[timed.group]))).sum())
