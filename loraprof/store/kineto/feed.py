"""Which bytes of a trace file are events, and which are its other top-level values?

The file is inflated as a stream and handed on in pieces of about 1 MB, so memory does not grow with it. A piece
ends at the last ``} , {`` of the buffer. That guess may lie inside a string or a nested list, but then the piece
does not decode; JSON is read from left to right, so a piece that decodes as a list ended between two events.
Pieces that do not decode are cut by a scanner that knows strings and nesting.
"""

import io
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final, TypeVar, cast

import msgspec
import numpy as np
from isal import igzip_lib, igzip_threaded

from loraprof.errors import InputError
from loraprof.model.trace import Int64
from loraprof.store.brackets import Brackets, TooDeep

PIECE_BYTES: Final = 1 << 20
INFLATE_BYTES: Final = 256 << 10  # handed over by the inflating thread; it buffers eight times as much
PIECE_LIMIT_BYTES: Final = 64 << 20  # one event or one top-level value
BOMB_RATIO: Final = 200  # real traces reach 30
BOMB_BYTES: Final = 256 << 20

_BLANK = re.compile(rb"[ \t\r\n]*+")
_SCALAR = re.compile(rb"[^,\]}\s]*+")
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.S)
_NOT_A_NUMBER = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[-+]?(?:NaN|nan|Infinity|infinity|inf)\b', re.S)
_CONTROL = bytes(byte if byte >= 32 else 32 for byte in range(256))
_CLOSED_BEFORE = re.compile(rb"\}[ \t\r\n]*,[ \t\r\n]*\Z")
_GUESSES: Final = 1000  # braces looked at from the end of a buffer

_DAMAGED: Final[tuple[Any, ...]] = (OSError, ValueError, zlib.error, igzip_lib.IsalError)
UNREADABLE: Final[tuple[type[Exception], ...]] = (msgspec.DecodeError, UnicodeDecodeError)

T = TypeVar("T")


class _Counted(io.RawIOBase):
    """A stream that knows how many bytes were read from it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer)).cast("B")
        data = self._stream.read(len(view))
        view[: len(data)] = data
        self.count += len(data)
        return len(data)


class Inflated:
    """The text of a plain or gzip stream (told by its magic, any number of members).

    ``read`` raises InputError for damaged, truncated or absurdly compressed input.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._raw = _Counted(stream)
        self._name = name
        self._total = 0
        buffered = io.BufferedReader(self._raw, 1 << 20)
        self._gzip = buffered.peek(2)[:2] == b"\x1f\x8b"
        self._text = igzip_threaded.open(buffered, "rb", block_size=INFLATE_BYTES) if self._gzip else buffered

    def __enter__(self) -> "Inflated":
        return self

    def __exit__(self, *_: object) -> None:
        self._text.close()

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; empty only at the end."""
        try:
            data = cast(bytes, self._text.read(size))
        except EOFError as error:
            raise InputError(f"{self._name}: the gzip file is truncated", "copy or record it again") from error
        except _DAMAGED as error:
            what = "damaged gzip data" if self._gzip else "cannot be read"
            raise InputError(f"{self._name}: {what} ({error})", "copy or record it again") from error
        self._total += len(data)
        if self._gzip and self._total > BOMB_BYTES and self._total > BOMB_RATIO * self._raw.count:
            raise InputError(
                f"{self._name}: inflates to more than {BOMB_RATIO} times its size",
                "real traces stay below 30; inflate it yourself if you trust it",
            )
        return data


class Feed:
    """A window on the text that moves forward; ``fail`` makes errors that name file and byte offset."""

    def __init__(self, text: Inflated, name: str) -> None:
        self._text = text
        self.name = name
        self.buf = b""
        self.pos = 0
        self.ended = False
        self._before = 0  # bytes of the file before buf

    @property
    def bytes_read(self) -> int:
        return self._before + self.pos

    def fail(self, what: str, at: int = 0) -> InputError:
        return InputError(f"{self.name}: {what} (byte {self.bytes_read + at})", "is it a profiler trace?")

    def truncated(self) -> InputError:
        what = f"{self.name}: the JSON is truncated (ends at byte {self._before + len(self.buf)})"
        return InputError(what, "the program that wrote it was stopped, or the copy is incomplete")

    def more(self) -> bool:
        """Drop what was consumed and read on; False at the end of the file."""
        kept = self.buf[self.pos :]
        if len(kept) > PIECE_LIMIT_BYTES:
            raise self.fail(f"one value is larger than {PIECE_LIMIT_BYTES >> 20} MB")
        self._before += self.pos
        parts, need = [kept], max(PIECE_BYTES, len(kept))  # doubling keeps rescans linear
        while need > 0 and (data := self._text.read(need)):
            parts.append(data)
            need -= len(data)
        self.buf, self.pos = b"".join(parts), 0
        self.ended = need > 0
        return len(parts) > 1

    def peek(self) -> bytes:
        """The next byte that is not blank; empty at the end of the file."""
        while True:
            self.pos = _BLANK.match(self.buf, self.pos).end()  # type: ignore[union-attr]
            if self.pos < len(self.buf):
                return self.buf[self.pos : self.pos + 1]
            if not self.more():
                return b""

    def expect(self, byte: bytes) -> None:
        found = self.peek()
        if found != byte:
            raise self.fail(f"not JSON: {byte.decode()!r} expected") if found else self.truncated()
        self.pos += 1

    def value(self) -> bytes:
        """The JSON value that starts here, as text; moves behind it."""
        first = self.peek()
        if first in (b"{", b"["):
            return self._bracketed()
        pattern = _STRING if first == b'"' else _SCALAR
        while True:
            found = pattern.match(self.buf, self.pos)
            if found and (first == b'"' or found.end() < len(self.buf) or self.ended):
                return self._take(found.end())
            if not self.more():
                raise self.truncated()

    def _take(self, end: int) -> bytes:
        text, self.pos = self.buf[self.pos : end], end
        return text

    def _levels(self, scan: Brackets, seen: int) -> Iterator[tuple[Int64, Int64]]:
        """Brackets of the buffer from ``seen`` bytes behind ``pos`` on, and the depth behind each."""
        try:
            yield from scan.levels(self.buf, self.pos + seen)
        except TooDeep as error:
            raise self.fail(str(error), error.at - self.pos) from None

    def _bracketed(self) -> bytes:
        """The object or list that starts here."""
        scan, seen = Brackets(), 0
        while True:
            for places, depths in self._levels(scan, seen):
                ends = np.flatnonzero(depths == 0)
                if len(ends):
                    return self._take(int(places[ends[0]]) + 1)
            seen = len(self.buf) - self.pos
            if not self.more():
                raise self.truncated()

    def items(self, decode: Callable[[bytes], T]) -> Iterator[T]:
        """Decode the items of the array that starts here, piece by piece; moves behind its bracket.

        ``decode`` gets ``[item, ...]`` and raises msgspec.DecodeError when that is not JSON.
        """
        self.expect(b"[")
        while self.peek() != b"]":
            if len(self.buf) - self.pos < PIECE_BYTES and not self.ended:
                self.more()
            cut = _last_item_end(self.buf, self.pos)
            if cut is not None:
                try:
                    decoded = decode(b"[" + self.buf[self.pos : cut] + b"]")
                except UNREADABLE:
                    pass
                else:
                    self.pos = cut
                    self.expect(b",")
                    yield decoded
                    continue
            piece = self._scanned_piece().strip()
            if not piece:
                raise self.fail("invalid JSON: an event expected")
            yield self._decode_or_repair(b"[" + piece + b"]", decode)
            if self.peek() != b"]":
                self.expect(b",")
        self.pos += 1

    def _scanned_piece(self) -> bytes:
        """All complete items of the buffer that end in a bracket, or all up to the end of the array; reads on until
        there is one."""
        scan, seen, end = Brackets(), 0, 0
        while not end:
            for places, depths in self._levels(scan, seen):
                if len(closed := np.flatnonzero(depths < 0)):
                    return self._take(int(places[closed[0]]))
                if len(ends := np.flatnonzero(depths == 0)):
                    end = int(places[ends[-1]]) + 1
            seen = len(self.buf) - self.pos
            if not end and not self.more():
                raise self.truncated()
        return self._take(end)

    def _decode_or_repair(self, piece: bytes, decode: Callable[[bytes], T]) -> T:
        try:
            return decode(piece)
        except UNREADABLE as error:
            try:
                return decode(repaired(piece))
            except UNREADABLE:
                raise self._malformed(error, len(piece) - 2) from error

    def _malformed(self, error: Exception, piece_bytes: int) -> InputError:
        found = re.search(r"\(byte (\d+)\)", str(error))
        inside = int(found[1]) - 1 if found else 0
        what = f"invalid JSON (byte {self.bytes_read - piece_bytes + inside})"
        hint = "older PyTorch leaves quotes in names unescaped: record with PyTorch 2.6 or newer"
        return InputError(f"{self.name}: {what}", hint)


def repaired(text: bytes) -> bytes:
    """``text`` without what strict JSON forbids and real writers emit: control characters in names become blanks,
    bytes that are not UTF-8 become U+FFFD, a bare NaN or Infinity the same word in quotes."""
    utf8 = text.translate(_CONTROL).decode("utf-8", "replace").encode()
    return _NOT_A_NUMBER.sub(lambda m: m[0] if m[0][:1] == b'"' else b'"' + m[0] + b'"', utf8)


def _last_item_end(buf: bytes, start: int) -> int | None:
    """Behind the brace of the last ``} , {``; probably, not surely, the end of an item."""
    at = len(buf)
    for _ in range(_GUESSES):
        if (at := buf.rfind(b"{", start, at)) <= start:
            break
        if found := _CLOSED_BEFORE.search(buf, max(start, at - 64), at):
            return found.start() + 1
    return None
