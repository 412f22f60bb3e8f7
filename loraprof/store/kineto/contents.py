"""What does the text of a trace file hold: rows of events, and other values at the top level?"""

from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final, NamedTuple

import msgspec

from loraprof.errors import InputError
from loraprof.store.kineto.events import Batch, decode
from loraprof.store.kineto.feed import UNREADABLE, Feed, Inflated, repaired
from loraprof.store.kineto.other_formats import HEAD_BYTES, foreign, without_events
from loraprof.store.kineto.rows import Rows, add

READ: Final = ("deviceProperties", "distributedInfo", "baseTimeNanoseconds")  # the other values are passed over
MOST_KEYS: Final = 10_000
UNKNOWN_BYTES: Final = 8 << 20  # without one event of a known category: not a profiler's file
_ANYTHING = msgspec.json.Decoder(msgspec.Raw)

Decode = Callable[[bytes], list[Batch] | None]  # as ``events.decode``


class Contents(NamedTuple):
    rows: Rows
    values: dict[str, Any]


def contents_of(stream: BinaryIO, name: str, decode: Decode = decode, known: bool = False) -> Contents:
    """Reads an open binary file, plain or gzip; ``name`` is what errors call it. Raises InputError, also for one
    without an event of a known category, unless it is ``known`` that there are some."""
    with Inflated(stream, name) as text:
        return _contents(Feed(text, name), Rows(known=known), decode)


def _contents(feed: Feed, rows: Rows, decode: Decode) -> Contents:
    values, found_events = dict[str, Any](), False
    if feed.peek() == b"":
        raise InputError(f"{feed.name}: the file is empty", "record it again")
    if feed.buf[feed.pos : feed.pos + 3] == b"\xef\xbb\xbf":
        feed.pos += 3
    if (first := feed.peek()) == b"[":
        _read_events(feed, rows, decode)
        found_events = True
    elif first == b"{":
        for key in keys(feed):
            if key == "traceEvents" and feed.peek() == b"[":
                _read_events(feed, rows, decode)
                found_events = True
            elif known := without_events(feed.name, {*values, key}, values.get("schema")):
                raise known  # before a list of nodes of any length
            else:
                values[key] = _value(feed, msgspec.json.decode if key in READ else _ANYTHING.decode)
    else:
        raise foreign(feed.name, feed.buf[feed.pos : feed.pos + HEAD_BYTES]) or feed.fail("not JSON")
    if feed.peek():
        raise feed.fail("text after the end of the JSON")
    if not found_events:
        what = f"{feed.name}: JSON without traceEvents, not a profiler trace"
        raise InputError(what, "export_chrome_trace writes one")
    if not rows.known:
        raise _no_events(feed, rows)
    return Contents(rows, values)


def keys(feed: Feed) -> Iterator[str]:
    """The keys of the object that starts here; the caller consumes each value before the next key."""
    feed.expect(b"{")
    for _ in range(MOST_KEYS):
        if feed.peek() == b"}":
            break
        if feed.peek() != b'"':
            raise feed.fail("not JSON: a key expected") if feed.peek() else feed.truncated()
        key = _value(feed)
        feed.expect(b":")
        yield key
        if feed.peek() == b",":
            feed.pos += 1
        elif feed.peek() != b"}":
            raise feed.fail("not JSON: ',' or '}' expected") if feed.peek() else feed.truncated()
    else:
        raise feed.fail(f"more than {MOST_KEYS:,} top-level values, not a profiler trace")
    feed.pos += 1


def _value(feed: Feed, decode: Callable[[bytes], Any] = msgspec.json.decode) -> Any:
    text = feed.value()
    try:
        return decode(text)
    except UNREADABLE:
        try:
            return decode(repaired(text))
        except UNREADABLE as error:
            raise feed.fail("invalid JSON before here") from error


def _read_events(feed: Feed, rows: Rows, decode: Decode) -> None:
    for batches in feed.items(decode):
        for batch in batches or ():
            add(rows, batch)
        if not rows.known and (batches is None or feed.bytes_read > UNKNOWN_BYTES):
            raise _no_events(feed, rows)


def _no_events(feed: Feed, rows: Rows) -> InputError:
    seen = f"; categories found: {', '.join(sorted(rows.unknown)[:5])}" if rows.unknown else ""
    return InputError(f"{feed.name}: holds no profiler events{seen}", "export_chrome_trace writes them")
