"""How many nanoseconds is a time that the file prints in microseconds, exactly?

Kineto prints three decimals: ``4483781115872.905`` us is the integer ...905 ns. ``round(float * 1000)`` is off by
one for about 1 % of such values, because float64 is spaced 2^-10 us there. Splitting first is exact:

    ns = 1000 floor(f) + rint(1000 (f - floor(f)))        for |f| < 2^43 us

since ``f - floor(f)`` has no rounding error and 1000 half-spacings are 0.488 ns < 0.5 ns. Larger times that have
decimals are read from their text. Times finer than a nanosecond are rounded to the nearest.
"""

import re
from array import array
from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import numpy as np

from loraprof.model.trace import Int8, Int64

EXACT_US: Final = 2.0**43
LIMIT_NS: Final = 2**62 - 1  # the sum of two times still fits an int64

OK, MISSING, NOT_FINITE = 0, 1, 2

_PLAIN = re.compile(rb"(-?)(\d{1,15}|[1-3]\d{15})(?:\.(\d{1,3}))?")


def fast_ns(values: Sequence[Any]) -> Int64 | None:
    """``values`` (numbers, or what is none) in microseconds as exact ns; ``None`` when only their text can tell."""
    try:
        us = np.frombuffer(array("d", values), np.float64)
    except (TypeError, OverflowError):  # a string, a null, an integer of 400 digits
        return None
    if not len(us) or np.abs(us).max() < EXACT_US:  # False for NaN too
        whole = np.floor(us)
        return np.asarray(whole.astype(np.int64) * 1000 + np.rint((us - whole) * 1000).astype(np.int64))
    try:
        integers = np.frombuffer(array("q", values), np.int64)
    except (TypeError, OverflowError):  # some have decimals
        return None
    fits = integers.min() >= -LIMIT_NS // 1000 and integers.max() <= LIMIT_NS // 1000
    return np.asarray(integers * 1000) if fits else None


def text_ns(texts: Iterable[bytes]) -> tuple[Int64, Int8]:
    """The same from JSON numbers as written (or quoted), with OK, MISSING or NOT_FINITE for each."""
    pairs = [_text_ns(text) for text in texts]
    return np.array([ns for ns, _ in pairs], np.int64), np.array([status for _, status in pairs], np.int8)


def _text_ns(text: bytes) -> tuple[int, int]:
    if plain := _PLAIN.fullmatch(text):
        sign, whole, decimals = plain.groups()
        ns = int(whole) * 1000 + int((decimals or b"").ljust(3, b"0"))
        return (-ns if sign else ns), OK
    if text in (b"", b"null"):
        return 0, MISSING
    try:
        us = Decimal(text.strip(b'"').decode("ascii", "replace"))
    except InvalidOperation:
        return 0, NOT_FINITE
    if not us.is_finite() or us.adjusted() > 15 or abs(us) * 1000 > LIMIT_NS:
        return 0, NOT_FINITE
    return int((us * 1000).to_integral_value()) if us.adjusted() > -9 else 0, OK
