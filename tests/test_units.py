import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraprof import units


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "n/a"),
        (0, "0 ns"),
        (7, "7 ns"),
        (999, "999 ns"),
        (1000, "1.00 µs"),
        (12_345, "12.3 µs"),
        (999_499, "999 µs"),
        (999_999, "1.00 ms"),
        (99_999, "100 µs"),
        (412_345_678, "412 ms"),
        (-4_120_000, "-4.12 ms"),
        (1_500_000_000, "1.50 s"),
        (1_234_500_000_000, "1,234 s"),
        (2.5, "2.50 ns"),
    ],
)
def test_ns(value: float | None, text: str) -> None:
    assert units.ns(value) == text


def test_ns_signed() -> None:
    assert units.ns(4_120_000, signed=True) == "+4.12 ms"
    assert units.ns(0, signed=True) == "0 ns"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (units.nbytes(None), "n/a"),
        (units.nbytes(512), "512 B"),
        (units.nbytes(1536), "1.50 KiB"),
        (units.nbytes(80 * 2**30), "80.0 GiB"),
        (units.flops(1.2e12), "1.20 TFLOP"),
        (units.flops(37), "37 FLOP"),
        (units.flops_per_s(3.12e14), "312 TFLOP/s"),
        (units.bytes_per_s(3.35e12), "3.35 TB/s"),
        (units.count(1234567), "1,234,567"),
        (units.count(None), "n/a"),
        (units.number(0.012345), "0.0123"),
        (units.ratio(1.2345), "1.23x"),
        (units.ratio(None), "n/a"),
        (units.percent(0.1234), "12.3 %"),
        (units.percent(0.0), "0.0 %"),
        (units.percent(0.0001), "<0.1 %"),
        (units.percent(None), "n/a"),
    ],
)
def test_the_others(text: str, expected: str) -> None:
    assert text == expected


def test_the_interval_decides_the_digits() -> None:
    assert units.ns_interval(412_312_345, 411_901_000, 413_022_000) == "412.3 ms [411.9, 413.0]"
    assert units.ns_interval(412_312_345, 380_000_000, 450_000_000) == "412 ms [380, 450]"
    assert units.ns_interval(412_312_345, 412_312_345, 412_312_345) == "412 ms [412, 412]"
    assert units.ns_interval(412_312_345, None, None) == "412 ms"
    assert units.ns_interval(None, None, None) == "n/a"
    assert units.ratio_interval(1.3127, 1.24, 1.38) == "1.31x [1.24, 1.38]"
    assert units.ratio_interval(1.00312, 1.0021, 1.0042) == "1.0031x [1.0021, 1.0042]"
    assert units.ratio_interval(None, None, None) == "n/a"


def test_a_column_shares_one_unit_and_its_decimals() -> None:
    scale = units.ns_scale([412_345_678, 12_345])
    assert (scale.unit, scale(412_345_678), scale(12_345), scale(None)) == ("ms", "412.3", "0.0", "n/a")
    assert units.ns_scale([])(0) == "0"
    assert scale(-5_000_000, signed=True) == "-5.0"


def test_quantities_by_the_name_of_their_unit() -> None:
    assert units.quantity(1_500_000, "ns") == "1.50 ms"
    assert units.quantity(0.25, "share") == "25.0 %"
    assert units.quantity(180_224_000, "B") == "172 MiB"
    assert units.quantity(27_664_175_841, "B/s") == "27.7 GB/s"
    assert units.quantity(64, "layers") == "64 layers"
    assert units.quantity(1, "layers") == "1 layer"
    assert units.quantity(15.81, "FLOP/B") == "15.8 FLOP/B"
    assert units.quantity(2.5, "W") == "2.50 W"
    assert units.quantity("float32", "") == "float32"
    assert units.quantity(None, "W") == "n/a"
    assert units.quantity(7, "count") == "7"


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=30), st.integers(0, 2))
def test_shares_add_up_to_one_hundred(parts: list[int], decimals: int) -> None:
    texts = units.shares(parts, decimals)
    if sum(parts) == 0:
        assert set(texts) == {"n/a"}
        return
    tenths = [0 if t.startswith("<") else round(float(t.removesuffix(" %")) * 10**decimals) for t in texts]
    assert sum(tenths) == 100 * 10**decimals
    assert all(abs(t - 100 * 10**decimals * p / sum(parts)) <= 1 for t, p in zip(tenths, parts, strict=True))


@given(st.integers(1, 10**15))
def test_ns_is_within_half_a_unit_of_the_third_digit(value: int) -> None:
    text, unit = units.ns(value).replace(",", "").split()
    back = float(text) * {"ns": 1, "µs": 1e3, "ms": 1e6, "s": 1e9}[unit]
    assert math.isclose(back, value, rel_tol=0.00501)


def test_a_gain_that_says_nothing_is_not_known() -> None:
    assert units.gain_interval(1.31, 1.24, 1.38) == "1.31x [1.24, 1.38]"
    assert units.gain_interval(9.0, 5.3, 14.0, most=1) == "9.0x [5.3, 14.0]"  # 12 % of the step are left open
    assert units.gain_interval(1.37, 1.23, 20.0) == "not known, at least 1.23x"
    assert units.gain_interval(1.5, 1.0, 2.5) == "not known"
