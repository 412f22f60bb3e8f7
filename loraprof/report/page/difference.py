"""Where do two steps differ? An icicle of what shrank and what grew: by phase, then by role or cause of idle time.

A box is as wide as the time by which its part of the step changed; a phase that both shrank and grew stands on both
sides. What profiling itself and the remainder make up stands apart.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from loraprof import units
from loraprof.model.compare import Bar, Waterfall
from loraprof.report.page.svg import escape, figure, label, rect

WIDTH: Final = 900
ROW: Final = 26
ASIDE: Final = {"profiler": "profiling itself", "residual": "not explained"}


class _Box(Struct, frozen=True):
    name: str
    bars: Sequence[Bar]

    @property
    def ns(self) -> int:
        return sum(bar.ns for bar in self.bars)

    @property
    def width_ns(self) -> int:
        return sum(abs(bar.ns) for bar in self.bars)


def difference(data: Waterfall) -> str:
    """Nothing where nothing changed. ``data-ns`` of a box is the sum of its bars."""
    changed = [bar for bar in data.bars if bar.ns]
    whole = sum(abs(bar.ns) for bar in changed)
    if not whole:
        return ""
    parts: list[str] = []
    x = 0.0
    for side, tone in (("shrank", "good"), ("grew", "bad"), ("not the step's", "rest")):
        box = _Box(side, [bar for bar in changed if _side(bar) == side])
        x = _drawn(parts, box, (x, 0), WIDTH / whole, tone)
    caption = f"from {data.from_} to {data.to}: " + "; ".join(
        f"{_name(bar)} {units.ns(bar.ns, signed=True)}" for bar in sorted(changed, key=lambda b: -abs(b.ns))[:8]
    )
    head = f"What shrank and what grew from {escape(data.from_)} to {escape(data.to)}"
    return f"<h3>{head}</h3>{figure('difference', 3 * (ROW + 2), caption, *parts)}"


def _side(bar: Bar) -> str:
    return "not the step's" if bar.key in ASIDE else "shrank" if bar.ns < 0 else "grew"


def _name(bar: Bar) -> str:
    return ASIDE.get(bar.key) or " ".join(word for word in (bar.phase, bar.role or bar.key) if word)


def _drawn(parts: list[str], box: _Box, at: tuple[float, int], scale: float, tone: str) -> float:
    """Draws a box and those inside it; returns where the next one starts."""
    (x, depth), wide, y = at, box.width_ns * scale, at[1] * (ROW + 2)
    if not box.bars:
        return x
    caption = f"{box.name}: {units.ns(box.ns, signed=True)}"
    shown = f"{box.name} {units.ns(box.ns, signed=True)}"
    parts.append(rect(x, max(wide - 1.5, 0.5), ROW, tone, caption, y, f' data-ns="{box.ns}"'))
    parts.append(label(x + 5, y + ROW / 2 + 4, shown, wide - 10, tone))
    if depth < 2:
        inner = x
        for child in _nested(box, depth):
            inner = _drawn(parts, child, (inner, depth + 1), scale, tone)
    return x + wide


def _nested(box: _Box, depth: int) -> list[_Box]:
    """By phase, then by role and cause; the widest first."""
    groups: dict[str, list[Bar]] = {}
    for bar in box.bars:
        words = ASIDE.get(bar.key) or ((bar.phase or bar.key) if depth == 0 else _place(bar))
        groups.setdefault(words, []).append(bar)
    return sorted((_Box(name, bars) for name, bars in groups.items()), key=lambda b: -b.width_ns)


def _place(bar: Bar) -> str:
    return f"idle: {bar.cause}, {bar.role or ''}".rstrip(", ") if bar.cause else bar.role or bar.key
