"""Inputs that are nearly right are read or refused in one line: no tracebacks, no hangs, exact sums, equal JSON."""

from itertools import islice

import pytest
from mutation import Tally, examine, kinds


def run_all(first: int, count: int) -> Tally:
    tally = Tally()
    for seed, kind in enumerate(islice(kinds(), count), first):
        examine(kind, seed, tally)
    return tally


def test_40_inputs() -> None:
    tally = run_all(0, 40)
    assert not tally.wrong, tally.seeds
    assert tally.read > 5
    assert tally.refused > 5


@pytest.mark.slow
def test_2000_inputs() -> None:
    tally = run_all(1_000, 2_000)
    assert not tally.wrong, tally.seeds
