"""Bytes with cache reuse: who finds its input in the cache, and from which distance on no longer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraprof.analysis.limits.reuse import SMALLEST, cached_bytes
from loraprof.analysis.work.rule import Work

MB = 1_000_000


def op(reads: tuple[int, ...], writes: tuple[int, ...]) -> Work:
    return Work(0, sum(reads), sum(writes), reads=reads, writes=writes)


SCALE = op((4 * MB,), (4 * MB,))
ADD = op((4 * MB, 4 * MB), (4 * MB,))


def test_producer_to_consumer() -> None:
    """B writes 4 MB, the scale reads them and writes 4 MB, the add reads those and another tensor of its size."""
    up = op((1 * MB,), (4 * MB,))
    assert cached_bytes([up, SCALE], 50 * MB) == [1 * MB, 4 * MB]  # the product never reaches memory
    assert cached_bytes([up, SCALE], 5 * MB) == [1 * MB, 4 * MB]
    assert cached_bytes([up, SCALE], 5 * MB - 1) == [5 * MB, 8 * MB]
    assert cached_bytes([up, SCALE, op((4 * MB,), (9 * MB,))], 50 * MB) == [1 * MB, 0, 9 * MB]


def test_distance_counts_the_bytes_between() -> None:
    other = op((10 * MB,), (10 * MB,))
    produce, consume = op((1 * MB,), (4 * MB,)), op((4 * MB,), (2 * MB,))
    works = [produce, other, consume]
    assert cached_bytes(works, 25 * MB) == [1 * MB, 20 * MB, 2 * MB]
    assert cached_bytes(works, 24 * MB) == [5 * MB, 20 * MB, 6 * MB]


def test_reading_twice_saves_the_second_read_only() -> None:
    read = op((4 * MB,), (1 * MB,))
    assert cached_bytes([read, read], 50 * MB) == [5 * MB, 1 * MB]


def test_two_inputs_of_one_size_are_two_tensors() -> None:
    assert cached_bytes([SCALE, ADD], 50 * MB) == [4 * MB, 4 * MB]
    assert cached_bytes([op((), (4 * MB,)), ADD], 50 * MB) == [0, 8 * MB]
    assert cached_bytes([op((), (4 * MB,)), op((), (4 * MB,)), ADD], 50 * MB) == [0, 0, 4 * MB]


def test_unknown_work_and_scalars() -> None:
    small = op((SMALLEST - 1,), (SMALLEST - 1,))
    assert cached_bytes([small, None, small], 50 * MB) == [small.min_bytes, None, small.min_bytes]
    assert cached_bytes([], 50 * MB) == []


OPS = st.lists(st.none() | st.builds(op, *[st.lists(st.sampled_from([MB, 2 * MB, 5 * MB])).map(tuple)] * 2))


@given(OPS, st.integers(0, 30 * MB))
def test_between_nothing_and_the_minimum(works: list[Work | None], cache_bytes: int) -> None:
    found = cached_bytes(works, cache_bytes)
    for work, reached in zip(works, found, strict=True):
        assert (work is None) == (reached is None)
        if work is not None and reached is not None:
            assert 0 <= reached <= work.min_bytes
    assert cached_bytes(works, 0) == [None if w is None else w.min_bytes for w in works]


@pytest.mark.parametrize("fewer", [1, 10])
@given(works=OPS)
def test_a_larger_cache_never_moves_more(fewer: int, works: list[Work | None]) -> None:
    small, large = (cached_bytes(works, c * MB) for c in (30 // fewer, 30))
    assert sum(b or 0 for b in large) <= sum(b or 0 for b in small)
