"""How does the speed-up run along the last axis of a sweep? Measured with its interval, predicted beside it, the line
of break-even at 1x; a chart for each setting of all axes but the last two, a line for each value of the last but one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from loraprof import units
from loraprof.comparison.grid import grid
from loraprof.model.sweep import Sweep, SweepCell
from loraprof.report.page.svg import escape, figure, label

WIDTH, HEIGHT = 900, 300
LEFT, RIGHT, TOP, BOTTOM = 60, 120, 14, 40
Height = Callable[[float], float]  # of a ratio
TONES: Final = {"faster": "good", "slower": "bad"}
MARKS: Final = (0.1, 0.25, 0.5, 0.67, 0.8, 1.0, 1.25, 1.5, 2.0, 4.0, 10.0)
DASHES: Final = ("", "6 3", "2 3", "9 3 2 3")  # lines are told apart without colours


def curves(sweep: Sweep) -> str:
    """Nothing where no cell was measured."""
    *outer, last = sweep.axes
    rows = outer.pop() if outer else None
    drawn = []
    for at in grid({name: sweep.axes[name] for name in outer}):
        lines = {}
        for row in sweep.axes[rows] if rows else [""]:
            wanted = {**at, **({rows: row} if rows else {})}
            cells = [c for c in sweep.cells if wanted.items() <= c.values.items() and c.speedup]
            if cells:
                lines[f"{rows}={row}" if rows else "measured"] = cells
        if lines:
            title = " ".join(f"{name}={value}" for name, value in at.items())
            drawn.append(_chart(title, last, sweep.axes[last], lines))
    return "".join(drawn)


def _chart(title: str, axis: str, ticks: Sequence[str], lines: Mapping[str, Sequence[SweepCell]]) -> str:
    cells = [cell for line in lines.values() for cell in line]
    known = [v for c in cells for v in (c.speedup, c.low, c.high, c.predicted) if v]
    low, high = math.log(min(*known, 0.95)), math.log(max(*known, 1.05))
    low, high = low - 0.06 * (high - low), high + 0.06 * (high - low)
    step = (WIDTH - LEFT - RIGHT) / max(len(ticks) - 1, 1)

    def x(cell: SweepCell) -> float:
        return LEFT + step * ticks.index(cell.values[axis]) if len(ticks) > 1 else LEFT + (WIDTH - LEFT - RIGHT) / 2

    def y(ratio: float) -> float:
        return HEIGHT - BOTTOM - (math.log(ratio) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [*_frame(axis, ticks, step, y, (math.exp(low), math.exp(high)))]
    for number, (name, line) in enumerate(lines.items()):
        points = " ".join(f"{x(c):.1f},{y(c.speedup or 1):.1f}" for c in line)
        parts.append(f'<polyline class="line" points="{points}" stroke-dasharray="{DASHES[number % len(DASHES)]}"/>')
        parts.append(label(x(line[-1]) + 10, y(line[-1].speedup or 1) + 4, name, RIGHT - 10))
        parts += [_point(c, x(c), y) for c in line]
    caption = "; ".join(f"{name}: {', '.join(_cell_caption(c, axis) for c in line)}" for name, line in lines.items())
    head = f"<h3>{escape(title)}</h3>" if title else ""
    words = "bars: the interval measured · ring: predicted · hollow: not decided · 1x: LoRA as fast as full fine-tuning"
    return f'{head}{figure("curve", HEIGHT, caption, *parts)}<p class="dim">{words}</p>'


def _cell_caption(cell: SweepCell, axis: str) -> str:
    return f"{units.ratio(cell.speedup)} at {axis} {cell.values[axis]}"


def _frame(axis: str, ticks: Sequence[str], step: float, y: Height, ends: tuple[float, float]) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    marks = [v for v in MARKS if ends[0] <= v <= ends[1]]
    parts = []
    for value in marks:
        kind = "even" if value == 1.0 else "grid"
        parts.append(f'<line class="{kind}" x1="{LEFT}" x2="{right}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" class="end">{value:g}x</text>')
    for number, tick in enumerate(ticks):
        at = LEFT + step * number if len(ticks) > 1 else LEFT + (right - LEFT) / 2
        parts.append(f'<text x="{at:.1f}" y="{bottom + 16}" class="middle">{escape(tick)}</text>')
    parts.append(f'<text x="{right}" y="{HEIGHT - 4}" class="end">{escape(axis)}</text>')
    return parts


def _point(cell: SweepCell, x: float, y: Height) -> str:
    tone, ratio = TONES.get(cell.verdict or "", "rest"), cell.speedup or 1.0
    low, high = cell.low or ratio, cell.high or ratio
    title = f"{' '.join(f'{k}={v}' for k, v in cell.values.items())}: "
    title += f"{units.ratio_interval(cell.speedup, cell.low, cell.high)}, {cell.verdict or 'unknown'}"
    title += f"; predicted {units.ratio(cell.predicted)}" if cell.predicted else ""
    ring = f'<circle class="predicted" cx="{x:.1f}" cy="{y(cell.predicted):.1f}" r="6"/>' if cell.predicted else ""
    return (
        f'<g class="t-{tone}"><title>{escape(title)}</title>'
        f'<line class="interval" x1="{x:.1f}" x2="{x:.1f}" y1="{y(low):.1f}" y2="{y(high):.1f}"/>{ring}'
        f'<circle class="{"open" if tone == "rest" else "dot"}" cx="{x:.1f}" cy="{y(ratio):.1f}" r="4" '
        f'data-v="{ratio!r}"/></g>'
    )
