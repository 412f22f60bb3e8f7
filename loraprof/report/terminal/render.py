"""How does a report look on a terminal? Calm text in at most 120 columns, colour only where it means something.

Works without colour (``NO_COLOR``, a pipe), in 80 columns (short heads, fewer columns) and without UTF-8. Every
block becomes finished lines, so that nothing is left to wrap and no line ends in blanks.
"""

import textwrap
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from loraprof.report.document import (
    Bar,
    Block,
    Document,
    Facts,
    Paragraph,
    Remarks,
    Section,
    Table,
    Waterfall,
)
from loraprof.report.palette import SEVERITY_TONES
from loraprof.report.shown import Shown, document_of
from loraprof.report.terminal.charts import bar_lines, waterfall_lines
from loraprof.report.terminal.table import table_lines
from loraprof.report.terminal.text import DIM, text, tone
from loraprof.text import printable

_WIDTH = 120
_LEAST_WIDTH = 80  # a narrower terminal wraps
_INDENT = 2
_ASCII = str.maketrans("█▉▊▋▌▍▎▏░│■·…┃▔", "#########|*-.|^")


def render(shown: Shown, console: Console) -> None:
    """Prints it; bars and tables fit the console's width."""
    print_lines(document_lines(document_of(shown), *_page(console)), console)


def to_text(shown: Shown, width: int = 100) -> bytes:
    """The same text for a file: UTF-8, no colour."""
    document = document_of(shown)
    return "".join(f"{line.plain.rstrip()}\n" for line in document_lines(document, width, False)).encode()


def _page(console: Console) -> tuple[int, bool]:
    return page_width(console), console.color_system is not None and not console.no_color


def page_width(console: Console) -> int:
    """Cells to fill: at least 80, at most 120, as long lines are hard to read."""
    return max(_LEAST_WIDTH, min(console.width, _WIDTH))


def print_lines(lines: Iterator[Text], console: Console) -> None:
    """Prints finished lines on any console: what its encoding lacks becomes ASCII."""
    for line in lines:
        line.rstrip()
        if not console.encoding.lower().startswith("utf"):
            plain = line.plain.translate(_ASCII).encode(console.encoding, "replace")
            line.plain = plain.decode(console.encoding)
        console.print(line, soft_wrap=True)


def document_lines(document: Document, width: int, colour: bool) -> Iterator[Text]:
    """The document as lines of at most ``width`` cells; detail sections are left to pages with room."""
    yield from wrapped(document.headline, width, "bold")
    yield from fact_lines(document.facts, width)
    for section in document.sections:
        if not section.detail:
            yield Text()
            yield _heading(section, width)
            yield from _indented(section.blocks, width - _INDENT, colour)


def _heading(section: Section, width: int) -> Text:
    gap = max(2, width - len(section.title) - len(section.aside))
    return Text.assemble(text(section.title, "bold"), " " * gap, text(section.aside, DIM))


def _indented(blocks: Sequence[Block], width: int, colour: bool) -> Iterator[Text]:
    for i, block in enumerate(blocks):
        if i:
            yield Text()
        for line in _block_lines(block, width, colour):
            yield Text(" " * _INDENT).append_text(line)


def _block_lines(block: Block, width: int, colour: bool) -> Iterator[Text]:
    match block:
        case Table():
            return table_lines(block, width)
        case Bar():
            return bar_lines(block, width, colour)
        case Waterfall():
            return waterfall_lines(block, width)
        case Facts():
            return fact_lines(block.lines, width)
        case Paragraph():
            return wrapped(block.text, width)
        case Remarks():
            return _remark_lines(block, width)


def wrapped(content: str, width: int, style: str = "") -> Iterator[Text]:
    """``content`` as a paragraph."""
    lines = textwrap.wrap(printable(content), width, break_on_hyphens=False)
    return (Text(printable(line), style) for line in lines)  # a word that was cut may begin a line with what it hid


def fact_lines(facts: Sequence[tuple[str, str]], width: int) -> Iterator[Text]:
    """A dim label before each text, the texts aligned."""
    label_width = max((len(label) for label, _ in facts), default=0) + 2
    for label, content in facts:
        for i, line in enumerate(wrapped(content, width - label_width)):
            yield Text.assemble(((label if i == 0 else "").ljust(label_width), DIM), line)


def _remark_lines(block: Remarks, width: int) -> Iterator[Text]:
    for i, item in enumerate(block.items):
        if i:
            yield Text()
        style = tone(SEVERITY_TONES[item.severity])
        head = [*wrapped(f"{item.title} ({item.severity})", width - 5, "bold")]
        for k, line in enumerate(head):
            yield Text.assemble((f"{item.id:<5}" if k == 0 else " " * 5, f"bold {style}"), line)
        facts = [
            ("gain", item.gain),
            ("do", item.remedy),
            ("seen", " · ".join(item.evidence)),
            ("see", ", ".join(item.see)),
        ]
        for line in fact_lines([(label, words) for label, words in facts if words], width - 5):
            yield Text(" " * 5).append_text(line)
