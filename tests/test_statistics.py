"""Properties S1 to S9: simulated step times with autocorrelated noise, spikes and drift; fixed seeds."""

import math
from typing import Any

import numpy as np
import pytest

from loraprof.analysis import statistics as st

RUNS = 300


def series(rng: np.random.Generator, n: int) -> Any:
    """AR(1) log noise (rho 0.6, sd 0.006) with 5 % spikes of mean 30 %."""
    innovations = rng.normal(0, 0.006 * math.sqrt(1 - 0.36), n)
    noise = np.empty(n)
    noise[0] = rng.normal(0, 0.006)
    for i in range(1, n):
        noise[i] = 0.6 * noise[i - 1] + innovations[i]
    return noise + np.where(rng.random(n) < 0.05, np.log1p(rng.exponential(0.3, n)), 0)


def abba(rng: np.random.Generator, effect: float, drift: float, n: int = 30) -> tuple[Any, Any]:
    """2n steps in the order ABBA ABBA ...; b is ``effect`` slower; the machine drifts over the experiment."""
    logs = series(rng, 2 * n) + drift * np.linspace(0, 1, 2 * n)
    is_b = np.tile([False, True, True, False], n // 2)
    times = 1e6 * np.exp(logs + np.where(is_b, math.log1p(effect), 0))
    return times[~is_b], times[is_b]


def sequential(rng: np.random.Generator, effect: float, drift: float, n: int = 30) -> tuple[Any, Any]:
    logs = series(rng, 2 * n) + drift * np.linspace(0, 1, 2 * n)
    times = 1e6 * np.exp(logs)
    return times[:n], times[n:] * (1 + effect)


@pytest.mark.slow
@pytest.mark.parametrize("effect", [0.0, 0.02])
@pytest.mark.parametrize("drift", [-0.05, 0.0, 0.05])
def test_s1_coverage_and_s3_recovery(effect: float, drift: float) -> None:
    rng = np.random.default_rng(1)
    truth = math.log1p(effect)
    covered = close = 0
    for _ in range(RUNS):
        a, b = abba(rng, effect, drift)
        estimate = st.paired_log_ratio(b, a)
        covered += estimate.low <= truth <= estimate.high
        close += abs(estimate.ratio - 1 - effect) <= 0.005
    assert 0.90 <= covered / RUNS <= 0.98
    assert close / RUNS >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [3, 5, 12])
def test_s1_coverage_of_few_blocks(blocks: int) -> None:
    """Blocks of eight pairs that share a disturbance; what is resampled is the block."""
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(RUNS):
        a, b = (np.exp(series(rng, 8 * blocks)) for _ in "ab")
        b *= np.exp(np.repeat(rng.normal(0, 0.005, blocks), 8))
        estimate = st.paired_log_ratio(b, a, [i // 8 for i in range(8 * blocks)])
        covered += estimate.low <= 0 <= estimate.high
    assert 0.90 <= covered / RUNS <= 0.98


def test_an_interval_ends_with_the_values_seen() -> None:
    estimate = st.paired_log_ratio([100, 100, 900, 900], [100, 100, 100, 100], [0, 0, 1, 1])
    assert (estimate.ratio_low, estimate.ratio_high) == (1, pytest.approx(9))  # type: ignore[comparison-overlap]
    assert st.median_interval([100, 110, 120, 800, 850, 900], [0, 0, 0, 1, 1, 1])[1:] == (100, 900)


def test_the_stretch_uses_students_t() -> None:
    assert [round(st._t(freedom), 2) for freedom in (1, 2, 3, 5, 29)] == [12.71, 4.30, 3.18, 2.57, 2.05]
    assert st._stretch(1) == 1
    assert st._stretch(2000) == pytest.approx(1, abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("drift", [-0.05, 0.0, 0.05])
def test_s2_same_arm_twice_is_undecided(drift: float) -> None:
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(RUNS):
        floor = st.floor_of(st.paired_log_ratio(*abba(rng, 0.0, drift)))
        wrong += st.three_way(st.paired_log_ratio(*abba(rng, 0.0, drift)), floor) != "undecided"
    assert wrong / RUNS <= 0.05


def test_verdict_has_power() -> None:
    rng = np.random.default_rng(3)
    slower = 0
    for _ in range(100):
        a, b = abba(rng, 0.05, 0.05)
        slower += st.three_way(st.paired_log_ratio(b, a), 0.01) == "slower"
    assert slower >= 95


def test_s4_sequential_design_misses_under_drift() -> None:
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(100):
        a, b = sequential(rng, 0.0, 0.05)
        estimate = st.paired_log_ratio(b, a)
        covered += estimate.low <= 0 <= estimate.high
    assert covered / 100 < 0.1


def test_s5_identical_input_identical_interval() -> None:
    a, b = abba(np.random.default_rng(5), 0.02, 0.0)
    assert st.paired_log_ratio(b, a) == st.paired_log_ratio(b.copy(), a.copy())
    ints = [int(x) for x in a]
    assert st.median_interval(ints) == st.median_interval(list(ints))


def test_s6_one_outlier_hardly_moves_the_estimate() -> None:
    a, b = abba(np.random.default_rng(6), 0.02, 0.0)
    before = st.paired_log_ratio(b, a).ratio
    b[7] *= 10
    assert abs(st.paired_log_ratio(b, a).ratio - before) < 0.002


@pytest.mark.parametrize("blocks", [None, [i // 4 for i in range(30)]])
def test_s7_swapping_negates_exactly(blocks: list[int] | None) -> None:
    a, b = abba(np.random.default_rng(7), 0.02, 0.05)
    forth, back = st.paired_log_ratio(b, a, blocks), st.paired_log_ratio(a, b, blocks)
    assert (forth.log, forth.low, forth.high) == (-back.log, -back.high, -back.low)


def test_s8_oracle() -> None:
    a, b = [100, 102, 98, 101, 250, 99], [104, 106, 102, 105, 260, 103]
    assert round(100 * (st.paired_log_ratio(b, a).ratio - 1), 4) == 4.0
    assert round(100 * (np.median(b) / np.median(a) - 1), 4) == 3.9801


def test_s9_too_few_pairs_or_inside_the_floor() -> None:
    few = st.paired_log_ratio([200] * 9, [100] * 9)
    assert st.three_way(few, 0.01) == "undecided"
    enough = st.paired_log_ratio([200] * 10, [100] * 10)
    assert st.three_way(enough, 0.01) == "slower"
    assert st.three_way(enough, 0.8) == "undecided"  # ln 2 = 0.69 lies inside the floor
    assert st.three_way(st.paired_log_ratio([100] * 10, [200] * 10), 0.01) == "faster"


def test_a_difference_made_by_the_clock_is_undecided() -> None:
    slower = st.paired_log_ratio([110] * 10, [100] * 10)
    same_cycles = st.paired_log_ratio([100] * 10, [100] * 10)
    assert st.three_way(slower, 0.01, same_cycles) == "undecided"
    assert st.three_way(slower, 0.01, slower) == "slower"


def test_blocks_widen_the_interval_when_blocks_differ() -> None:
    shift = np.repeat(np.linspace(-0.05, 0.05, 6), 20)
    noise = np.random.default_rng(8).normal(0, 0.001, 120)
    of, to = np.exp(shift + noise), np.ones(120)
    pairs = st.paired_log_ratio(of, to)  # type: ignore[arg-type]
    blocked = st.paired_log_ratio(of, to, [i // 20 for i in range(120)])  # type: ignore[arg-type]
    assert blocked.log == pairs.log
    assert blocked.high - blocked.low > 1.5 * (pairs.high - pairs.low)


def test_bad_input_is_refused() -> None:
    for of, to in (([1], [1, 2]), ([], []), ([0], [1])):
        with pytest.raises(ValueError):
            st.paired_log_ratio(of, to)
    with pytest.raises(ValueError):
        st.median_interval([])
    with pytest.raises(ValueError):
        st.paired_log_ratio([1, 2, 3], [1, 2, 3], ["a", "b"])


def test_median_interval_brackets_and_small_samples_give_their_range() -> None:
    assert st.median_interval([7, 3, 5]) == (5, 3, 7)
    differences = [-3, 1, 0, 2, -1, 4, 1, 0]  # times without what was measured beside them
    middle, least, most = st.median_interval(differences)
    assert (middle, -st.median_interval([-d for d in differences])[2]) == (0, least)
    assert -3 <= least <= middle <= most <= 4
    median, low, high = st.median_interval([100 + i % 10 for i in range(50)])
    assert low <= median <= high
    assert (median, low >= 100, high <= 109) == (104, True, True)


@pytest.mark.parametrize("slow", [0, 4, 15, 25])
def test_warmup_ends_after_the_slow_steps(slow: int) -> None:
    rng = np.random.default_rng(9)
    times = 1e6 * np.exp(series(rng, 60))
    times[:slow] *= 1.5
    end = st.warmup_end(times)
    assert max(10, slow) <= end <= max(10, slow) + 5


def test_warmup_false_alarms_are_rare_and_short_series_are_kept_whole() -> None:
    rng = np.random.default_rng(10)
    alarms = sum(st.warmup_end(1e6 * np.exp(series(rng, 60))) > 10 for _ in range(RUNS))
    assert alarms / RUNS <= 0.05
    assert st.warmup_end([]) == 0
    assert st.warmup_end([5, 5, 5]) == 3


def test_stopping_rule() -> None:
    assert st.converged(st.Estimate(0.02, 0.011, 0.03, 10))
    assert not st.converged(st.Estimate(0.02, 0.0, 0.04, 10))
    assert not st.converged(st.Estimate(0.02, 0.02, 0.02, 9))
    assert st.converged(st.Estimate(0.0, -math.log1p(0.01), math.log1p(0.01), 10))  # at most: just that counts


def test_the_noise_floor_is_the_farther_end_of_the_same_arm_twice() -> None:
    assert st.floor_of(st.Estimate(0.01, -0.01, 0.03, 10)) == 0.03
    assert st.floor_of(st.Estimate(0.01, -0.04, 0.03, 10)) == 0.04
