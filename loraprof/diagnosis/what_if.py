"""What would several changes give together? Their edits applied to the same replayed step, for every set of them.

What two changes take of the same work counts once: the larger share. Where one of a set changes how the host launches
(fewer launches, or a faster host), what is left of launches and records is replayed; else what is left of the replayed
step's partition is summed, as for one change alone. A set gains at least what any part of it does, and at most what
its changes would if none took of another's work.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property, reduce
from math import prod
from typing import Final

import numpy as np
from msgspec import Struct, structs
from msgspec.structs import replace

from loraprof.analysis.prediction.replayed import StepReplay
from loraprof.analysis.step.unprofiled import Floats
from loraprof.diagnosis.case import Case, TimedLedger, gain
from loraprof.diagnosis.judge import rule_of
from loraprof.diagnosis.proposed import OTHERWISE, SAME, Proposed, best, gains
from loraprof.diagnosis.select import reported, saved_ns
from loraprof.diagnosis.worth import HostEdit, Taken, Worth
from loraprof.model.finding import Finding, Gain, GainBasis
from loraprof.model.trace import Int64
from loraprof.model.what_if import Choice, Outcome, WhatIf

MOST: Final = 8  # changes: 256 sets
VISITS: Final = 2_000_000  # of calls in all replays, a second or two
LEAST_SURE: Final[tuple[GainBasis, ...]] = ("assumed", "model", "replay", "measured")


class _Offer(Struct, frozen=True):
    choice: Choice
    gain: Gain
    worth: Worth | None


def what_if(case: Case, findings: Sequence[Finding]) -> WhatIf | None:
    """None where there are not two changes that could be made together, or the unprofiled time is not known."""
    offers = list(_offers(case, findings))
    together = [o for o in offers if o.choice.apart is None][: _room(case, offers)]
    if len(together) < 2 or case.timing.unprofiled is None:
        return None
    step_ns, step = case.timing.unprofiled.median_ns, _Edited(reported(case), case.replay)
    outcomes: list[Gain | None] = [None]
    for chosen in range(1, 1 << len(together)):
        members = [o for i, o in enumerate(together) if chosen >> i & 1]
        parts = [outcomes[chosen & ~(1 << i)] for i in range(len(together)) if chosen >> i & 1]
        floor = max((part.ns for part in parts if part), default=0)
        outcomes.append(members[0].gain if len(members) == 1 else _combined(case, step, members, floor))
    return WhatIf(
        [o.choice for o in together],
        [_outcome(step_ns, one) for one in outcomes],
        [(o.choice, _outcome(step_ns, o.gain)) for o in offers if o.choice.apart is not None],
    )


def _offers(case: Case, findings: Sequence[Finding]) -> Iterable[_Offer]:
    """The changes that gain, as they are proposed; one that helps against two causes once."""
    seen: set[str] = set()
    proposed = [pair for kinds in (SAME, OTHERWISE) for pair in best(findings, kinds) if gains(pair[1])]
    for finding, remedy in proposed:
        if remedy.gain is None or (remedy.arm or remedy.text) in seen:
            continue
        seen.add(remedy.arm or remedy.text)
        worth = _worth(case, (finding, remedy))
        choice = Choice(finding.id, finding.title, remedy.kind, remedy.text, _apart(remedy.arm, worth))
        yield _Offer(choice, remedy.gain, worth)


def _worth(case: Case, proposed: Proposed) -> Worth | None:
    """Of the remedy behind a report's."""
    finding, wanted = proposed
    rule = rule_of(finding)
    seen = rule.test(case) if rule.test else None
    if seen is None:
        return None
    suiting = (r for r in seen.remedies or rule.remedies if r.suits(case, seen.values))
    fitting = (r for r in suiting if r.report(case, seen.values, seen.saved) == wanted)
    return next((r.worth(case, seen.values, seen.saved) for r in fitting), None)


def _apart(arm: str | None, worth: Worth | None) -> str | None:
    if arm == "full":
        return "another training: there is no adapter then for the other changes to act on"
    if worth is None or worth.edit is None:
        return "its gain is known as one sum of time, not as work or launches of this step that would go"
    return None


def _room(case: Case, offers: Sequence[_Offer]) -> int:
    """How many changes can be combined in bounded time; replays cost, sums do not."""
    if case.replay is None or not any(o.worth and isinstance(o.worth.edit, HostEdit) for o in offers):
        return MOST
    visits = 2 * len(case.replay.role)  # two steps each
    return next(n for n in range(MOST, 1, -1) if n == 2 or visits << n <= VISITS)


def _combined(case: Case, step: "_Edited", members: Sequence[_Offer], floor_ns: int) -> Gain | None:
    """With the relative interval of its parts, and as sure as the least sure of them."""
    worths = [o.worth for o in members if o.worth is not None]
    ns = max(step.saved_ns([w.edit for w in worths if w.edit is not None]), float(floor_ns))
    total = sum(w.ns for w in worths)
    basis = min((w.basis for w in worths), key=LEAST_SURE.index)
    low, high = (ns * sum(ends) / total for ends in ([w.low for w in worths], [w.high for w in worths]))
    found = gain(case, Worth(ns, low, high, basis))
    return structs.replace(found, high=min(found.high, prod(o.gain.high for o in members))) if found else None


def _outcome(now: int, gained: Gain | None) -> Outcome:
    if gained is None:
        return Outcome(now, 1.0, 1.0, 1.0, None)
    return Outcome(max(now - gained.ns, 0), gained.speedup, gained.low, gained.high, gained.basis)


class _Edited(Struct, frozen=True, dict=True):
    """The reported step, and its replay where it has one."""

    timed: TimedLedger
    replay: StepReplay | None

    def saved_ns(self, edits: Sequence[Taken | HostEdit]) -> float:
        taken = [e for e in edits if isinstance(e, Taken)]
        host = [e for e in edits if isinstance(e, HostEdit)]
        none = np.zeros(len(self.timed.ns))
        less = reduce(_larger_shares, taken, Taken(none, none))
        if self.replay is None or not host:
            return saved_ns(self.timed, less)
        flags = [e.merged for e in host if e.merged is not None]
        merged = reduce(np.logical_or, flags) if flags else None
        return float(self._now_ns - self.replay.edited_ns(*self._records(less), merged, min(e.share for e in host)))

    @cached_property
    def _now_ns(self) -> int:
        assert self.replay is not None
        whole = np.ones(len(self._entry))
        return self.replay.edited_ns(whole, whole, None, 1.0)

    def _records(self, less: Taken) -> tuple[Floats, Floats]:
        """Per replayed record, what is left of its time and of its launch."""
        at = np.maximum(self._entry, 0)
        left, launched = (np.where(self._entry >= 0, np.clip(1 - x[at], 0, 1), 1) for x in (less.time, less.launch))
        return left, launched

    @cached_property
    def _entry(self) -> Int64:
        """Per replayed record its entry of the ledger, -1 none."""
        assert self.replay is not None
        place = {record: i for i, record in enumerate(self.timed.ledger.record.tolist()) if record >= 0}
        return np.array([place.get(record, -1) for record in self.replay.step.record.tolist()], dtype=np.int64)


def _larger_shares(first: Taken, second: Taken) -> Taken:
    return replace(first, time=np.maximum(first.time, second.time), launch=np.maximum(first.launch, second.launch))
