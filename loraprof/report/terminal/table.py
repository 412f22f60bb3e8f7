"""Which columns of a table fit, and how wide is each? Short heads first, then columns in the order of ``drop``."""

from collections.abc import Iterator, Sequence

from rich.text import Text

from loraprof.report.document import Cell, Column, Table
from loraprof.report.terminal.text import DIM, fitted, text, tone, width_of

_GAP = 2
_ELASTIC_MIN = 20
_MARKED = ("good", "bad")


def table_lines(table: Table, width: int) -> Iterator[Text]:
    """Head, rows and footer. A row whose later cells are all empty may run on over them."""
    chosen, short, widths = layout(table, width)
    columns = [table.columns[i] for i in chosen]
    yield _line([Cell(_head(c, short)) for c in columns], columns, widths, DIM)
    for row in table.rows:
        yield _line([row[i] for i in chosen], columns, widths)
    for row in table.footer:
        yield _line([row[i] for i in chosen], columns, widths, DIM)


def layout(table: Table, width: int) -> tuple[list[int], bool, list[int]]:
    """Indices of the columns that stay, whether heads are short, and the width of each column."""
    chosen, short = list(range(len(table.columns))), False
    while True:
        need = [_need(table, i, short) for i in chosen]
        spare = width - sum(need) - _GAP * (len(need) - 1)
        droppable = max(table.columns[i].drop for i in chosen)
        if spare >= 0 or (short and not droppable):
            return chosen, short, _stretched(table, chosen, need, max(0, spare))
        if not short:
            short = True
        else:
            chosen.remove(max(chosen, key=lambda i: table.columns[i].drop))


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


def _need(table: Table, i: int, short: bool) -> int:
    column = table.columns[i]
    longest = _longest(table, i)
    return max(len(_head(column, short)), min(longest, _ELASTIC_MIN) if column.elastic else longest)


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
