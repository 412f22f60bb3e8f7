"""Bars in text: the partition of a step, and the waterfall between two arms.

Idle time is drawn in a lighter block than busy time, so both charts read without colour.
"""

from collections.abc import Iterator, Sequence

from rich.text import Text

from loraprof.report.document import Bar, Change, Segment, Waterfall
from loraprof.report.terminal.text import DIM, fitted, tone

_EIGHTHS = " ▏▎▍▌▋▊▉"
_NUMBER = 10


def bar_lines(bar: Bar, width: int, colour: bool) -> Iterator[Text]:
    """One stacked bar, where there is colour to tell its parts apart; below it one bar per part, the legend."""
    if colour:
        yield _stacked(bar.segments, width)
        yield Text()
    label = max(len(s.label) for s in bar.segments) + 2
    time = max(len(s.time) for s in bar.segments) + 2
    room = min(56, width - label - time - 9)
    longest = max(s.ns for s in bar.segments)
    for s in bar.segments:
        drawn = _length(s.ns / longest, room, light=s.label.startswith("idle"))
        yield Text.assemble(s.label.ljust(label), (drawn, tone(s.tone)), f"{s.time:>{time}}{s.share:>9}")


def _stacked(segments: Sequence[Segment], width: int) -> Text:
    """Edges are rounded, not lengths, so the bar is exactly as wide as the page."""
    whole, at, line = sum(s.ns for s in segments), 0, Text()
    for s in segments:
        left, right = round(at * width / whole), round((at + s.ns) * width / whole)
        line.append("█" * (right - left), tone(s.tone))
        at += s.ns
    return line


def _length(fraction: float, room: int, *, light: bool) -> str:
    eighths = max(1, round(fraction * room * 8))
    if light:
        return ("░" * -(-eighths // 8)).ljust(room)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()).ljust(room)


def waterfall_lines(data: Waterfall, width: int) -> Iterator[Text]:
    """Signed bars around one axis: to the left is time saved, to the right time added."""
    wide = width >= 100
    numbers = _NUMBER * (4 if wide else 2)
    label = min(max(len(c.label) for c in data.changes), 40 if wide else 34)
    room = min(20, (width - label - numbers - 2) // 2)
    largest = max((abs(c.ns) for c in data.changes if not c.level), default=0)
    heads = ["change", "by count", "by length", "then"] if wide else ["change", "then"]
    yield Text(f"{data.unit:<{label + 2 * room + 2}}" + "".join(f"{h:>{_NUMBER}}" for h in heads), DIM)
    for c in data.changes:
        line = Text(fitted(c.label, label) + " ", "bold" if c.level else "")
        line.append_text(_signed(c.ns, 0 if c.level else largest, room))
        texts = _numbers(c, wide)
        yield line.append("".join(f"{t:>{_NUMBER}}" for t in texts))


def _numbers(c: Change, wide: bool) -> list[str]:
    if c.level:
        return ["", "", "", c.text] if wide else ["", c.text]
    return [c.text, c.count, c.duration, c.after] if wide else [c.text, c.after]


def _signed(ns: int, largest: int, room: int) -> Text:
    length = max(1, round(abs(ns) / largest * room)) if ns and largest else 0
    left, right = (length, 0) if ns < 0 else (0, length)
    return Text.assemble(
        " " * (room - left),
        ("█" * left, tone("good")),
        ("│", DIM),
        ("█" * right, tone("bad")),
        " " * (room - right),
    )
