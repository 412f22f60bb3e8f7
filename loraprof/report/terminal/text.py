"""Text that is safe on a terminal, in the palette's colours and of a known width."""

import textwrap
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from loraprof.report.palette import TONES
from loraprof.text import printable

DIM: Final = "dim"
HALF: Final = "\0"  # stands for a cell while lines are broken


def text(content: str, style: str = "") -> Text:
    """Text that no file can turn into markup or escape codes."""
    return Text(printable(content), style)


def tone(key: str) -> str:
    """The style of a palette key; none for an empty one."""
    return TONES[key].ansi if key else ""


def width_of(content: str) -> int:
    """Cells on the screen; some characters take two."""
    return cell_len(printable(content))


def fitted(content: str, width: int, *, right: bool = False) -> str:
    """Exactly ``width`` cells: cut with an ellipsis or padded."""
    plain = printable(content)
    if cell_len(plain) > width:
        return set_cell_size(plain, max(0, width - 1)) + "…"
    blank = " " * (width - cell_len(plain))
    return blank + plain if right else plain + blank


def pieces(content: str, width: int) -> list[str]:
    """``content`` in lines of at most ``width`` cells, broken at spaces, and within a word that is longer."""
    plain = printable(content)
    if cell_len(plain) <= len(plain):
        return textwrap.wrap(plain, max(width, 1), break_on_hyphens=False) or [""]
    twice = "".join(HALF * (cell_len(c) - 1) + c for c in plain)  # a line may begin with the second half of a character
    lines = textwrap.wrap(twice, max(width - 1, 2), break_on_hyphens=False)
    return [line.replace(HALF, "") for line in lines]
