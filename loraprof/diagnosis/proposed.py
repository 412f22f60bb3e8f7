"""Which changes would one try first? Of each cause the one that gains most."""

from collections.abc import Collection, Sequence
from typing import Final

from loraprof import units
from loraprof.model.finding import Finding, RemedyKind, RemedyReport

SAME: Final[tuple[RemedyKind, ...]] = ("same_training", "numerics", "data")
OTHERWISE: Final[tuple[RemedyKind, ...]] = ("other_training", "hardware")
LEAST: Final = 1.005

Proposed = tuple[Finding, RemedyReport]


def best(findings: Sequence[Finding], kinds: Collection[RemedyKind]) -> list[Proposed]:
    """Of these kinds, per cause; by gain, those whose interval leaves it open and unknown ones last."""
    found = []
    for finding in (f for f in findings if f.is_cause):
        remedies = [r for r in finding.remedies if r.kind in kinds]
        if remedies:
            found.append((finding, max(remedies, key=lambda r: r.gain_ns)))
    return sorted(found, key=lambda pair: (_undecided(pair[1]), -pair[1].gain_ns))


def gains(remedy: RemedyReport) -> bool:
    return remedy.gain is not None and remedy.gain.speedup > LEAST


def _undecided(remedy: RemedyReport) -> bool:
    return remedy.gain is None or not units.is_known(remedy.gain.low, remedy.gain.high)
