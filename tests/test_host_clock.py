"""The host's time line without the profiler: a few cuts, and the search for the cost that fits."""

from collections.abc import Callable

import numpy as np
import pytest

from loraprof.analysis.prediction.host_clock import CLOSE, LEAST, HostClock, _least

# Pieces of 100, 50 and 200 ns with 2, 0 and 1 events.
CLOCK = HostClock(np.array([1000, 1100, 1150, 1350]), np.array([100.0, 50.0, 200.0]), np.array([2.0, 0.0, 1.0]))


@pytest.mark.parametrize(
    ("cost", "cuts"),
    [
        (0.0, [0, 100, 150, 350]),
        (10.0, [0, 80, 130, 320]),
        (35.0, [0, 30, 80, 245]),
        (100.0, [0, 30, 80, 180]),  # three tenths of a piece are the host's own
        (140.0, [0, 30, 80, 140]),
        (500.0, [0, 30, 80, 140]),
    ],
)
def test_every_event_costs_as_much_but_no_piece_vanishes(cost: float, cuts: list[float]) -> None:
    assert CLOCK.without(cost) == pytest.approx(cuts)
    assert CLOCK.times(CLOCK.at, cost) == pytest.approx(cuts)


def test_instants_between_cuts_move_with_their_piece() -> None:
    assert CLOCK.times(np.array([1050, 1125, 1250]), 10.0) == pytest.approx([40, 105, 130 + 95])


def test_the_largest_cost_that_changes_anything() -> None:
    assert CLOCK.most_ns == pytest.approx((1 - LEAST) * 200)  # of the third piece
    assert HostClock(CLOCK.at, CLOCK.length, np.zeros(3)).most_ns == 0.0


@pytest.mark.parametrize(
    ("falling", "target", "most", "expected"),
    [
        (lambda x: round(1e9 - 1e8 * x), 500_000_000, 10.0, 5.0),
        (lambda x: round(1e9 * 0.5**x), 125_000_000, 20.0, 3.0),
        (lambda x: 1_000_000_000 if x < 7 else 400_000_000, 500_000_000, 8.0, 7.0),
        (lambda x: round(1e9 - 1e8 * x), 1_000_000_000, 10.0, 0.0),  # already there
        (lambda x: round(1e9 - 1e8 * x), 1_000_000_001, 10.0, 0.0),
        (lambda x: round(1e9 - 1e8 * x), 0, 10.0, 10.0),  # at the very end
        (lambda x: round(1e9 - 1e8 * x), -1, 10.0, None),
        (lambda x: round(1e9 - 1e8 * x), 400_000_000, 5.0, None),
    ],
)
def test_the_least_that_reaches_a_target(
    falling: Callable[[float], int], target: int, most: float, expected: float | None
) -> None:
    found = _least(falling, target, most)
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-3))
    if found:
        assert falling(found) <= target
        steps = falling(found * (1 - 1e-3))
        assert steps > target or target - falling(found) <= CLOSE * target
