"""What did each remedy that was tried give? Measured with its interval, over the one predicted; 1x: nothing changed."""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from loraprof import units
from loraprof.model.finding import Gain
from loraprof.model.fix import Fix, Measured
from loraprof.report.page.svg import escape, figure, label, rect

WIDTH, LEFT, RIGHT, ROW = 900, 220, 30, 28
TONES: Final = {"faster": "good", "slower": "bad", "undecided": "rest"}


class _Row(Struct, frozen=True):
    arm: str
    measured: Measured
    predicted: Gain | None

    @property
    def speeds(self) -> tuple[float, float, float]:
        """Speed-up measured, least and most."""
        return 1 / self.measured.ratio, 1 / self.measured.high, 1 / self.measured.low

    @property
    def ends(self) -> tuple[float, ...]:
        return (*self.speeds, *((self.predicted.low, self.predicted.high) if self.predicted else ()))


def tried(found: Fix) -> str:
    """Nothing where nothing was measured. ``data-v`` of a dot is the speed-up."""
    rows = [_Row(t.arm, t.measured, t.predicted) for t in found.remedies if t.measured]
    if found.together:
        rows.append(_Row(" + ".join(found.together.arms), found.together.measured, None))
    if not rows:
        return ""
    caption = "; ".join(f"{row.arm}: {units.ratio(row.speeds[0])}" for row in rows)
    words = "dot and line: measured · pale bar: predicted · 1x: the unchanged program"
    return f'{figure("tried", ROW * len(rows) + 24, caption, *_parts(rows))}<p class="dim">{words}</p>'


def _parts(rows: Sequence[_Row]) -> list[str]:
    ends = [1.0, *(v for row in rows for v in row.ends)]
    low, high = min(ends), max(ends)

    def x(speedup: float) -> float:
        return LEFT + (speedup - low) / (high - low or 1.0) * (WIDTH - LEFT - RIGHT)

    bottom = ROW * len(rows)
    parts = [f'<line class="even" x1="{x(1):.1f}" x2="{x(1):.1f}" y1="0" y2="{bottom}"/>']
    parts += [
        f'<text class="middle" x="{x(v):.1f}" y="{bottom + 16}">{units.ratio(v)}</text>'
        for v in dict.fromkeys((low, 1.0, high))
    ]
    for number, row in enumerate(rows):
        middle, (speed, least, most) = ROW * number + ROW / 2, row.speeds
        tone = TONES[row.measured.verdict]
        parts.append(label(0, middle + 4, row.arm, LEFT - 20))
        if p := row.predicted:
            caption = f"predicted {units.ratio_interval(p.speedup, p.low, p.high, most=2)}"
            parts.append(rect(x(p.low), max(x(p.high) - x(p.low), 1), 16, "queue", caption, middle - 8))
        caption = f"{row.arm}: measured {units.ratio_interval(speed, least, most, most=2)}"
        span = f'x1="{x(least):.1f}" x2="{x(most):.1f}" y1="{middle}" y2="{middle}"'
        dot = f'<circle class="dot" cx="{x(speed):.1f}" cy="{middle}" r="5" data-v="{speed!r}"/>'
        title = f"<title>{escape(caption)}</title>"
        parts.append(f'<g class="t-{tone}">{title}<line class="measured" {span}/>{dot}</g>')
    return parts
