"""A known cause as one object: how it is seen, from where on, what helps, and what explains it away."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from msgspec import Struct, field

from loraprof.diagnosis.case import MAJOR, Case
from loraprof.diagnosis.catalogue import Entry, texts
from loraprof.diagnosis.remedy import Remedy, Values, in_order
from loraprof.diagnosis.worth import Worth
from loraprof.model.finding import Evidence, Finding, RemedyReport, Severity


class Family(Struct, frozen=True):
    """Rules about one part of a step. ``gate``: about whether the numbers mean what they seem to mean."""

    title: str
    gate: bool = False


COMPARABILITY = Family("can the runs be compared", gate=True)
ADAPTER = Family("the adapter's path")
HOST = Family("host and scheduling")
BASE = Family("the base model")
DEVICES = Family("several devices")
POWER = Family("clocks, power, memory")
LEVER = Family("is LoRA the right lever")


class Seen(Struct, frozen=True, kw_only=True):
    """What a rule's test saw. ``saved``: what the step would be shorter without the cause. The severity follows the
    gain unless given; without an unprofiled time, ``spent_ns`` of the profiled step. ``remedies``: those of the rule
    that may fit, all unless given; ``values``: what they ask for. The title is the catalogue's unless given."""

    evidence: list[Evidence]
    saved: Worth | None = None
    severity: Severity | None = None
    title: str | None = None
    spent_ns: int = 0
    remedies: Sequence[Remedy] = ()
    values: Values = field(default_factory=dict)


class Rule(Struct, frozen=True):
    """``test`` looks at one step, None where only two recordings together show the cause. ``thresholds`` are the
    numbers that the catalogue's signature names. Where a rule of ``explained_by`` is found too, this one says no more.
    ``bounds``: nothing is left to gain in that family, so its minor findings go. ``probe``: doubling this option of a
    workload tells the cause from others."""

    id: str
    family: Family
    test: Callable[[Case], Seen | None] | None
    remedies: tuple[Remedy, ...]
    thresholds: Mapping[str, float] = field(default_factory=dict)
    explained_by: "tuple[Rule, ...]" = ()
    bounds: Family | None = None
    probe: Literal["batch", "rank"] | None = None
    text: Entry | None = None  # the catalogue's where None

    @property
    def entry(self) -> Entry:
        """Its texts, with the thresholds filled in."""
        return (self.text or texts()[self.id]).filled(self.thresholds)

    def find(self, case: Case) -> Finding | None:
        """None where the step does not show the cause, the input does not allow to tell, or nothing that helps against
        it saves what could be told from nothing."""
        seen = self.test(case) if self.test else None
        if seen is None:
            return None
        known, unprofiled = self.entry, case.timing.unprofiled
        suiting = [r for r in seen.remedies or self.remedies if r.suits(case, seen.values)]
        paying = [r for r in suiting if seen.severity or r.pays(case, seen.values, seen.saved)]
        if suiting and not paying:
            return None
        remedies = in_order([r.report(case, seen.values, seen.saved) for r in paying]) or [self._in_words()]
        gain = max((r.gain for r in remedies if r.gain), key=lambda g: g.ns, default=None)
        spent = 0.0 if unprofiled else seen.spent_ns / case.wall_ns
        share = gain.ns / unprofiled.median_ns if gain and unprofiled else spent
        return Finding(
            id=self.id,
            severity=seen.severity or ("major" if share >= MAJOR else "minor"),
            title=seen.title or known.title,
            evidence=seen.evidence,
            remedy=remedies[0].text,
            gain=gain,
            see=list(known.sources),
            remedies=remedies,
            gate=self.family.gate,
        )

    def stated(self, severity: Severity, seen: list[Evidence]) -> Finding:
        """A finding about several recordings, in the catalogue's own words."""
        known = self.entry
        return Finding(
            id=self.id,
            severity=severity,
            title=known.title,
            evidence=seen,
            remedy=known.remedy,
            remedies=[self._in_words()],
            gate=self.family.gate,
        )

    def _in_words(self) -> RemedyReport:
        """What the catalogue says, where no remedy fits better."""
        return RemedyReport(kind=self.remedies[0].kind, stack="plain", text=self.entry.remedy)


def evidence(what: str, value: float | int | str | None, unit: str = "") -> Evidence:
    return Evidence(what=what, value=value, unit=unit)
