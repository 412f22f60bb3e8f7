"""Interval arithmetic against a per-nanosecond count."""

import random

import numpy as np
import pytest

from loraprof.analysis.trace.intervals import cover_of_disjoint, gaps, innermost, nesting, owned, union
from loraprof.model.trace import distinct


def nest(rng: random.Random, low: int, high: int, depth: int, out: list[tuple[int, int]]) -> None:
    t = low
    while t < high:
        a = rng.randint(t, high)
        b = rng.randint(a, high)
        out.append((a, b))
        if depth and b > a:
            nest(rng, a, b, depth - 1, out)
        t = max(b + rng.randint(0, 2), t + (a == b))


def table(seed: int, crossing: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = random.Random(seed)
    rows: list[tuple[int, int]] = []
    nest(rng, 0, 30, 3, rows)
    if crossing:
        rows += [tuple(sorted((rng.randint(0, 30), rng.randint(0, 30)))) for _ in range(3)]  # type: ignore[misc]
    rows.sort(key=lambda r: (r[0], -r[1]))
    return np.array([r[0] for r in rows], np.int64), np.array([r[1] for r in rows], np.int64)


@pytest.mark.parametrize("crossing", [False, True])
@pytest.mark.parametrize("seed", range(60))
def test_innermost_is_the_latest_started(seed: int, crossing: bool) -> None:
    start, end = table(seed, crossing)
    truth = {t: i for i in range(len(start)) for t in range(start[i], end[i])}
    begin, stop, owner = innermost(start, end)
    got = {t: int(o) for b, e, o in zip(begin, stop, owner, strict=True) for t in range(b, e)}
    assert got == truth
    assert union(start, end).length == len(truth)


@pytest.mark.parametrize("seed", range(60))
def test_parent_is_the_innermost_cover(seed: int) -> None:
    start, end = table(seed, crossing=False)
    parent, _, nested = nesting(start, end)
    assert nested
    for i in range(len(start)):
        if end[i] > start[i]:
            covers = [j for j in range(i) if end[j] >= end[i] and end[j] > start[j]]
            assert parent[i] == (covers[-1] if covers else -1)


def test_measure_gaps_and_ownership() -> None:
    start, end = np.array([0, 3, 10]), np.array([5, 4, 12])
    cover = union(start, end)
    assert cover.measure(np.array([1, 4, 20]), np.array([11, 6, 30])).tolist() == [5, 1, 0]
    low, high = gaps(cover, -2, 15)
    assert list(zip(low.tolist(), high.tolist(), strict=True)) == [(-2, 0), (5, 10), (12, 15)]
    begin, stop = owned(np.array([0, 3, 4]), np.array([5, 4, 9]))
    assert (stop - begin).tolist() == [5, 0, 4]
    assert cover_of_disjoint(np.zeros(0, np.int64), np.zeros(0, np.int64)).length == 0


@pytest.mark.parametrize("seed", range(5))
def test_distinct(seed: int) -> None:
    values = np.random.default_rng(seed).integers(-5, 5 + seed, 7 * seed)
    assert distinct(values).tolist() == sorted(set(values.tolist()))
