"""Which columns of a table fit, and how wide is each? Short heads first, then columns in the order of ``drop``.

Where nothing may be cut, or where what must stay does not fit, every row becomes two lines: its name, and below it its
numbers; their heads stand above in the same order.
"""

from collections.abc import Iterator, Sequence

from rich.text import Text

from loraprof.report.document import Cell, Column, Row, Table
from loraprof.report.terminal.text import DIM, fitted, pieces, text, tone, width_of

_GAP = 2
_ELASTIC_MIN = 20
_MARKED = ("good", "bad")


def table_lines(table: Table, width: int, whole: bool = False) -> Iterator[Text]:
    """Head, rows and footer; ``whole``: nothing is cut. A row whose later cells are empty may run on over them."""
    chosen, short, widths = layout(table, width, whole)
    if sum(widths) + _GAP * (len(widths) - 1) > width:
        yield from _two_lines(table, width, whole)
        return
    columns = [table.columns[i] for i in chosen]
    yield _line([Cell(_head(c, short)) for c in columns], columns, widths, DIM)
    for row in table.rows:
        yield _line([row[i] for i in chosen], columns, widths)
    for row in table.footer:
        yield _line([row[i] for i in chosen], columns, widths, DIM)


def layout(table: Table, width: int, whole: bool = False) -> tuple[list[int], bool, list[int]]:
    """Indices of the columns that stay, whether heads are short, and the width of each column; more than ``width``
    where it cannot be done."""
    chosen, short = list(range(len(table.columns))), False
    while True:
        need = [_need(table, i, short, whole) for i in chosen]
        spare = width - sum(need) - _GAP * (len(need) - 1)
        drops = {i: c.drop if not whole or c.gloss else 0 for i, c in enumerate(table.columns)}
        droppable = max(drops[i] for i in chosen)
        if spare >= 0 or (short and not droppable):
            return chosen, short, _stretched(table, chosen, need, max(0, spare))
        if not short:
            short = True
        else:
            chosen.remove(max(chosen, key=lambda i: drops[i]))


def _two_lines(table: Table, width: int, whole: bool) -> Iterator[Text]:
    """Each row's first cell in full, and the others below it, in columns where they fit."""
    rest = [i for i in range(1, len(table.columns)) if not (table.columns[i].gloss if whole else table.columns[i].drop)]
    widths = [max(len(_head(table.columns[i], True)), _longest(table, i)) for i in rest]
    while len(rest) > 1 and not whole and sum(widths) + _GAP * len(rest) > width:
        rest, widths = rest[:-1], widths[:-1]
    fits = sum(widths) + _GAP * len(rest) <= width
    columns = [table.columns[i] for i in rest]
    heads = _below([_head(c, True) for c in columns], columns, widths, width, fits)
    yield from (Text(line, DIM) for line in pieces(table.columns[0].title, width))
    yield from (Text(line, DIM) for line in heads)
    for rows, style in ((table.rows, ""), (table.footer, DIM)):
        for row in rows:
            yield from _name(row, width, style)
            cells = [row[i].text for i in rest]
            if any(cells):
                yield from (Text(line, style) for line in _below(cells, columns, widths, width, fits))


def _name(row: Row, width: int, style: str) -> Iterator[Text]:
    mark = 2 if row[0].tone and not style else 0
    for number, line in enumerate(pieces(row[0].full or row[0].text, width - mark)):
        swatch = ("■ " if number == 0 else "  ") if mark else ""
        yield Text.assemble((swatch, tone(row[0].tone)), (line, style))


def _below(
    cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int], width: int, fits: bool
) -> Sequence[str]:
    if not fits:
        return [" " * _GAP + line for line in pieces(" · ".join(c for c in cells if c), width - _GAP)]
    aligned = (fitted(c, w, right=k.number) for c, w, k in zip(cells, widths, columns, strict=True))
    return [" " * _GAP + (" " * _GAP).join(aligned)]


def _stretched(table: Table, chosen: Sequence[int], need: list[int], spare: int) -> list[int]:
    """Elastic columns take what is left, up to their longest text."""
    for k, i in enumerate(chosen):
        if table.columns[i].elastic:
            more = min(spare, max(0, _longest(table, i) - need[k]))
            need[k] += more
            spare -= more
    return need


def _head(column: Column, short: bool) -> str:
    return column.short if short and column.short else column.title


def _need(table: Table, i: int, short: bool, whole: bool) -> int:
    column = table.columns[i]
    longest = _longest(table, i)
    least = min(longest, _ELASTIC_MIN) if column.elastic and not whole else longest
    return max(len(_head(column, short)), least)


def _longest(table: Table, i: int) -> int:
    rows = [row for row in (*table.rows, *table.footer) if not _runs_on(row, i)]
    return max((width_of(row[i].text) + 2 * _has_swatch(row[i], i) for row in rows), default=0)


def _has_swatch(cell: Cell, i: int) -> bool:
    return i == 0 and bool(cell.tone)


def _runs_on(row: Sequence[Cell], i: int) -> bool:
    """A message in place of numbers: nothing follows it, so it needs no column of its own."""
    rest = row[i + 1 :]
    return bool(row[i].text) and row[i].value is None and len(rest) > 1 and not any(c.text for c in rest)


def _line(cells: Sequence[Cell], columns: Sequence[Column], widths: Sequence[int], style: str = "") -> Text:
    line = Text()
    for i, (cell, column, width) in enumerate(zip(cells, columns, widths, strict=True)):
        line.append(" " * _GAP if i else "")
        if i and not style and _runs_on(cells, i):
            return line.append_text(text(fitted(cell.text, sum(widths[i:]) + _GAP * (len(widths) - i - 1))))
        if _has_swatch(cell, i):
            line.append("■ ", tone(cell.tone))
            width -= 2
        colour = tone(cell.tone) if i and cell.tone in _MARKED else style
        line.append(fitted(cell.text, width, right=column.number), colour)
    return line
