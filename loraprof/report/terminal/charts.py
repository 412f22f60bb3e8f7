"""Bars in text: the partition of a step, the account between two steps, and the waterfall between two arms.

What a part is shows in its glyph as well as in its colour: █ work, ▓ adapters, ▒ communication, ░ idle.
"""

from collections.abc import Iterator, Sequence

from rich.text import Text

from loraprof.report.document import Balance, Bar, Change, Level, Waterfall
from loraprof.report.palette import TONES
from loraprof.report.terminal.text import DIM, fitted, pieces, tone, width_of

_EIGHTHS = " ▏▎▍▌▋▊▉"
_NUMBER = 10
_LONGEST = 40  # cells of a bar
_SHORTEST = 12  # beside a note or a time
_LEAST = 4
_BESIDE = 50  # from this width on labels stand beside what they are of


def bar_lines(bar: Bar, width: int) -> Iterator[Text]:
    """One bar per part: label, bar, time, share, note. On a narrow page the time goes, then the note, then the bar."""
    label = max(width_of(s.label) for s in bar.segments) + 1
    share = max(len(s.share) for s in bar.segments) + 2
    left = width - label - share
    note = max((width_of(s.note) + 3 for s in bar.segments if s.note), default=0)
    note = note if left - note >= _SHORTEST else 0
    time = max(len(s.time) for s in bar.segments) + 2
    time = time if left - note - time >= _SHORTEST else 0
    room = min(_LONGEST, left - note - time)
    longest = max(s.ns for s in bar.segments)
    for s in bar.segments:
        drawn = _length(s.ns / longest, room, TONES[s.tone].glyph) if room >= _LEAST else ""
        line = Text.assemble(fitted(s.label, min(label, width - share)), (drawn, tone(s.tone)))
        line.append(f"{s.time:>{time}}" if time else "").append(f"{s.share:>{share}}")
        if s.note and note:
            line.append(f"   {s.note}", DIM)
        yield line


def _length(fraction: float, room: int, glyph: str) -> str:
    eighths = max(1, round(fraction * room * 8))
    if glyph != "█":
        return (glyph * -(-eighths // 8)).ljust(room)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()).ljust(room)


def balance_lines(data: Balance, width: int) -> Iterator[Text]:
    """The level before, the changes in between, the level after; on a narrow page what a line is stands above it."""
    levels = (data.before, data.after)
    label = max(width_of(level.label) for level in levels) + 2
    figure = max(len(level.text) for level in levels) + 2
    room = max(0, min(_LONGEST, width - label - figure))
    longest = max(data.before.ns, data.after.ns, 1)
    indent = label if width >= _BESIDE else 2

    def level(one: Level) -> Iterator[Text]:
        if label + figure > width:
            yield from (Text(line) for line in pieces(f"{one.label} {one.text}", width))
            return
        drawn = _length(one.ns / longest, room, TONES[one.tone].glyph) if room >= _LEAST else ""
        yield Text.assemble(one.label.ljust(label), (drawn, tone(one.tone)), one.text.rjust(figure))

    yield from level(data.before)
    for what, changes in data.changes:
        if indent < label:
            yield Text(what)
        lines = _joined([f"{change.label} {change.text}" for change in changes], width - indent)
        for number, line in enumerate(lines):
            yield Text(f"{what if number == 0 and indent == label else '':<{indent}}{line}")
    yield from level(data.after)


def _joined(words: Sequence[str], width: int) -> list[str]:
    """As many on a line as fit."""
    lines: list[str] = []
    for word in words:
        if lines and width_of(lines[-1]) + 3 + width_of(word) <= width:
            lines[-1] += f"   {word}"
        else:
            lines += pieces(word, width)
    return lines


def waterfall_lines(data: Waterfall, width: int) -> Iterator[Text]:
    """Signed bars around one axis: to the left is time saved, to the right time added."""
    wide, narrow = width >= 98, width < 70
    numbers = _NUMBER * (4 if wide else 1 if narrow else 2)
    label = min(max(width_of(c.label) for c in data.changes), 40 if wide else 34, width - numbers - 3)
    room = min(20, max(0, (width - label - numbers - 2) // 2))
    largest = max((abs(c.ns) for c in data.changes if not c.level), default=0)
    heads = ["change", "by count", "by length", "then"] if wide else ["change"] if narrow else ["change", "then"]
    yield Text(f"{data.unit:<{label + 2 * room + 2}}" + "".join(f"{h:>{_NUMBER}}" for h in heads), DIM)
    for c in data.changes:
        line = Text(fitted(c.label, label) + " ", "bold" if c.level else "")
        line.append_text(_signed(c.ns, 0 if c.level else largest, room))
        texts = _numbers(c, wide, narrow)
        yield line.append("".join(f"{t:>{_NUMBER}}" for t in texts))


def _numbers(c: Change, wide: bool, narrow: bool) -> Sequence[str]:
    if narrow:
        return [c.text]
    if c.level:
        return ["", "", "", c.text] if wide else ["", c.text]
    return [c.text, c.count, c.duration, c.after] if wide else [c.text, c.after]


def _signed(ns: int, largest: int, room: int) -> Text:
    length = max(1, round(abs(ns) / largest * room)) if ns and largest and room else 0
    left, right = (length, 0) if ns < 0 else (0, length)
    return Text.assemble(
        " " * (room - left),
        ("▒" * left, tone("good")),
        ("│", DIM),
        ("█" * right, tone("bad")),
        " " * (room - right),
    )
