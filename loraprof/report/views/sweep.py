"""What does a sweep show? A heat map of the speed-up with the line where LoRA stops losing, and every cell; pure.

In the map the line between gain and loss runs along the left edge of a cell with ``┃``, the upper edge of one with
``▔``.
"""

from collections.abc import Mapping, Sequence

from loraprof import units
from loraprof.comparison.grid import grid
from loraprof.model.sweep import Crossover, Sweep, SweepCell
from loraprof.report.document import Block, Cell, Column, Document, Facts, Paragraph, Row, Section, Table, numbers

_LEGEND = "The line between gain and loss runs along the left edge of a cell with ┃, the upper edge of one with ▔."
TONES = {"faster": "good", "slower": "bad", "undecided": "unsure"}


def view_sweep(sweep: Sweep) -> Document:
    """Everything a renderer prints about a sweep."""
    sections = [*_maps(sweep), *_crossovers(sweep.crossovers), Section("cells", "Cells", (_cells(sweep),))]
    if notes := _notes(sweep.cells):
        sections.append(Section("notes", "Notes", (Facts(tuple(notes)),)))
    facts = (("input", f"{sweep.workload} · {sweep.device_name} · speed-up = full / lora, interleaved in every cell"),)
    return Document(f"loraprof sweep: {sweep.workload}", headline(sweep), facts, tuple(sections))


def headline(sweep: Sweep) -> str:
    """How often LoRA gains, and where most and least."""
    known = [(c.speedup, c) for c in sweep.cells if c.speedup is not None]
    if not known:
        return "No cell could be measured."
    count = sum(c.verdict == "faster" for _, c in known)
    lost = sum(c.verdict == "slower" for _, c in known)
    best, worst = max(known, key=lambda k: k[0]), min(known, key=lambda k: k[0])
    ends = (
        f"from {units.ratio(worst[0])} ({_name(worst[1].values)}) to {units.ratio(best[0])} ({_name(best[1].values)})"
    )
    if not count and not lost:
        return f"No difference between LoRA and full fine-tuning is established in {_all_of(len(known))}: {ends}."
    return (
        f"LoRA is faster in {units.count(count)} and slower in {units.count(lost)} of {units.count(len(known))} cells"
        f"{_undecided(len(known) - count - lost)}: {ends}."
    )


def _all_of(count: int) -> str:
    return "the one cell" if count == 1 else f"any of {units.count(count)} cells"


def _undecided(count: int) -> str:
    return f", undecided in {units.count(count)}" if count else ""


def _name(values: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items())


def _maps(sweep: Sweep) -> list[Section]:
    """One map per combination of all axes but the last two; rows run along the first of these."""
    *outer, last = sweep.axes
    rows = outer.pop() if outer else None
    found: list[Section] = []
    for at in grid({name: sweep.axes[name] for name in outer}):
        table = _map(sweep, at, rows, last)
        line = any(mark in cell.text for row in table.rows for cell in row for mark in "┃▔")
        blocks: tuple[Block, ...] = (table, Paragraph(_LEGEND)) if line else (table,)
        aside = f"{rows} down, {last} across" if rows else last
        found.append(Section("map", f"Speed-up {_name(at)}".rstrip(), blocks, aside))
    return found


def _map(sweep: Sweep, at: Mapping[str, str], rows: str | None, across: str) -> Table:
    def cell(row: str | None, column: str) -> SweepCell | None:
        wanted = {**at, **({rows: row} if rows and row else {}), across: column}
        return next((c for c in sweep.cells if c.values == wanted), None)

    down: Sequence[str | None] = sweep.axes[rows] if rows else [None]
    columns = sweep.axes[across]
    table: list[Row] = []
    for i, row in enumerate(down):
        line = [Cell(row or "")]
        for k, column in enumerate(columns):
            current = cell(row, column)
            left = cell(row, columns[k - 1]) if k else None
            above = cell(down[i - 1], column) if i else None
            line.append(_heat(current, _across_the_line(left, current), _across_the_line(above, current)))
        table.append(tuple(line))
    return Table((Column(rows or ""), *(numbers(c) for c in columns)), tuple(table))


def _across_the_line(first: SweepCell | None, second: SweepCell | None) -> bool:
    """Whether the line runs between two cells."""
    if first is None or second is None or first.speedup is None or second.speedup is None:
        return False
    return (first.speedup < 1) != (second.speedup < 1)


def _heat(cell: SweepCell | None, left: bool, above: bool) -> Cell:
    if cell is None or cell.speedup is None:
        return Cell(cell.status if cell else "")
    text = f"{'┃' if left else ''}{units.ratio(cell.speedup)}{'▔' if above else ' '}"
    return Cell(text, cell.speedup, tone=TONES.get(cell.verdict or "", ""))


def _crossovers(found: Sequence[Crossover]) -> list[Section]:
    if not found:
        return []
    axis = found[0].axis
    both = (numbers("measured"), numbers("predicted"))
    columns = (*(Column(name) for name in found[0].at), *both)
    rows = tuple(
        (*(Cell(v) for v in c.at.values()), Cell(units.number(c.measured), c.measured), Cell(units.number(c.predicted)))
        for c in found
    )
    table = Table(columns, rows)
    return [Section("crossover", f"Where LoRA breaks even along {axis}", (table,), "n/a: not in the grid")]


def _notes(cells: Sequence[SweepCell]) -> list[tuple[str, str]]:
    """What was said of the cells, each text once."""
    where: dict[str, list[str]] = {}
    for cell in cells:
        for text in (*((f"{cell.status}: {cell.reason}",) if cell.reason else ()), *cell.notes):
            where.setdefault(text, []).append(",".join(cell.values.values()))
    return [("all" if len(found) == len(cells) else "  ".join(found), text) for text, found in where.items()]


def _cells(sweep: Sweep) -> Table:
    columns = (
        *(Column(name) for name in sweep.axes),
        numbers("full", drop=2),
        numbers("lora", drop=2),
        numbers("speed-up"),
        Column("verdict"),
        numbers("predicted", drop=1),
    )
    return Table(columns, tuple(_row(cell) for cell in sweep.cells))


def _row(cell: SweepCell) -> Row:
    names = tuple(Cell(value) for value in cell.values.values())
    if cell.speedup is None:
        return (*names, Cell(cell.status), *(Cell("") for _ in range(4)))
    return (
        *names,
        Cell(units.ns(cell.full_ns), cell.full_ns),
        Cell(units.ns(cell.lora_ns), cell.lora_ns),
        Cell(units.ratio_interval(cell.speedup, cell.low, cell.high), cell.speedup),
        Cell(cell.verdict or "", tone=TONES.get(cell.verdict or "", "rest")),
        Cell(units.ratio_interval(cell.predicted, cell.predicted_low, cell.predicted_high), cell.predicted),
    )
