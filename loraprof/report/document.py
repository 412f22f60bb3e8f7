"""What is shown, independent of how: a report as headings, sentences, tables and bars.

``view`` turns a report into a ``Document``; terminal, HTML and Markdown each walk the same blocks. Every text
in here is raw: kernel names come from a file, so a renderer escapes, and passes ``printable`` text only.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

from msgspec import Struct, field

T = TypeVar("T")


class Column(Struct, frozen=True):
    """``short`` heads the column on a narrow page; of columns with ``drop`` the highest goes first, and a ``gloss``,
    which only explains another column, even where nothing may be cut."""

    title: str
    short: str = ""
    number: bool = False
    drop: int = 0
    elastic: bool = False  # may be cut to fit
    gloss: bool = False


def numbers(title: str, short: str = "", drop: int = 0) -> Column:
    """A column of numbers, set flush right."""
    return Column(title, short, number=True, drop=drop)


class Cell(Struct, frozen=True):
    """``value`` sorts; ``full`` is the whole text where ``text`` abbreviates; ``tone`` is a palette key."""

    text: str
    value: float | None = None
    full: str = ""
    tone: str = ""


Row = tuple[Cell, ...]


class Table(Struct, frozen=True):
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    footer: tuple[Row, ...] = ()


def table_of(items: Iterable[T], *columns: tuple[Column, Callable[[T], Cell]]) -> Table:
    """A row for each item; beside each column stands what makes its cells."""
    rows = (tuple(cell(item) for _, cell in columns) for item in items)
    return Table(tuple(column for column, _ in columns), tuple(rows))


class Segment(Struct, frozen=True):
    label: str
    ns: int
    time: str
    share: str
    tone: str
    note: str = ""


class Bar(Struct, frozen=True):
    """Parts of a whole; the shares add up to 100 %."""

    segments: tuple[Segment, ...]


class Change(Struct, frozen=True):
    """One bar of a waterfall; the first and the last are levels, not changes."""

    label: str
    ns: int
    text: str
    after: str
    count: str = ""
    duration: str = ""
    level: bool = False


class Waterfall(Struct, frozen=True):
    changes: tuple[Change, ...]
    unit: str


class Level(Struct, frozen=True):
    label: str
    ns: int
    text: str
    tone: str


class Shift(Struct, frozen=True):
    label: str
    ns: int
    text: str


class Balance(Struct, frozen=True):
    """Two levels, and the shifts that lead from one to the other, each group under what became of them."""

    before: Level
    changes: tuple[tuple[str, tuple[Shift, ...]], ...]
    after: Level


class Proposal(Struct, frozen=True):
    """One change to make: its cause, the step before and after, the speed-up, how that is known, and what to type."""

    number: int
    title: str
    id: str
    step: str
    speedup: str
    basis: str
    text: str
    left: float | None = None  # of the step, afterwards
    check: str = ""  # what the change may harm

    @property
    def advice(self) -> str:
        """What to type, and what to look at then."""
        return "; ".join(filter(None, (self.text, self.check)))


class Proposals(Struct, frozen=True):
    """Groups of changes, each with a title."""

    groups: tuple[tuple[str, tuple[Proposal, ...]], ...]


class Facts(Struct, frozen=True):
    """Labelled lines."""

    lines: tuple[tuple[str, str], ...]


class Paragraph(Struct, frozen=True):
    text: str


class Remark(Struct, frozen=True):
    """One finding, ready to print."""

    id: str
    severity: str
    title: str
    evidence: tuple[str, ...]
    remedy: str
    gain: str
    see: tuple[str, ...]

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What there is to say of it but its sources, with a label each."""
        facts = (("gain", self.gain), ("do", self.remedy), ("seen", " · ".join(self.evidence)))
        return [(label, text) for label, text in facts if text]

    @property
    def sourced(self) -> list[tuple[str, str]]:
        """The same with its sources."""
        return [*self.facts, *([("see", ", ".join(self.see))] if self.see else [])]


class Remarks(Struct, frozen=True):
    items: tuple[Remark, ...]


Block = Table | Bar | Waterfall | Balance | Proposals | Facts | Paragraph | Remarks


class Section(Struct, frozen=True):
    """``brief`` sections are all that a terminal shows unless asked for more; ``detail`` ones are folded on pages."""

    id: str
    title: str
    blocks: tuple[Block, ...]
    aside: str = ""
    detail: bool = False
    brief: bool = False


class Document(Struct, frozen=True):
    """``lines`` follow the headline as they are."""

    title: str
    headline: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...] = field(default_factory=tuple)
    lines: tuple[str, ...] = ()
