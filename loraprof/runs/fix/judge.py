"""What do the rounds say of a remedy? Its ratio with an interval, its loss beside the unchanged one's, its status.

Loss: the largest relative difference of any step to the unchanged run of the same round. "same" up to what two
unchanged runs differ by or to rounding, "close" up to 1 %. Where two unchanged runs differ by more than 0.1 % the
program is not repeatable: then the means of the runs are compared with the spread of the unchanged ones. Beside the
losses the norms of all gradients at one step must agree to a tenth: a short run's loss hides a gradient that is lost.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, stdev
from typing import Final

from loraprof import units
from loraprof.analysis.statistics import floor_of, three_way
from loraprof.comparison.ratios import Series, estimate
from loraprof.model.fix import LossChange, LossVerdict, Measured
from loraprof.runs.fix.job import Found
from loraprof.runs.fix.schedule import BASE, TWIN

ROUNDING: Final = 1e-5
CLOSE: Final = 1e-2
REPEATABLE: Final = 1e-3
GRADIENTS: Final = 0.1
TINY: Final = 1e-12

Rounds = Sequence[Mapping[str, Found]]


def measured(name: str, rounds: Rounds, to: str = BASE) -> Measured | None:
    """Against ``to``, over the rounds that hold both; None where there is none. Against the unchanged program: against
    the middle of its two runs in each round."""
    both = [r for r in rounds if {name, to, TWIN} <= r.keys()]
    if not both:
        return None
    own, base, twin, plain = (Series(tuple(tuple(r[key].times_ns) for r in both)) for key in (name, to, TWIN, BASE))
    floor = floor_of(estimate(twin, plain))
    found = estimate(own, _midway(plain, twin) if to == BASE else base)
    if len(both) == 1:  # its steps are of one moment: they differ by less than two runs do
        low, high = math.exp(found.low - floor), math.exp(found.high + floor)
        return Measured(ratio=found.ratio, low=low, high=high, verdict="undecided")
    return Measured(
        ratio=found.ratio, low=found.ratio_low, high=found.ratio_high, verdict=three_way(found, floor, minimum=8)
    )


def _midway(first: Series, last: Series) -> Series:
    """The unchanged program in the midst of each round, which began and ended with it: a drift of the machine goes."""
    blocks = (zip(a, b, strict=False) for a, b in zip(first.blocks, last.blocks, strict=True))
    return Series(tuple(tuple(round(math.sqrt(a * b)) for a, b in block) for block in blocks))


def noise(rounds: Rounds) -> float | None:
    """What two unchanged runs differ by: the larger bound of their ratio's interval."""
    both = [r for r in rounds if {BASE, TWIN} <= r.keys()]
    if not both:
        return None
    twin, base = (Series(tuple(tuple(r[key].times_ns) for r in both)) for key in (TWIN, BASE))
    return math.expm1(floor_of(estimate(twin, base)))


@dataclass(frozen=True, slots=True)
class Repeats:
    """What the unchanged runs differ by: their losses, their means, their gradients."""

    losses: float
    spread: float
    gradients: float

    @property
    def repeatable(self) -> bool:
        return self.losses <= REPEATABLE


def repeats(rounds: Rounds) -> Repeats:
    runs = [r[key] for r in rounds for key in (BASE, TWIN) if key in r]
    pairs = list(combinations(runs, 2))
    means = [fmean(run.losses) for run in runs if run.losses]
    spread = (max(means) - min(means)) / max(abs(fmean(means)), TINY) if means else 0.0
    return Repeats(
        losses=max((_largest_difference(a.losses, b.losses) or 0.0 for a, b in pairs), default=0.0),
        spread=spread,
        gradients=max((_distance(a.gradients, b.gradients) for a, b in pairs), default=0.0),
    )


def loss_change(
    name: str, rounds: Rounds, known: Repeats, reordered: bool = False
) -> tuple[LossChange | None, str | None]:
    """And the reason where it differs. ``reordered``: the steps saw other samples."""
    both = [(r[name], r[BASE]) for r in rounds if {name, BASE} <= r.keys()]
    if not both:
        return None, None
    if reordered:
        own, base = ([loss for pair in both for loss in pair[side].losses] for side in (0, 1))
        return _drawn_apart(own, base), None
    lost = max(_distance(own.gradients, base.gradients) for own, base in both)
    if known.repeatable:
        differences = [d for own, base in both if (d := _largest_difference(own.losses, base.losses)) is not None]
        largest, same, close = max(differences, default=None), max(known.losses, ROUNDING), CLOSE
    else:
        means = [fmean(own.losses) for own, _ in both if own.losses]
        usual = [fmean(r[key].losses) for r in rounds for key in (BASE, TWIN) if key in r and r[key].losses]
        largest = abs(fmean(means) - fmean(usual)) / max(abs(fmean(usual)), TINY) if means and usual else None
        same, close = known.spread, max(2 * known.spread, CLOSE)
    if lost > max(GRADIENTS, 2 * known.gradients):
        return LossChange(
            largest_relative_difference=largest, verdict="differs"
        ), f"the gradients differ by {units.percent(lost, 0)}"
    if largest is None:
        return None, None
    verdict: LossVerdict = "same" if largest <= same else "close" if largest <= close else "differs"
    return LossChange(largest_relative_difference=largest, verdict=verdict), None


def _drawn_apart(own: Sequence[float], base: Sequence[float]) -> LossChange | None:
    """Losses of steps on other samples: "same" where the means lie within twice what such samples spread by."""
    if len(own) < 2 or len(base) < 2:
        return None
    largest = abs(fmean(own) - fmean(base)) / max(abs(fmean(base)), TINY)
    error = math.sqrt(stdev(own) ** 2 / len(own) + stdev(base) ** 2 / len(base)) / max(abs(fmean(base)), TINY)
    same = 2 * error
    verdict: LossVerdict = "same" if largest <= same else "close" if largest <= max(CLOSE, 2 * same) else "differs"
    return LossChange(largest_relative_difference=largest, verdict=verdict)


def _largest_difference(own: Sequence[float], base: Sequence[float]) -> float | None:
    """Largest relative difference of a step's loss; infinite where only one is not a number, None without losses."""
    return max((_differ(a, b) for a, b in zip(own, base, strict=False)), default=None)


def _differ(a: float, b: float) -> float:
    if math.isfinite(a) and math.isfinite(b):
        return abs(a - b) / max(abs(b), TINY)
    return 0.0 if a == b or (math.isnan(a) and math.isnan(b)) else math.inf


def _distance(own: Sequence[float], base: Sequence[float]) -> float:
    """Of two vectors of norms, relative; 0 where one is unknown."""
    if len(own) != len(base) or not base:
        return 0.0
    return math.dist(own, base) / max(math.hypot(*base), TINY)
