"""Microseconds as printed become exact integer nanoseconds: by float64 where that is exact, else from the text."""

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraprof.store.kineto.nanoseconds import LIMIT_NS, MISSING, NOT_FINITE, OK, fast_ns, text_ns

NS = st.integers(-(10**6), 8 * 10**15)


def printed(ns: int) -> str:
    """As Kineto prints it: three decimals, always."""
    return str(Decimal(ns).scaleb(-3).quantize(Decimal("0.001")))


def test_random_times_up_to_eight_trillion_us_are_exact() -> None:
    ns = np.random.default_rng(0).integers(0, 8 * 10**15, 50_000).tolist()
    texts = [printed(n) for n in ns]
    assert [int(Decimal(t) * 1000) for t in texts] == ns
    fast = fast_ns([float(t) for t in texts])
    assert fast is not None
    assert fast.tolist() == ns
    naive = [round(float(t) * 1000) for t in texts]
    assert sum(a != b for a, b in zip(naive, ns, strict=True)) > 100  # why the split is needed


@given(st.lists(NS, min_size=1, max_size=20))
def test_both_ways_agree(ns: list[int]) -> None:
    texts = [printed(n) for n in ns]
    fast = fast_ns([float(t) for t in texts])
    exact, status = text_ns([t.encode() for t in texts])
    assert fast is not None
    assert fast.tolist() == exact.tolist() == ns
    assert not status.any()


def test_the_documented_example() -> None:
    fast = fast_ns([4483781115872.905])
    assert fast is not None
    assert fast.tolist() == [4483781115872905]


def test_whole_microseconds_need_no_float() -> None:
    us = [2**43 + 1, 4 * 10**15, -(2**44) - 1]
    fast = fast_ns(us)
    assert fast is not None
    assert fast.tolist() == [1000 * u for u in us]


@pytest.mark.parametrize("values", [[2.0**43 + 0.5], [float("nan")], [float("inf")], ["1"], [None], [10**400], [2**63]])
def test_what_a_float_cannot_hold_is_left_to_the_text(values: list[float]) -> None:
    assert fast_ns(values) is None


@pytest.mark.parametrize(
    ("text", "ns", "status"),
    [
        (b"9876543210987.123", 9876543210987123, OK),
        (b"-1.5", -1500, OK),
        (b"1e3", 10**6, OK),
        (b"12.3456", 12346, OK),
        (b'"17.25"', 17250, OK),
        (b"1e-400", 0, OK),
        (b"", 0, MISSING),
        (b"null", 0, MISSING),
        (b"NaN", 0, NOT_FINITE),
        (b'"-Infinity"', 0, NOT_FINITE),
        (b"1e300", 0, NOT_FINITE),
        (b"9e18", 0, NOT_FINITE),
        (b"true", 0, NOT_FINITE),
        (b"[1]", 0, NOT_FINITE),
        (b"\xff", 0, NOT_FINITE),
    ],
)
def test_text(text: bytes, ns: int, status: int) -> None:
    found, kinds = text_ns([text])
    assert (found.tolist(), kinds.tolist()) == ([ns], [status])


def test_every_accepted_text_fits_a_sum_of_two() -> None:
    found, status = text_ns([b"3999999999999999.999", str(LIMIT_NS // 1000).encode()])
    assert status.tolist() == [OK, OK]
    assert int(found.max()) <= LIMIT_NS
