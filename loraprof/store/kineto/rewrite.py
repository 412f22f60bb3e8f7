"""How does one trace file become another: the same text with some events and top-level values changed?

The file passes through in pieces of about 2 MB and is never held as objects; what no change asks for is copied as
it stands, numbers to the last digit. A bare array of events becomes an object around it.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Final

import msgspec

from loraprof.errors import InputError
from loraprof.model.vocabulary import MARKER_PREFIX, HostKind
from loraprof.store.kineto.contents import keys
from loraprof.store.kineto.events import HOST_CATEGORIES
from loraprof.store.kineto.feed import Feed, Inflated, repaired
from loraprof.store.places import Place

Change = Callable[[bytes], bytes]  # "[event, ...]" -> the same list, changed
Choose = Callable[[str, bytes], bytes | None]  # key and JSON of a top-level value -> its new JSON, None drops it

RUNTIME: Final = "runtime"  # the one category of API calls that torch-tb-profiler knows
_RUNTIMES: Final = frozenset(b'"%s"' % cat.encode() for cat in HOST_CATEGORIES[HostKind.RUNTIME])
_MENTIONED = re.compile(b"|".join(sorted(_RUNTIMES)))
_WHOLE = msgspec.json.Decoder(msgspec.Raw)
_EVENTS = msgspec.json.Decoder(list[msgspec.Raw])
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def rewrite(
    source: Place,
    out: IO[bytes],
    changes: Iterable[Change] = (),
    choose: Choose | None = None,
    extra: Iterable[bytes] = (),
) -> None:
    """Writes ``source`` to ``out`` as plain JSON, with the ``extra`` events at the end of its list.

    Raises InputError when ``source`` is not a trace.
    """
    applied = tuple(changes)

    def decode(piece: bytes) -> bytes:
        _WHOLE.decode(piece)
        piece.decode()
        for change in applied:
            piece = change(piece)
        return piece.strip()[1:-1]

    with source.open("rb") as stream, Inflated(stream, str(source)) as text:
        feed = Feed(text, str(source))
        if feed.peek() and feed.buf[feed.pos : feed.pos + 3] == b"\xef\xbb\xbf":
            feed.pos += 3
        out.write(b"{")
        for i, (key, value) in enumerate(_values(feed, choose)):
            out.write(b",\n"[not i :] + msgspec.json.encode(key) + b":")
            if value is not None:
                out.write(value)
                continue
            out.write(b"[\n")
            for j, piece in enumerate(_chain(feed.items(decode), extra)):
                out.write(b",\n"[2 * (not j) :] + piece)
            out.write(b"\n]")
        out.write(b"}\n")


def runtime_category(piece: bytes) -> bytes:
    """Every API call's category becomes ``runtime``; names and arguments stay what they are."""
    if not _MENTIONED.search(piece):
        return piece
    return b"[" + b",\n".join(_recategorised(event) for event in _EVENTS.decode(piece)) + b"]"


def without_markers(piece: bytes) -> bytes:
    """The ranges by which a recording knows its modules go: other tools would count them as operators."""
    if MARKER_PREFIX.encode() not in piece:
        return piece
    kept = [bytes(event) for event in _EVENTS.decode(piece) if not _is_marker(event)]
    return b"[" + b",\n".join(kept) + b"]"


def _is_marker(event: msgspec.Raw) -> bool:
    if MARKER_PREFIX.encode() not in bytes(event):
        return False
    name = msgspec.json.decode(_FIELDS.decode(event).get("name", msgspec.Raw(b'""')))
    return isinstance(name, str) and name.startswith(MARKER_PREFIX)


def _recategorised(event: msgspec.Raw) -> bytes:
    text = bytes(event)
    if not _MENTIONED.search(text):
        return text
    fields = _FIELDS.decode(event)
    if bytes(fields.get("cat", b"")) not in _RUNTIMES:
        return text
    return msgspec.json.encode(fields | {"cat": RUNTIME})


def _values(feed: Feed, choose: Choose | None) -> Iterator[tuple[str, bytes | None]]:
    """Top-level keys and values that are kept; ``None`` stands for the events, which the caller consumes."""
    if feed.peek() == b"[":
        yield "traceEvents", None
        return
    found = False
    for key in keys(feed):
        if key == "traceEvents" and feed.peek() == b"[":
            found = True
            yield key, None
            continue
        text = repaired(feed.value())
        kept = text if choose is None else choose(key, text)
        if kept is not None:
            yield key, kept
    if not found:
        raise InputError(f"{feed.name}: JSON without traceEvents, not a profiler trace")


def _chain(pieces: Iterator[bytes], extra: Iterable[bytes]) -> Iterator[bytes]:
    yield from pieces
    yield from extra
