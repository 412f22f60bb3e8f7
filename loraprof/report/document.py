"""What is shown, independent of how: a report as headings, sentences, tables and bars.

``view`` turns a report into a ``Document``; terminal, HTML and Markdown each walk the same blocks. Every text
in here is raw: kernel names come from a file, so a renderer escapes, and passes ``printable`` text only.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Column:
    """``short`` heads the column on a narrow page; of columns with ``drop`` the highest goes first, and a ``gloss``,
    which only explains another column, even where nothing may be cut."""

    title: str
    short: str = ""
    number: bool = False
    drop: int = 0
    elastic: bool = False  # may be cut to fit
    gloss: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """``value`` sorts; ``full`` is the whole text where ``text`` abbreviates; ``tone`` is a palette key."""

    text: str
    value: float | None = None
    full: str = ""
    tone: str = ""


Row = tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Table:
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    footer: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True)
class Segment:
    label: str
    ns: int
    time: str
    share: str
    tone: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """Parts of a whole; the shares add up to 100 %."""

    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """One bar of a waterfall; the first and the last are levels, not changes."""

    label: str
    ns: int
    text: str
    after: str
    count: str = ""
    duration: str = ""
    level: bool = False


@dataclass(frozen=True, slots=True)
class Waterfall:
    changes: tuple[Change, ...]
    unit: str


@dataclass(frozen=True, slots=True)
class Level:
    label: str
    ns: int
    text: str
    tone: str


@dataclass(frozen=True, slots=True)
class Shift:
    label: str
    ns: int
    text: str


@dataclass(frozen=True, slots=True)
class Balance:
    """Two levels, and the shifts that lead from one to the other, each group under what became of them."""

    before: Level
    changes: tuple[tuple[str, tuple[Shift, ...]], ...]
    after: Level


@dataclass(frozen=True, slots=True)
class Proposal:
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


@dataclass(frozen=True, slots=True)
class Proposals:
    """Groups of changes, each with a title."""

    groups: tuple[tuple[str, tuple[Proposal, ...]], ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """Labelled lines."""

    lines: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Paragraph:
    text: str


@dataclass(frozen=True, slots=True)
class Remark:
    """One finding, ready to print."""

    id: str
    severity: str
    title: str
    evidence: tuple[str, ...]
    remedy: str
    gain: str
    see: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Remarks:
    items: tuple[Remark, ...]


Block = Table | Bar | Waterfall | Balance | Proposals | Facts | Paragraph | Remarks


@dataclass(frozen=True, slots=True)
class Section:
    """``brief`` sections are all that a terminal shows unless asked for more; ``detail`` ones are folded on pages."""

    id: str
    title: str
    blocks: tuple[Block, ...]
    aside: str = ""
    detail: bool = False
    brief: bool = False


@dataclass(frozen=True, slots=True)
class Document:
    """``lines`` follow the headline as they are."""

    title: str
    headline: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...] = field(default_factory=tuple)
    lines: tuple[str, ...] = ()
