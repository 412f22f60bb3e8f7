"""How does a report look in a browser? One self-contained page: light and dark, sortable, nothing fetched."""

import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from loraprof.model.compare import Comparison
from loraprof.model.compare import Waterfall as Waterfalls
from loraprof.model.fix import Fix
from loraprof.model.report import Report
from loraprof.model.scene import Drawn
from loraprof.model.sweep import Sweep
from loraprof.report.document import (
    Balance,
    Bar,
    Block,
    Cell,
    Change,
    Column,
    Document,
    Facts,
    Paragraph,
    Proposal,
    Proposals,
    Remarks,
    Row,
    Section,
    Table,
    Waterfall,
    numbers,
)
from loraprof.report.html_page import page
from loraprof.report.page.curve import curves
from loraprof.report.page.difference import difference
from loraprof.report.page.payload import packed
from loraprof.report.page.svg import escape, rect
from loraprof.report.page.tried import tried
from loraprof.report.palette import SEVERITY_TONES
from loraprof.report.shown import Shown, document_of

_CHART_WIDTH = 360
_WORDS = ("good", "bad")  # of a verdict: the word itself is coloured


WHAT_IF = ("what-if", "What if: several changes together")  # behind the changes themselves
LIVE = (  # what the script fills: id, title, what it needs beside the report
    ("icicle", "Where the step went", "scenes"),
    ("timeline", "The step in time", "scenes"),
    ("roofline", "Kernels under the roof", None),
    ("all-kernels", "All kernels", None),
    ("all-modules", "All modules", None),
    ("all-gaps", "All idle gaps", "scenes"),
)


def to_html(shown: Shown, drawn: Drawn | None = None) -> bytes:
    """UTF-8; opens from disk, without a network. ``drawn``: the reported step to look at and zoom into."""
    document = document_of(shown)
    if not isinstance(shown, Report) or not shown.kernels:
        return page(escape(document.title), _body(document, behind=_figures(shown))).encode()
    live = "\n".join(_live(id, title) for id, title, needs in LIVE if not needs or getattr(drawn, needs, None))
    behind = {"do": _live(*WHAT_IF)} if drawn and drawn.what_if else {}
    behind |= {"ranks": _live("all-ranks", "All ranks")} if shown.ranks else {}
    return page(escape(document.title), _body(document, live, behind), packed(shown, drawn)).encode()


def _figures(shown: Shown) -> dict[str, str]:
    """Pictures of what is no step, by the section they follow."""
    match shown:
        case Comparison(waterfall=Waterfalls() as found):
            return {"waterfall": difference(found)}
        case Sweep():
            return {"map": curves(shown)}
        case Fix():
            return {"remedies": tried(shown)}
        case _:
            return {}


def _live(id: str, title: str) -> str:
    return f'<section id="{id}" class="live">\n<h2>{title}</h2>\n<div class="mount"></div>\n</section>'


def _body(document: Document, live: str = "", behind: Mapping[str, str] = MappingProxyType({})) -> str:
    """What the script draws stands behind what is said in brief; ``behind`` follows the first section of that id."""
    left = dict(behind)

    def of(sections: Iterable[Section]) -> list[str]:
        return [part for s in sections for part in (_section(s), left.pop(s.id, "")) if part]

    plain = [s for s in document.sections if not s.detail]
    brief, rest = of(s for s in plain if s.brief), of(s for s in plain if not s.brief)
    sections = "\n".join([*brief, *([live] if live else []), *rest, *of(s for s in document.sections if s.detail)])
    lines = "".join(f"<p>{escape(line)}</p>" for line in document.lines)
    facts = _facts(document.facts) if document.facts else ""
    return f"<h1>{escape(document.headline)}</h1>\n{lines}{facts}\n{sections}"


def _section(section: Section) -> str:
    blocks = "\n".join(_block(b) for b in section.blocks)
    if section.detail:
        return f'<details id="{section.id}"><summary>{escape(section.title)}</summary>\n{blocks}\n</details>'
    aside = f"<small>{escape(section.aside)}</small>" if section.aside else ""
    return f'<section id="{section.id}">\n<h2>{escape(section.title)}{aside}</h2>\n{blocks}\n</section>'


def _block(block: Block) -> str:
    match block:
        case Table():
            return _table(block)
        case Bar():
            return _bar(block)
        case Waterfall():
            return _waterfall(block)
        case Balance():
            return _balance(block)
        case Proposals():
            return _proposals(block)
        case Facts():
            return _facts(block.lines)
        case Paragraph():
            return f"<p>{escape(block.text)}</p>"
        case Remarks():
            return _remarks(block)


def _facts(facts: Sequence[tuple[str, str]], more: str = "") -> str:
    return f"<dl>{''.join(f'<dt>{escape(k)}</dt><dd>{escape(v)}</dd>' for k, v in facts)}{more}</dl>"


def _source(text: str) -> str:
    """An issue on GitHub or a paper on arXiv as a link, followed only by who clicks it."""
    issue, paper = re.fullmatch(r"([\w.-]+/[\w.-]+)#(\d+)", text), re.fullmatch(r"arXiv (\d{4}\.\d{5})", text)
    if not issue and not paper:
        return escape(text)
    place = f"github.com/{issue[1]}/issues/{issue[2]}" if issue else f"arxiv.org/abs/{paper[1]}" if paper else ""
    return f'<a href="https://{place}" target="_blank" rel="noreferrer">{escape(text)}</a>'


def _table(table: Table) -> str:
    heads = "".join(
        f'<th scope="col"{_class("n" if c.number else "")}><button>{escape(c.title)}</button></th>'
        for c in table.columns
    )
    rows = "\n".join(_row(row, table.columns) for row in table.rows)
    footer = "\n".join(_row(row, table.columns) for row in table.footer)
    foot = f"<tfoot>\n{footer}\n</tfoot>" if footer else ""
    return (
        f'<div class="scroll"><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n{foot}</table></div>'
    )


def _row(row: Row, columns: Sequence[Column]) -> str:
    """Words that stand for all the figures of a row take the room of all."""
    filled = max((i for i, cell in enumerate(row) if cell.text), default=0)
    words = filled > 0 and filled < len(row) - 2 and row[filled].value is None and columns[filled].number
    cells = [_cell(cell, column) for cell, column in zip(row, columns, strict=True)]
    if words:
        cells = [*cells[:filled], f'<td colspan="{len(row) - filled}">{escape(row[filled].text)}</td>']
    return f"<tr>{''.join(cells)}</tr>"


def _cell(cell: Cell, column: Column) -> str:
    value = "" if cell.value is None else f' data-v="{cell.value!r}"'
    text = escape(cell.text)
    if column.elastic:
        text = f'<span class="cut" title="{escape(cell.full or cell.text)}">{text}</span>'
    if cell.tone:
        text = f'<span class="{"word" if cell.tone in _WORDS else "swatch"} t-{cell.tone}">{text}</span>'
    return f"<td{_class('n' if column.number else '')}{value}>{text}</td>"


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _bar(bar: Bar) -> str:
    whole, at, shapes = sum(s.ns for s in bar.segments), 0, []
    for s in bar.segments:
        title = f"{s.label}: {s.time}, {s.share}"
        shapes.append(rect(1000 * at / whole, 1000 * s.ns / whole, 10, s.tone, title))
        at += s.ns
    label = "; ".join(f"{s.label} {s.share}" for s in bar.segments)
    chart = (
        f'<svg class="stack" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}">{"".join(shapes)}</svg>'
    )
    columns = (Column("part"), numbers("time"), numbers("% of step"))
    rows = tuple((Cell(s.label, tone=s.tone), Cell(s.time, s.ns), Cell(s.share, s.ns)) for s in bar.segments)
    return chart + _table(Table(columns, rows))


def _waterfall(data: Waterfall) -> str:
    rows = "\n".join(_change(*one) for one in _floating(data.changes))
    heads = (f"change, {data.unit}", "by count", "by length", "then")
    head = "<td></td>" * 2 + "".join(f'<th scope="col" class="n">{h}</th>' for h in heads)
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'


def _floating(changes: Sequence[Change]) -> list[tuple[Change, float, float]]:
    """Bars float where the step has got to; the scale begins at zero, so lengths compare. Ends as shares of it."""
    level_ns, spans = 0, []
    for c in changes:
        start_ns = 0 if c.level else level_ns
        level_ns = c.ns if c.level else level_ns + c.ns
        spans.append((min(start_ns, level_ns), max(start_ns, level_ns)))
    right_ns = max(high for _, high in spans) or 1
    return [(c, low / right_ns, high / right_ns) for c, (low, high) in zip(changes, spans, strict=True)]


def _floating_bar(c: Change, low: float, high: float) -> str:
    tone = "rest" if c.level else "good" if c.ns < 0 else "bad"
    shape = rect(low * _CHART_WIDTH, max(1.0, (high - low) * _CHART_WIDTH), 14, tone, f"{c.label}: {c.text}")
    box = f'viewBox="0 0 {_CHART_WIDTH} 14" width="{_CHART_WIDTH}" height="14" preserveAspectRatio="none"'
    return f'<svg class="float" {box} aria-hidden="true">{shape}</svg>'


def _change(c: Change, low: float, high: float) -> str:
    texts = ("", "", "", c.text) if c.level else (c.text, c.count, c.duration, c.after)
    cells = "".join(f'<td class="n">{escape(t)}</td>' for t in texts)
    return f"<tr><td>{escape(c.label)}</td><td>{_floating_bar(c, low, high)}</td>{cells}</tr>"


def _balance(data: Balance) -> str:
    """A waterfall: what is saved and added floats between the two levels."""
    changes = [Change(data.before.label, data.before.ns, data.before.text, "", level=True)]
    for what, shifts in data.changes:
        changes += [Change(f"{what}: {shift.label}", shift.ns, shift.text, "") for shift in shifts]
    changes.append(Change(data.after.label, data.after.ns, data.after.text, "", level=True))
    rows = "\n".join(_step_row(change, low, high) for change, low, high in _floating(changes))
    return f'<div class="scroll"><table class="waterfall">\n<tbody>\n{rows}\n</tbody></table></div>'


def _step_row(c: Change, low: float, high: float) -> str:
    return (
        f'<tr><td>{escape(c.label)}</td><td>{_floating_bar(c, low, high)}</td><td class="n">{escape(c.text)}</td></tr>'
    )


def _proposals(block: Proposals) -> str:
    parts = []
    for group, items in block.groups:
        cards = "\n".join(_proposal(p) for p in items)
        parts.append(f'<h3>{escape(group)}</h3>\n<div class="cards">\n{cards}\n</div>')
    return "\n".join(parts)


def _proposal(p: Proposal) -> str:
    """The step before and after as two bars, the speed-up with its interval, and what to type."""
    bars = "" if p.left is None else "".join(
        f'<svg class="half" viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true">'
        f"{rect(0, 1000 * share, 10, tone, p.step)}</svg>"
        for share, tone in ((1.0, "rest"), (p.left, "good"))
    )  # fmt: skip
    facts = " · ".join(escape(text) for text in (p.step, p.speedup, p.basis) if text)
    check = f' <span class="dim">{escape(p.check)}</span>' if p.check else ""
    return (
        f'<article class="card"><h4>{p.number} {escape(p.title)} <small>{escape(p.id)}</small></h4>\n{bars}'
        f'<p><b>{facts}</b></p>\n<pre>{escape(p.text)}</pre><button class="copy">copy</button>{check}</article>'
    )


def _remarks(block: Remarks) -> str:
    cards = []
    for item in block.items:
        head = f"<h3><b>{escape(item.id)}</b>{escape(item.title)} <small>{item.severity}</small></h3>"
        see = ", ".join(_source(text) for text in item.see)
        body = _facts(item.facts, f"<dt>see</dt><dd>{see}</dd>" if see else "")
        cards.append(f'<article class="finding t-{SEVERITY_TONES[item.severity]}">{head}{body}</article>')
    return "\n".join(cards)
