"""How sure are we? Seeded bootstrap intervals, the three-way verdict, warm-up and when to stop.

Estimate = median of the paired log ratios ln(of_i / to_i). Interval = 95 % percentile bootstrap over the highest
level of the design (process or block where labels are given, else the pair), 2,000 resamples, fixed seed. Its two
arms are stretched by t(n - 1) / z sqrt(n / (n - 1)), n units resampled, as a bootstrap of few units is too narrow
(Hesterberg, The American Statistician 69, 2015, section 5.3): else 2 blocks cover 50 %, 5 blocks 80 %. It ends with
the least and the greatest value seen.
The mean log ratio is not used: one 10x spike in 30 pairs moves it by 8 %, the median by almost nothing.
Three-way verdict as in nvbench; no sample is removed as an outlier.
Medians under multiplicities are read from sorted values, so swapping the arms negates every number exactly.
"""

import math
from collections.abc import Hashable, Sequence
from itertools import pairwise
from statistics import NormalDist
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct

RESAMPLES: Final = 2000
SEED: Final = 20250711
MIN_PAIRS: Final = 10
MIN_WARMUP: Final = 10
HALF_WIDTH: Final = 0.01
TAIL: Final = 0.025  # each side of a 95 % interval
# A shift counts as warm-up when the standardised rank statistic, maximised over splits, exceeds this and the
# earlier part is at least 2 % slower. At 3.0 a warm-up of three steps is just too short to be seen.
CHANGE_Z: Final = 3.0
CHANGE_RATIO: Final = 1.02
LEAST_AFTER: Final = 5  # fewer steps than this show no new level

# A level shift is looked for again and again, in steps that resemble their neighbours: it takes more than warm-up does.
SHIFT_Z: Final = 5.0
SHIFT_RATIO: Final = 1.03
LEAST_LEVEL: Final = 10  # steps of each level

Verdict = Literal["faster", "slower", "undecided"]
Floats = npt.NDArray[np.float64]


class Estimate(Struct, frozen=True):
    """A log ratio of times with its interval; ``ratio``, ``ratio_low`` and ``ratio_high`` are the plain ratios."""

    log: float
    low: float
    high: float
    pairs: int

    @property
    def ratio(self) -> float:
        return math.exp(self.log)

    @property
    def ratio_low(self) -> float:
        return math.exp(self.low)

    @property
    def ratio_high(self) -> float:
        return math.exp(self.high)


def _labels(blocks: Sequence[Hashable] | None, size: int) -> npt.NDArray[np.int64]:
    """Block number of each value; without labels, or with a single one, every value is its own block."""
    if blocks is None or len(set(blocks)) < 2:
        return np.arange(size)
    if len(blocks) != size:
        raise ValueError(f"{len(blocks)} block labels for {size} values")
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(b, len(numbers)) for b in blocks])


def _resampled_medians(values: Floats, labels: npt.NDArray[np.int64], seed: int) -> Floats:
    """Sorted medians of RESAMPLES resamples of whole blocks."""
    blocks = int(labels.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(blocks, np.full(blocks, 1 / blocks), size=RESAMPLES)
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    reached = np.cumsum(drawn[:, labels[order]], axis=1)
    total = reached[:, -1:]
    lower = np.argmax(reached > (total - 1) // 2, axis=1)
    upper = np.argmax(reached > total // 2, axis=1)
    return np.sort((ordered[lower] + ordered[upper]) / 2)


def _interval(values: Floats, labels: npt.NDArray[np.int64], seed: int) -> tuple[float, float]:
    medians, middle = _resampled_medians(values, labels, seed), _median(values)
    skip, wider = int(TAIL * RESAMPLES), _stretch(int(labels.max()) + 1)
    low, high = float(medians[skip]), float(medians[RESAMPLES - 1 - skip])
    low, high = middle - wider * (middle - low), middle + wider * (high - middle)
    return max(low, float(values.min())), min(high, float(values.max()))


def _stretch(units: int) -> float:
    """1 for many units; one alone shows no spread that could be stretched."""
    return _t(units - 1) / _t(math.inf) * math.sqrt(units / (units - 1)) if units > 1 else 1.0


def _t(freedom: float) -> float:
    """Student's t at 1 - TAIL: exact for 1 and 2, else the expansion in 1 / freedom (Abramowitz and Stegun 26.7.5)."""
    if freedom == 1:
        return math.tan(math.pi * (0.5 - TAIL))
    if freedom == 2:
        return (1 - 2 * TAIL) / math.sqrt(2 * TAIL * (1 - TAIL))
    z = NormalDist().inv_cdf(1 - TAIL)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom ** (i + 1) for i, term in enumerate(terms))


def _median(values: Floats) -> float:
    """As ``np.median``, but from the two middle values, so that negating all values negates it exactly."""
    ordered = np.sort(values)
    return float((ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2)


def median_interval(
    samples_ns: Sequence[int], blocks: Sequence[Hashable] | None = None, *, seed: int = SEED
) -> tuple[int, int, int]:
    """Median of step times and its 95 % interval, in ns: (median, low, high).

    Below six samples no interval of the median reaches 95 %: the range of the samples is returned.
    Raises ValueError without samples.
    """
    if not samples_ns:
        raise ValueError("no samples")
    values = np.asarray(samples_ns, dtype=np.float64)
    middle = round(_median(values))
    if len(values) < 6:
        return middle, min(samples_ns), max(samples_ns)
    low, high = _interval(values, _labels(blocks, len(values)), seed)
    return middle, min(round(low), middle), max(round(high), middle)


def paired_log_ratio(
    of: Sequence[float], to: Sequence[float], blocks: Sequence[Hashable] | None = None, *, seed: int = SEED
) -> Estimate:
    """Median of ln(of_i / to_i) and its 95 % interval; ``blocks`` labels each pair's process or block.

    Raises ValueError for unequal lengths, no pairs, or times that are not positive.
    """
    if len(of) != len(to) or not len(of):
        raise ValueError(f"{len(of)} and {len(to)} samples do not pair")
    if min(*of, *to) <= 0:
        raise ValueError("step times must be positive")
    logs = np.log(np.asarray(of, dtype=np.float64)) - np.log(np.asarray(to, dtype=np.float64))
    middle = _median(logs)
    low, high = _interval(logs, _labels(blocks, len(logs)), seed)
    return Estimate(middle, min(low, middle), max(high, middle), len(logs))


def floor_of(same: Estimate) -> float:
    """The noise floor f of an A/A pair: the larger absolute bound of its interval, as a log ratio."""
    return max(abs(same.low), abs(same.high))


def three_way(estimate: Estimate, floor: float, cycles: Estimate | None = None, *, minimum: int = MIN_PAIRS) -> Verdict:
    """``slower`` if low > floor, ``faster`` if high < -floor, else ``undecided``.

    ``cycles`` is the same estimate in cycle space (time x mean SM clock) where clocks are known: a difference
    that only the clock made is undecided. So is anything from fewer than ``minimum`` pairs.
    """
    if estimate.pairs < minimum or not math.isfinite(estimate.log):
        return "undecided"
    verdict: Verdict = "undecided"
    if estimate.low > floor:
        verdict = "slower"
    elif estimate.high < -floor:
        verdict = "faster"
    if cycles is not None and three_way(cycles, floor, minimum=minimum) != verdict:
        return "undecided"
    return verdict


def _scores(samples: Floats, t: npt.NDArray[np.int64]) -> Floats:
    """For every split t the Mann-Whitney statistic U_t = 2 R_t - t (n + 1), R_t the rank sum before t, over the root of
    its variance t (n - t) (n + 1) / 3."""
    n = len(samples)
    ranks = np.empty(n)
    ranks[np.argsort(samples, kind="stable")] = np.arange(1, n + 1)
    return (2 * np.cumsum(ranks)[t - 1] - t * (n + 1)) / np.sqrt(t * (n - t) * (n + 1) / 3)


def _change(samples: Floats) -> int | None:
    """First index after a significant drop that leaves at least LEAST_AFTER steps, or ``None``.

    Whether: the greatest score of a split (Pettitt 1979, standardised so that a short warm-up keeps its power). Where:
    the split with the least absolute deviation from the two medians, which spikes and slow drift move less than the
    maximum of U.
    """
    t = np.arange(1, len(samples) - LEAST_AFTER + 1)
    if not len(t) or _scores(samples, t).max() <= CHANGE_Z:
        return None
    logs = np.log(samples)
    split = min(t.tolist(), key=lambda at: _deviation(logs[:at]) + _deviation(logs[at:]))
    slower = _median(logs[:split]) - _median(logs[split:])
    return split if slower > math.log(CHANGE_RATIO) else None


def shift(samples: Sequence[float]) -> int | None:
    """First index of a new level, slower or faster, or ``None``; the statistic and the place as for warm-up.

    The levels lie further apart than successive steps do (median absolute difference).
    """
    values = np.asarray(samples, dtype=np.float64)
    t = np.arange(LEAST_LEVEL, len(values) - LEAST_LEVEL + 1)
    if not len(t) or np.abs(_scores(values, t)).max() <= SHIFT_Z:
        return None
    logs = np.log(values)
    least = max(math.log(SHIFT_RATIO), float(np.median(np.abs(np.diff(logs)))))
    found = [at for at in t.tolist() if abs(_median(logs[:at]) - _median(logs[at:])) > least]
    return min(found, key=lambda at: _deviation(logs[:at]) + _deviation(logs[at:]), default=None)


def shifts(samples: Sequence[float], blocks: int = 400) -> list[int]:
    """All of them, in order: the series is split where it shifts, and each part again. Of more than ``blocks`` samples
    medians of successive ones are compared."""
    size = max(1, -(-len(samples) // blocks))
    medians = np.array([_median(np.asarray(samples[i : i + size], np.float64)) for i in range(0, len(samples), size)])
    found: list[int] = []
    parts = [(0, len(medians))]
    while parts:
        begin, end = parts.pop()
        at = shift(medians[begin:end].tolist())
        if at is not None:
            found.append(begin + at)
            parts += [(begin, begin + at), (begin + at, end)]
    return [at * size for at in _apart(np.log(medians), sorted(found))]


def _apart(logs: Floats, found: list[int]) -> list[int]:
    """Those whose levels differ still, now that all are known: one in the middle of a level goes."""
    edges = [0, *found, len(logs)]
    levels = [_median(logs[a:b]) for a, b in pairwise(edges)] if found else []
    equal = [i for i, (a, b) in enumerate(pairwise(levels)) if abs(a - b) <= math.log(SHIFT_RATIO)]
    return _apart(logs, found[: equal[0]] + found[equal[0] + 1 :]) if equal else found


def _deviation(values: Floats) -> float:
    return float(np.abs(values - np.median(values)).sum())


def warmup_end(samples: Sequence[float], minimum: int = MIN_WARMUP) -> int:
    """Number of leading steps to drop: up to the last change point found, but at least ``minimum``.

    The test sees the steps before ``minimum`` too: a warm-up that ends shortly after it is then still found.
    """
    end = 0
    values = np.asarray(samples, dtype=np.float64)
    while (more := _change(values[end:])) is not None:
        end += more
    return max(end, min(minimum, len(samples)))


def converged(estimate: Estimate, half_width: float = HALF_WIDTH) -> bool:
    """Whether the interval's half-width is at most ``half_width`` (0.01: 1 %) and the pairs suffice."""
    return estimate.pairs >= MIN_PAIRS and (estimate.high - estimate.low) / 2 <= math.log1p(half_width)
