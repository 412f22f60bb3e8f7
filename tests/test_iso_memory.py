"""The largest batch within a memory limit, on processes whose memory is a formula."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loraprof.runs.compare.iso_memory import PROBES, largest_batch
from loraprof.runs.compare.job import Outcome


def machine(peak: Callable[[int], int], log: list[int]) -> Callable[[int], Outcome]:
    def probe(batch: int) -> Outcome:
        log.append(batch)
        return Outcome(times_ns=[batch], peak_bytes=peak(batch))

    return probe


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 1000), st.integers(1, 50), st.integers(1, 20_000))
def test_a_straight_line_is_found_exactly(fixed: int, each: int, limit: int) -> None:
    log: list[int] = []
    found = largest_batch(machine(lambda b: fixed + each * b, log), limit)
    best = (limit - fixed) // each
    if best < 1:
        assert found is None
        return
    assert found is not None
    assert (found.batch, found.exact, found.outcome.times_ns) == (best, True, [best])
    assert len(log) == len(set(log)) <= PROBES


@pytest.mark.parametrize("peak", [lambda b: 100 + b * b, lambda b: 50 * b + b % 7])
def test_curved_and_uneven_memory(peak: Callable[[int], int]) -> None:
    found = largest_batch(machine(peak, []), 1000)
    assert found is not None
    assert found.exact
    assert peak(found.batch) <= 1000
    assert peak(found.batch + 1) > 1000


def test_memory_in_steps_comes_close() -> None:
    found = largest_batch(machine(lambda b: 100 + 10 * (b // 16), []), 1000)
    assert found is not None
    assert 1455 * 0.98 < found.batch <= 1455


def test_an_arm_out_of_memory_is_over_the_limit() -> None:
    def probe(batch: int) -> Outcome:
        return Outcome(peak_bytes=batch) if batch < 13 else Outcome(status="oom", reason="CUDA out of memory")

    found = largest_batch(probe, 10**12)
    assert found is not None
    assert (found.batch, found.exact) == (12, True)


def test_no_batch_fits_or_memory_is_unknown() -> None:
    assert largest_batch(machine(lambda b: 100 + b, []), 50) is None
    assert largest_batch(lambda _: Outcome(peak_bytes=None), 50) is None


def test_memory_that_does_not_grow_ends_with_the_probes() -> None:
    log: list[int] = []
    found = largest_batch(machine(lambda _: 1, log), 50)
    assert found is not None
    assert not found.exact
    assert len(log) == PROBES
