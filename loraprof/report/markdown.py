"""How does a report read as Markdown? GitHub's flavour: for a pull request, an issue, a job summary."""

import re
from collections.abc import Iterator, Sequence

from loraprof.report.document import (
    Balance,
    Bar,
    Block,
    Document,
    Facts,
    Paragraph,
    Proposals,
    Remarks,
    Section,
    Table,
    Waterfall,
)
from loraprof.report.palette import TONES
from loraprof.report.shown import Shown, document_of
from loraprof.text import printable

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~&@])")
_ESCAPED = re.compile(rf"\\{_SPECIAL.pattern}")
_BAR_CELLS = 30


def to_markdown(shown: Shown) -> bytes:
    """UTF-8; every table is a GitHub table, details are folded."""
    document = document_of(shown)
    return ("\n".join(_lines(document)).rstrip() + "\n").encode()


def escape(text: str) -> str:
    """Text that Markdown shows as it is: no table cell, tag, link or code span can open in it."""
    plain = _SPECIAL.sub(r"\\\1", printable(text))
    plain = plain.replace("@", "@\u200b")  # GitHub looks for people to notify after it has read the escapes
    # Underscores inside a word do not emphasise, and names full of backslashes do not read.
    return re.sub(r"(?<=\w)\\_(?=\w)", "_", plain)


def unescape(text: str) -> str:
    """The text as it was, for a reader that does not render it."""
    return _ESCAPED.sub(r"\1", text.replace("@\u200b", "@"))


def _lines(document: Document) -> Iterator[str]:
    yield f"## {escape(document.title)}"
    yield ""
    yield f"**{escape(document.headline)}**"
    yield ""
    for line in document.lines:
        yield escape(line)
        yield ""
    yield from _facts(document.facts)
    for section in document.sections:
        yield from _section(section)


def _section(section: Section) -> Iterator[str]:
    aside = f" <sub>{escape(section.aside)}</sub>" if section.aside else ""
    if section.detail:
        yield f"<details><summary>{escape(section.title)}</summary>"
    else:
        yield f"### {escape(section.title)}{aside}"
    yield ""
    for block in section.blocks:
        yield from _block(block)
        yield ""
    if section.detail:
        yield "</details>"
        yield ""


def _block(block: Block) -> Iterator[str]:
    match block:
        case Table():
            heads = [c.title for c in block.columns]
            rows = [*block.rows, *block.footer]
            yield from _table(heads, [c.number for c in block.columns], [[c.text for c in r] for r in rows])
        case Bar():
            yield from _bar(block)
        case Waterfall():
            yield from _waterfall(block)
        case Balance():
            yield from _balance(block)
        case Proposals():
            yield from _proposals(block)
        case Facts():
            yield from _facts(block.lines)
        case Paragraph():
            yield escape(block.text)
        case Remarks():
            yield from _remarks(block)


def _table(heads: Sequence[str], numbers: Sequence[bool], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield _row(heads)
    yield _row(["---:" if number else "---" for number in numbers], raw=True)
    for row in rows:
        yield _row(row)


def _row(cells: Sequence[str], *, raw: bool = False) -> str:
    return f"| {' | '.join(c if raw else escape(c) for c in cells)} |"


def _bar(bar: Bar) -> Iterator[str]:
    longest = max(s.ns for s in bar.segments)
    rows = []
    for s in bar.segments:
        drawn = TONES[s.tone].glyph * max(1, round(_BAR_CELLS * s.ns / longest))
        rows.append([s.label, drawn, s.time, s.share, s.note])
    yield from _table(["", "", "time", "% of step", ""], [False, False, True, True, False], rows)


def _balance(data: Balance) -> Iterator[str]:
    rows = [[data.before.label, data.before.text]]
    rows += [[what, " · ".join(f"{c.label} {c.text}" for c in changes)] for what, changes in data.changes]
    yield from _table(["", ""], [False, True], [*rows, [data.after.label, data.after.text]])


def _proposals(block: Proposals) -> Iterator[str]:
    for group, items in block.groups:
        yield f"**{escape(group)}**"
        yield ""
        heads = ["", "change", "step", "speed-up", "how known", "do"]
        rows = [[str(p.number), f"{p.title} ({p.id})", p.step, p.speedup, p.basis, p.advice] for p in items]
        yield from _table(heads, [True, False, False, False, False, False], rows)
        yield ""


def _waterfall(data: Waterfall) -> Iterator[str]:
    heads = ["", f"change, {data.unit}", "by count", "by length", "then"]
    rows = [
        [c.label, "", "", "", c.text] if c.level else [c.label, c.text, c.count, c.duration, c.after]
        for c in data.changes
    ]
    yield from _table(heads, [False, True, True, True, True], rows)


def _facts(facts: Sequence[tuple[str, str]]) -> Iterator[str]:
    for label, text in facts:
        yield f"- **{escape(label)}**: {escape(text)}"
    yield ""


def _remarks(block: Remarks) -> Iterator[str]:
    for item in block.items:
        yield f"**{escape(item.id)} {escape(item.title)}** ({item.severity})"
        yield ""
        yield from _facts(item.sourced)
