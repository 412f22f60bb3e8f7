"""Inputs that are nearly right are read or refused in one line: no tracebacks, no hangs, exact sums, equal JSON."""

from itertools import islice

import pytest
from mutation import Tally, examine, kinds


def run_all(first: int, count: int) -> Tally:
    tally = Tally()
    for seed, kind in enumerate(islice(kinds(), count), first):
        examine(kind, seed, tally)
    return tally


def test_100_inputs() -> None:
    tally = run_all(0, 100)
    assert not tally.wrong, tally.seeds
    assert tally.read > 15
    assert tally.refused > 15


@pytest.mark.slow
def test_2000_inputs() -> None:
    tally = run_all(1_000, 2_000)
    assert not tally.wrong, tally.seeds
