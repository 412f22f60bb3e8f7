"""Statistics against plain loops: resampled medians, rank scores, change points; thresholds met exactly."""

import math
import random
from fractions import Fraction
from itertools import pairwise
from statistics import median

import numpy as np
import pytest

from loraprof.analysis import statistics
from loraprof.analysis.statistics import (
    Estimate,
    converged,
    median_interval,
    paired_log_ratio,
    shift,
    shifts,
    warmup_end,
)

# Abramowitz and Stegun 26.7.5: coefficients of z, z^3, ... over a common denominator
EXPANSION = (((1, 1), 4), ((3, 16, 5), 96), ((-15, 17, 19, 3), 384), ((-945, -1920, 1482, 776, 79), 92160))


@pytest.mark.parametrize(("freedom", "table"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (5, 2.5706), (10, 2.2281)])
def test_students_t(freedom: int, table: float) -> None:
    found = statistics._t(freedom)
    assert found == pytest.approx(table, abs=6e-3 if freedom == 3 else 3e-4)
    if freedom < 3:
        return
    z = Fraction(statistics._t(math.inf))
    terms = (Fraction(sum(c * z ** (2 * i + 1) for i, c in enumerate(cs)), over) for cs, over in EXPANSION)
    assert found == pytest.approx(float(z + sum(t / freedom ** (i + 1) for i, t in enumerate(terms))), rel=1e-14)
    assert float(z) == pytest.approx(1.959964, abs=1e-6)


@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4], [0, 0, 1, 1, 1, 2]])
def test_medians_of_resamples(labels: list[int]) -> None:
    """Blocks drawn with replacement, their values written out."""
    values = np.random.default_rng(1).normal(size=len(labels))
    blocks = max(labels) + 1
    drawn = np.random.default_rng(7).multinomial(blocks, [1 / blocks] * blocks, size=2000)
    truth = sorted(
        median([v for v, b in zip(values.tolist(), labels, strict=True) for _ in range(row[b])]) for row in drawn
    )
    found = statistics._resampled_medians(values, np.array(labels), 7)
    assert found.tolist() == pytest.approx(truth)
    low, high = statistics._interval(values, np.array(labels), 7)
    middle, wider = (
        median(values.tolist()),
        statistics._t(blocks - 1) / statistics._t(math.inf) * math.sqrt(blocks / (blocks - 1)),
    )
    assert low == pytest.approx(max(min(values), middle - wider * (middle - truth[50])))
    assert high == pytest.approx(min(max(values), middle + wider * (truth[-51] - middle)))


def test_six_samples_have_an_interval_five_their_range() -> None:
    assert median_interval([10] * 5 + [1000])[2] < 1000
    assert median_interval([10] * 4 + [1000]) == (10, 10, 1000)


def test_an_estimate_holds_its_interval_under_one_seed() -> None:
    of, to = np.random.default_rng(3).uniform(1, 2, (2, 12))
    found = paired_log_ratio(of.tolist(), to.tolist())
    logs = np.log(of) - np.log(to)
    low, high = statistics._interval(logs, np.arange(12), 20250711)
    assert (found.low, found.high, found.pairs) == (low, high, 12)
    assert found.log == pytest.approx(median(logs.tolist()))
    assert [found.ratio, found.ratio_low, found.ratio_high] == pytest.approx(
        [math.exp(v) for v in (found.log, low, high)]
    )


def scores(samples: list[float], at: int) -> float:
    """Pairs before and after a split: how many more are slower before than after, in standard deviations."""
    n = len(samples)
    more = sum((a > b) - (a < b) for a in samples[:at] for b in samples[at:])
    return more / math.sqrt(at * (n - at) * (n + 1) / 3)


def test_scores_of_splits() -> None:
    for seed in range(30):
        rng = random.Random(seed)
        samples = rng.sample(range(1000), rng.randint(3, 12))
        t = np.arange(1, len(samples))
        found = statistics._scores(np.array(samples, np.float64), t)
        assert found.tolist() == pytest.approx([scores([*map(float, samples)], at) for at in t.tolist()])


def deviation(values: list[float]) -> float:
    return sum(abs(v - median(values)) for v in values)


def place(logs: list[float], splits: list[int]) -> int | None:
    return min(splits, key=lambda at: deviation(logs[:at]) + deviation(logs[at:]), default=None)


def changed(samples: list[float]) -> int | None:
    splits = [*range(1, len(samples) - 5 + 1)]
    if max((scores(samples, at) for at in splits), default=0) <= 3.0:
        return None
    logs = [math.log(v) for v in samples]
    at = place(logs, splits)
    assert at is not None
    return at if median(logs[:at]) - median(logs[at:]) > math.log(1.02) else None


def shifted(samples: list[float]) -> int | None:
    splits = [*range(10, len(samples) - 10 + 1)]
    if max((abs(scores(samples, at)) for at in splits), default=0) <= 5.0:
        return None
    logs = [math.log(v) for v in samples]
    least = max(math.log(1.03), median(abs(b - a) for a, b in pairwise(logs)))
    return place(logs, [at for at in splits if abs(median(logs[:at]) - median(logs[at:])) > least])


def stepped(rng: random.Random, *lengths: int) -> list[float]:
    level, out = 100.0, list[float]()
    for length in lengths:
        out += [level * (1 + rng.uniform(0, 0.02)) for _ in range(length)]
        level *= rng.choice((0.9, 1.02, 1.04, 1.1, 0.97))
    return out


@pytest.mark.parametrize("seed", range(24))
def test_where_a_series_changes(seed: int) -> None:
    rng = random.Random(seed)
    series = stepped(rng, rng.choice((4, 5, 12, 25)), rng.choice((4, 5, 6, 20)))
    assert statistics._change(np.array(series)) == changed(series)
    longer = stepped(rng, *rng.choice(((10, 60), (60, 10), (9, 61), (61, 9), (30, 30), (15, 30, 15), (40,))))
    assert shift(longer) == shifted(longer)
    noisy = [v * rng.choice((1, 1.3)) for v in longer]
    assert shift(noisy) == shifted(noisy)


def test_thresholds_are_exceeded_not_met(monkeypatch: pytest.MonkeyPatch) -> None:
    """25 steps of 4 s, then 5 of 2 s; 30 and 30 of them. All differ a little, but for their medians."""
    drop = [4.0] * 25 + [2.0] * 5
    best = max(statistics._scores(np.array(drop), np.arange(1, 26)))
    for z, found in ((best, None), (best - 1e-9, 25)):
        monkeypatch.setattr(statistics, "CHANGE_Z", z)
        assert statistics._change(np.array(drop)) == found
    monkeypatch.setattr(statistics, "CHANGE_Z", 3.0)
    for ratio, found in ((2.0, None), (1.99, 25)):
        monkeypatch.setattr(statistics, "CHANGE_RATIO", ratio)
        assert statistics._change(np.array(drop)) == found
    rise = [2.0] * 30 + [4.0] * 30
    best = max(np.abs(statistics._scores(np.array(rise), np.arange(10, 51))))
    for z, found in ((best, None), (best - 1e-9, 30)):
        monkeypatch.setattr(statistics, "SHIFT_Z", z)
        assert shift(rise) == found
    monkeypatch.setattr(statistics, "SHIFT_Z", 5.0)
    for ratio, found in ((2.0, None), (1.99, 30)):
        monkeypatch.setattr(statistics, "SHIFT_RATIO", ratio)
        assert shift(rise) == found


def test_levels_are_told_apart_where_they_differ() -> None:
    levels = [2.0] * 40 + [3.0] * 35 + [9.0] * 45
    assert shifts(levels) == [40, 75]
    assert shifts([2.0] * 10 + [4.0] * 70) == [10]
    assert shifts([4.0] * 70 + [2.0] * 10) == [70]
    assert shifts([v for v in levels for _ in range(3)], blocks=120) == [120, 225]
    assert shifts([v for v in levels for _ in range(3)][:-1], blocks=120) == [120, 225]
    assert shifts([3.0] * 100) == shifts([]) == []
    assert shifts([2.0] * 201 + [3.0] * 200) in ([200], [202])  # of more than 400 two are looked at together
    assert shifts([2.0] * 201 + [3.0] * 199) == [201]


def test_a_place_between_equal_levels_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of two places goes, then what is left is looked at again."""
    twice = np.log(np.array([2.0] * 5 + [4.0] * 5 + [64.0] * 5))
    for ratio, found in ((1.99, [5, 10]), (2.0, [10])):
        monkeypatch.setattr(statistics, "SHIFT_RATIO", ratio)
        assert statistics._apart(twice, [5, 10]) == found
        assert statistics._apart(twice[::-1], [5, 10]) == [15 - at for at in reversed(found)]
    monkeypatch.setattr(statistics, "SHIFT_RATIO", 1.5)
    even = np.log(np.array([4.0] * 10 + [16.0] * 5))
    assert statistics._apart(even, [3, 6, 10]) == [10]
    assert statistics._apart(even[:10], [3, 6]) == []
    assert statistics._apart(np.log(np.array([8.0, 2.0, 4.0, 4.0])), [2]) == []  # its first step counts


def test_warm_up_has_several_ends() -> None:
    assert warmup_end([8.0] * 12 + [4.0] * 14 + [2.0] * 30) == 26
    assert warmup_end([2.0] * 30) == 10
    assert warmup_end([2.0] * 7) == 7


def test_an_interval_of_just_the_width_is_enough() -> None:
    half = math.log1p(0.01)
    assert converged(Estimate(0.0, 0.0, 2 * half, 10))
    assert not converged(Estimate(0.0, 0.0, 2.001 * half, 10))
    assert not converged(Estimate(0.0, 0.0, half, 9))
