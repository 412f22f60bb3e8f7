"""What a report finds: its evidence, what a change gains and what to change."""

from typing import Literal

import msgspec

GainBasis = Literal["model", "replay", "measured", "assumed"]
RemedyKind = Literal["same_training", "numerics", "other_training", "data", "hardware"]
Severity = Literal["info", "minor", "major", "blocker"]


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    what: str
    value: float | int | str | None
    unit: str


class Gain(msgspec.Struct, frozen=True, kw_only=True):
    """What a change saves of the step without the profiler, and the speed-up with its interval. ``basis``: measured;
    replayed launches; a model of this recording's bytes, FLOPs and times; or assumed, a range from ``source``."""

    ns: int
    speedup: float
    low: float
    high: float
    basis: GainBasis
    source: str | None = None


class RemedyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What to change. ``stack``: the library or trainer that the text is written for; ``arm``: what
    ``compare`` or ``fix`` calls the change where they can make it in process, None where they cannot."""

    kind: RemedyKind
    stack: str
    text: str
    arm: str | None = None
    gain: Gain | None = None

    @property
    def gain_ns(self) -> int:
        """For an order: 0 where it is not known."""
        return self.gain.ns if self.gain else 0


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    severity: Severity
    title: str
    evidence: list[Evidence]
    remedy: str  # the text of the first of ``remedies``
    gain: Gain | None = None
    see: list[str] = []
    remedies: list[RemedyReport] = []
    gate: bool = False  # about whether the numbers mean what they seem to mean

    @property
    def is_cause(self) -> bool:
        """Whether it says where time goes, and more than for information: of the gates, what gains."""
        return self.severity != "info" and (self.gain is not None or not self.gate)
