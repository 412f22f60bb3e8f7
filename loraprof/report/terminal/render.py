"""How does a report look on a terminal? Calm text in at most 120 columns, colour only where it means something.

Works without colour (``NO_COLOR``, a pipe), from 40 columns on and without UTF-8. A terminal gets what fits a screen;
``full`` and ``section`` give the rest. Every block becomes finished lines, so that nothing is left to wrap and no line
ends in blanks. In a pipe, a file and with ``full`` nothing is cut.
"""

from collections.abc import Iterator, Sequence
from itertools import count

from msgspec.structs import replace
from rich.console import Console
from rich.text import Text

from loraprof.errors import UsageError
from loraprof.report.document import (
    Balance,
    Bar,
    Block,
    Document,
    Facts,
    Paragraph,
    Proposal,
    Proposals,
    Remarks,
    Section,
    Table,
    Waterfall,
)
from loraprof.report.palette import SEVERITY_TONES
from loraprof.report.shown import Shown, document_of
from loraprof.report.terminal.charts import balance_lines, bar_lines, waterfall_lines
from loraprof.report.terminal.table import table_lines
from loraprof.report.terminal.text import DIM, pieces, text, tone, width_of

_WIDTH = 120
_LEAST_WIDTH = 20
SCREEN, SCREEN_WIDTH = 40, 100  # lines of the page on a terminal of that width
_BESIDE = 60  # from this width on labels stand beside their texts
_INDENT = 2
UNTITLED = ("account", "do", "sure")  # their first lines say what they are
_ASCII = str.maketrans("█▉▊▋▌▍▎▏▓▒░│■·…┃▔→±µ▁▂▃▄▅▆▇", "########%=.|*-.|^>~u__--==#")


def render(shown: Shown, console: Console, full: bool = False, section: str | None = None) -> None:
    """Prints it; bars and tables fit the console's width. Raises UsageError for a section that it has not."""
    width = page_width(console)
    document = chosen(document_of(shown), full, section, width)
    print_lines(document_lines(document, width, full or not console.is_terminal), console)


def to_text(shown: Shown, width: int = 100, full: bool = False, section: str | None = None) -> bytes:
    """The same text for a file: UTF-8, no colour, nothing cut."""
    lines = document_lines(chosen(document_of(shown), full, section, width), width, whole=True)
    return "".join(f"{line.plain.rstrip()}\n" for line in lines).encode()


def chosen(document: Document, full: bool, section: str | None, width: int) -> Document:
    """The sections asked for; without a wish the brief ones, or of a document that has none all that are no detail."""
    sections = document.sections
    if section is not None:
        one = tuple(s for s in sections if s.id == section)
        if not one:
            names = ", ".join(s.id for s in sections)
            raise UsageError(f"there is no section {section!r} here", f"choose one of {names}")
        return Document(document.title, "", (), one)
    if full:
        return document
    brief = tuple(s for s in sections if s.brief)
    if not brief:
        return replace(document, sections=tuple(s for s in sections if not s.detail))
    page = replace(document, sections=brief)
    while width >= SCREEN_WIDTH and sum(1 for _ in document_lines(page, width)) > SCREEN:
        fewer = tuple(map(_one_less, page.sections))
        if fewer == page.sections:
            break
        page = replace(page, sections=fewer)
    return page


def _one_less(section: Section) -> Section:
    """Without the last change of the longest group that is proposed, where several are."""
    for i, block in enumerate(section.blocks):
        if isinstance(block, Proposals) and sum(len(items) for _, items in block.groups) > 1:
            longest = max(range(len(block.groups)), key=lambda k: (len(block.groups[k][1]), k))
            cut = [(title, items[:-1] if k == longest else items) for k, (title, items) in enumerate(block.groups)]
            fewer = Proposals(_numbered([(title, items) for title, items in cut if items]))
            return replace(section, blocks=(*section.blocks[:i], fewer, *section.blocks[i + 1 :]))
    return section


def _numbered(groups: Sequence[tuple[str, tuple[Proposal, ...]]]) -> tuple[tuple[str, tuple[Proposal, ...]], ...]:
    """Numbered through, from 1."""
    number = count(1)
    return tuple((title, tuple(replace(item, number=next(number)) for item in items)) for title, items in groups)


def page_width(console: Console) -> int:
    """Cells to fill: at most 120, as long lines are hard to read."""
    return max(_LEAST_WIDTH, min(console.width, _WIDTH))


def print_lines(lines: Iterator[Text], console: Console) -> None:
    """Prints finished lines on any console: what its encoding lacks becomes ASCII."""
    for line in lines:
        line.rstrip()
        if not console.encoding.lower().startswith("utf"):
            plain = line.plain.translate(_ASCII).encode(console.encoding, "replace")
            line.plain = plain.decode(console.encoding)
        console.print(line, soft_wrap=True)


def document_lines(document: Document, width: int, whole: bool = False) -> Iterator[Text]:
    """The document as lines of at most ``width`` cells; ``whole``: none of its texts is cut."""
    first = True
    for paragraph, style in ((document.headline, "bold"), *((line, "") for line in document.lines)):
        if paragraph:
            first = False
            yield from wrapped(paragraph, width, style)
    yield from fact_lines(document.facts, width)
    for section in document.sections:
        if not first:
            yield Text()
        first = False
        if section.id not in UNTITLED:
            yield from _heading(section, width)
        yield from _indented(section, width - _INDENT, whole)


def _heading(section: Section, width: int) -> Iterator[Text]:
    gap = width - width_of(section.title) - width_of(section.aside)
    if gap >= 2:
        yield Text.assemble(text(section.title, "bold"), " " * gap, text(section.aside, DIM))
        return
    yield from wrapped(section.title, width, "bold")
    yield from wrapped(section.aside, width, DIM)


def _indented(section: Section, width: int, whole: bool) -> Iterator[Text]:
    indent = "" if section.id in UNTITLED else " " * _INDENT
    for i, block in enumerate(section.blocks):
        if i:
            yield Text()
        for line in _block_lines(block, width, whole):
            yield Text(indent).append_text(line)


def _block_lines(block: Block, width: int, whole: bool) -> Iterator[Text]:
    match block:
        case Table():
            return table_lines(block, width, whole)
        case Bar():
            return bar_lines(block, width)
        case Waterfall():
            return waterfall_lines(block, width)
        case Balance():
            return balance_lines(block, width)
        case Proposals():
            return proposal_lines(block, width)
        case Facts():
            return fact_lines(block.lines, width)
        case Paragraph():
            return wrapped(block.text, width)
        case Remarks():
            return _remark_lines(block, width)


def wrapped(content: str, width: int, style: str = "") -> Iterator[Text]:
    """``content`` as a paragraph; none where it is empty."""
    return (Text(line, style) for line in pieces(content, width) if line)


def fact_lines(facts: Sequence[tuple[str, str]], width: int) -> Iterator[Text]:
    """A dim label before each text, the texts aligned; on a narrow page above it."""
    label_width = max((len(label) for label, _ in facts), default=0) + 2
    for label, content in facts:
        if width < _BESIDE:
            yield from (Text.assemble((line, DIM)) for line in pieces(label, width))
            yield from (Text("  ").append_text(line) for line in wrapped(content, width - 2))
            continue
        for i, line in enumerate(wrapped(content, width - label_width)):
            yield Text.assemble(((label if i == 0 else "").ljust(label_width), DIM), line)


def proposal_lines(block: Proposals, width: int) -> Iterator[Text]:
    """A numbered line per change, its figures at its end where they fit, and below it what to type."""
    proposals = [item for _, items in block.groups for item in items]
    widths = [max(len(text) for text in column) for column in zip(*map(_figures, proposals), strict=True)]
    for group, items in block.groups:
        yield from wrapped(group, width, "bold")
        for item in items:
            head = text(f"{item.number} {item.title} ({item.id})").plain
            figures = "  ".join(t.ljust(w) for t, w in zip(_figures(item), widths, strict=True))
            gap = width - width_of(head) - len(figures)
            if gap >= 2 and figures.strip():
                yield Text(f"{head}{' ' * gap}{figures}")
            else:
                yield from wrapped(head, width)
                below = "  ".join(filter(None, _figures(item)))
                yield from (Text("  ").append_text(line) for line in wrapped(below, width - 2))
            yield from (Text("  ").append_text(line) for line in wrapped(item.advice, width - 2, DIM))


def _figures(item: Proposal) -> tuple[str, str, str]:
    return item.step, item.speedup, item.basis


def _remark_lines(block: Remarks, width: int) -> Iterator[Text]:
    for i, item in enumerate(block.items):
        if i:
            yield Text()
        style = tone(SEVERITY_TONES[item.severity])
        head = [*wrapped(f"{item.title} ({item.severity})", width - 5, "bold")]
        for k, line in enumerate(head):
            yield Text.assemble((f"{item.id:<5}" if k == 0 else " " * 5, f"bold {style}"), line)
        for line in fact_lines(item.sourced, width - 5):
            yield Text(" " * 5).append_text(line)
