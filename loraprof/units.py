"""How is a number written? The only place where numbers become text; pure, no dependencies.

Three significant digits unless the caller knows better; with an interval, two digits of its width decide:
as many digits as the data support. ``None`` is unknown and reads ``n/a``, never 0. Times are integer ns on
input, sizes are bytes (binary prefixes), work and rates use decimal prefixes.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

NA: Final = "n/a"
TENFOLD: Final = 10.0
KNOWN: Final = 0.5  # of the step, that the interval of a predicted speed-up may leave open
SURE: Final = 1.05  # the least that is worth telling of one that leaves more

_Steps = Sequence[tuple[int, str]]

_TIME = ((1, "ns"), (10**3, "µs"), (10**6, "ms"), (10**9, "s"))
_SIZE = ((1, "B"), (2**10, "KiB"), (2**20, "MiB"), (2**30, "GiB"), (2**40, "TiB"))
_SI = ((1, ""), (10**3, "k"), (10**6, "M"), (10**9, "G"), (10**12, "T"), (10**15, "P"))


@dataclass(frozen=True, slots=True)
class Scale:
    """One unit and one number of decimals for a whole column, so that its numbers line up."""

    divisor: int
    unit: str
    decimals: int

    def __call__(self, value: float | None, *, signed: bool = False) -> str:
        """The bare number in this scale; the unit belongs into the column's head."""
        if value is None:
            return NA
        return _fixed(value / self.divisor, self.decimals, signed)


def _fixed(value: float, decimals: int, signed: bool = False) -> str:
    text = f"{value:+,.{decimals}f}" if signed else f"{value:,.{decimals}f}"
    return text.lstrip("+-") if not any(c in "123456789" for c in text) else text


def _decimals(value: float, digits: int) -> int:
    """Decimals that show ``digits`` significant digits of ``value``; never fewer than 0."""
    if value == 0 or not math.isfinite(value):
        return 0
    leading = math.floor(math.log10(abs(value)))
    if round(abs(value), digits - 1 - leading) >= 10 ** (leading + 1):
        leading += 1
    return max(0, digits - 1 - leading)


def _step(value: float, steps: _Steps, digits: int) -> tuple[int, str]:
    """The largest unit in which ``value``, rounded, is at least 1."""
    best = steps[0]
    for divisor, unit in steps:
        scaled = abs(value) / divisor
        if scaled and float(f"{scaled:.{digits - 1}e}") >= 1:
            best = divisor, unit
    return best


def _auto(value: float | None, steps: _Steps, suffix: str, digits: int = 3, signed: bool = False) -> str:
    if value is None:
        return NA
    divisor, unit = _step(value, steps, digits)
    scaled = value / divisor
    # The smallest units (ns, B) of an integer have no fractions to show.
    decimals = 0 if divisor == 1 and scaled == int(scaled) else _decimals(scaled, digits)
    return f"{_fixed(scaled, decimals, signed)} {unit}{suffix}".rstrip()


def ns(value: float | None, digits: int = 3, *, signed: bool = False) -> str:
    """``12345678`` -> ``12.3 ms``."""
    return _auto(value, _TIME, "", digits, signed)


def nbytes(value: float | None) -> str:
    """``1610612736`` -> ``1.50 GiB``."""
    return _auto(value, _SIZE, "")


def flops(value: float | None) -> str:
    """``1.2e12`` -> ``1.20 TFLOP``."""
    return _auto(value, _SI, "FLOP")


def flops_per_s(value: float | None) -> str:
    """``3.12e14`` -> ``312 TFLOP/s``."""
    return _auto(value, _SI, "FLOP/s")


def bytes_per_s(value: float | None) -> str:
    """``3.35e12`` -> ``3.35 TB/s`` (decimal, as data sheets state it)."""
    return _auto(value, _SI, "B/s")


def count(value: float | None) -> str:
    """``12345`` -> ``12,345``."""
    if value is None:
        return NA
    return _fixed(value, 0) if value == int(value) else number(value)


def number(value: float | None, digits: int = 3) -> str:
    """A plain number with ``digits`` significant digits and no unit."""
    return NA if value is None else _fixed(value, _decimals(value, digits))


def ratio(value: float | None, decimals: int = 2) -> str:
    """``1.234`` -> ``1.23x``."""
    return NA if value is None else f"{_fixed(value, decimals)}x"


def percent(fraction: float | None, decimals: int = 1) -> str:
    """``0.1234`` -> ``12.3 %``; what would round to nothing but is not nothing reads ``<0.1 %``, ten times ``10x``."""
    if fraction is None:
        return NA
    if abs(fraction) >= TENFOLD:
        return ratio(fraction, 0)
    least = 10.0**-decimals
    if 0 < fraction * 100 < least / 2:
        return f"<{_fixed(least, decimals)} %"
    return f"{_fixed(fraction * 100, decimals)} %"


def shares(parts: Sequence[int], decimals: int = 1) -> list[str]:
    """Percentages of non-negative integers that add up to exactly 100 (largest remainder method).

    What would read 0 but is not reads ``<0.1 %`` and counts as 0.
    """
    total = sum(parts)
    if total == 0:
        return [NA] * len(parts)
    units = 100 * 10**decimals
    exact = [Fraction(part * units, total) for part in parts]
    floors = [math.floor(e) for e in exact]
    order = sorted(range(len(parts)), key=lambda i: (floors[i] - exact[i], i))
    for i in order[: units - sum(floors)]:
        floors[i] += 1
    least = f"<{_fixed(10.0**-decimals, decimals)} %"
    texts = [f"{_fixed(f / 10**decimals, decimals)} %" for f in floors]
    return [least if p and not f else t for p, f, t in zip(parts, floors, texts, strict=True)]


def named(noun: str, numbers: Iterable[int]) -> str:
    """``{1}`` -> ``rank 1``; ``{0, 2, 3, 4}`` -> ``ranks 0, 2–4``; eight runs at most."""
    runs: list[list[int]] = []
    for n in sorted(set(numbers)):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    words = [str(a) if a == b else f"{a}–{b}" if b > a + 1 else f"{a}, {b}" for a, b in runs[:8]]
    if rest := sum(b - a + 1 for a, b in runs[8:]):
        words.append(f"and {rest} more")
    one = len(runs) == 1 and runs[0][0] == runs[0][1]
    return f"{noun if one else f'{noun}s'} {', '.join(words)}"


def interval_decimals(low: float, high: float, *, least: int = 0, most: int = 6) -> int:
    """Decimals at which the width of the interval shows two digits."""
    return min(most, max(least, _decimals(high - low, 2) if high > low else most))


def ns_interval(median: float | None, low: float | None, high: float | None) -> str:
    """``412.3 ms [411.9, 413.0]``."""
    if median is None or low is None or high is None:
        return ns(median)
    divisor, unit = _step(median, _TIME, 3)
    # A width of zero says nothing about precision: three digits then.
    width = interval_decimals(low / divisor, high / divisor, most=9)
    decimals = 0 if divisor == 1 else width if high > low else _decimals(median / divisor, 3)
    mid, lo, hi = (_fixed(v / divisor, decimals) for v in (median, low, high))
    return f"{mid} {unit} [{lo}, {hi}]"


def ns_between(low: float, high: float, beside: float) -> str:
    """``[107, 116]``, in the unit and with the digits that ``beside`` has in a text: its bounds."""
    divisor, _ = _step(beside, _TIME, 3)
    decimals = _decimals(beside / divisor, 3) if divisor > 1 else 0
    return f"[{_fixed(low / divisor, decimals)}, {_fixed(high / divisor, decimals)}]"


def ratio_interval(value: float | None, low: float | None, high: float | None, most: int = 4) -> str:
    """``1.31x [1.24, 1.38]``."""
    if value is None or low is None or high is None:
        return ratio(value)
    decimals = interval_decimals(low, high, least=2, most=most) if high > low else 2
    return f"{_fixed(value, decimals)}x [{_fixed(low, decimals)}, {_fixed(high, decimals)}]"


def is_known(low: float, high: float) -> bool:
    """Whether an interval of a speed-up says more than that there is one."""
    return 1 / low - 1 / high <= KNOWN


def gain_interval(value: float, low: float, high: float, most: int = 4) -> str:
    """A predicted speed-up; where its interval leaves more than half of the step open, only what is sure of it."""
    if is_known(low, high):
        return ratio_interval(value, low, high, most)
    return f"not known, at least {ratio(low, 2)}" if low >= SURE else "not known"


def ns_scale(values: Sequence[int], digits: int = 4) -> Scale:
    """The scale for a column of times: the unit of the largest, four digits of it."""
    largest = max((abs(v) for v in values), default=0)
    divisor, unit = _step(largest, _TIME, 3)
    if divisor == 1:
        return Scale(1, unit, 0)
    return Scale(divisor, unit, _decimals(largest / divisor, digits))


# The units a value may have in the JSON: scaled ones, plain ones, and plurals of what is counted.
QUANTITIES: Final[dict[str, Callable[[float | None], str]]] = {
    "ns": ns,
    "B": nbytes,
    "bytes": nbytes,
    "flops": flops,
    "FLOP/s": flops_per_s,
    "flops/s": flops_per_s,
    "B/s": bytes_per_s,
    "bytes/s": bytes_per_s,
    "ratio": ratio,
    "share": percent,
    "count": count,
}
PLAIN: Final = ("FLOP/B", "MHz", "W", "J", "per step")
COUNTED: Final = ("calls", "cores", "devices", "features", "kernels", "layers", "messages", "modules", "ops",
                  "parameters", "ranges", "regions", "steps", "tensors", "tokens")  # fmt: skip


def quantity(value: float | str | None, unit: str) -> str:
    """A finding's evidence: ``value`` in ``unit`` as the JSON names it (``ns``, ``B``, ``share``, …)."""
    if isinstance(value, str):
        return f"{value} {unit}".strip()
    if unit == "":
        return number(value) if isinstance(value, float) else count(value)
    if unit in QUANTITIES:
        return QUANTITIES[unit](value)
    if value is None:
        return NA
    if value == 1 and unit in COUNTED:
        unit = unit.removesuffix("s")
    return f"{count(value) if isinstance(value, int) else number(value)} {unit}"
