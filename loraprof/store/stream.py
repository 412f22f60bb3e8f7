"""A trace file as a few pieces of JSON: decompress, find ``traceEvents``, cut between events.

Pieces of about two megabytes keep memory flat whatever the size of the file. A cut is only made where a line
starts with an event's opening brace and the line before ends with ``},`` (every known writer: C++ exporter, Python
exporter, indented dumps); a file without such lines is decoded whole, up to a limit.
"""

import os
import re
import zlib
from collections.abc import Iterator
from typing import IO

from isal import igzip

from loraprof.errors import InputError

PIECE = 2 << 20
WHOLE_LIMIT = 1 << 30  # a file with no place to cut is held in memory up to here
RATIO_LIMIT = 250  # real traces compress 15 to 40 times
RATIO_FREE = 256 << 20  # below this size any ratio is harmless

_CUT = re.compile(rb"\}\s*,\s*(?=\{\s*\"(?:ph|name|cat|pid|tid|ts|args|id|s|bp)\"\s*:)")
_EVENTS = re.compile(rb'"traceEvents"\s*:\s*\[')


def read_chunks(stream: IO[bytes], name: str) -> Iterator[bytes]:
    """Decompressed bytes of a plain or gzip file. Raises InputError on damage and on implausible ratios."""
    head = stream.read(2)
    stream.seek(0)
    if head != b"\x1f\x8b":
        while chunk := stream.read(PIECE):
            yield chunk
        return
    total = 0
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    try:
        with igzip.GzipFile(fileobj=stream) as unpacked:
            while chunk := unpacked.read(PIECE):
                total += len(chunk)
                if total > RATIO_FREE and total > RATIO_LIMIT * size:
                    raise InputError(
                        f"{name}: unpacks to more than {RATIO_LIMIT} times its size; not a profiler trace",
                        "traces compress 15 to 40 times; unpack it yourself if it is genuine",
                    )
                yield chunk
    except EOFError:
        raise InputError(f"{name}: the gzip file is truncated", "copy or record it again") from None
    except (OSError, ValueError, zlib.error) as error:
        raise InputError(f"{name}: damaged gzip file ({error})", "copy or record it again") from None


class Pieces:
    """Splits a byte stream into the part around ``traceEvents`` and lists of whole events.

    Iterating yields byte strings ``[event, event, …]``; afterwards ``rest`` is the JSON document with an empty
    event list (the metadata).
    """

    def __init__(self, chunks: Iterator[bytes], name: str) -> None:
        self.chunks, self.name = chunks, name
        self.rest = b""

    def __iter__(self) -> Iterator[bytes]:
        buffer = self._open()
        if buffer is None:
            return
        for chunk in self.chunks:
            buffer += chunk
            if len(buffer) < PIECE:
                continue
            cut = _last_cut(buffer)
            if cut is None:
                if len(buffer) > WHOLE_LIMIT:
                    raise InputError(f"{self.name}: no event ends within {WHOLE_LIMIT >> 20} MiB", None)
                continue
            yield b"[" + buffer[: cut[0]] + b"]"
            buffer = buffer[cut[1] :]
        yield from self._close(buffer)

    def _open(self) -> bytes | None:
        """Skips to the first event; bytes before it start ``rest``. None: the file has no event list."""
        buffer = b""
        for chunk in self.chunks:
            buffer += chunk
            text = buffer.removeprefix(b"\xef\xbb\xbf").lstrip()
            if text[:1] == b"[":
                self.rest = b'{"traceEvents":['
                return text[1:]
            found = _EVENTS.search(buffer)
            if found:
                self.rest = buffer[: found.end()].removeprefix(b"\xef\xbb\xbf")
                return buffer[found.end() :]
            if len(buffer) > WHOLE_LIMIT:
                break
        if not buffer.strip():
            raise InputError(f"{self.name}: the file is empty", "pass a PyTorch profiler trace or a recording")
        self.rest = buffer
        return None

    def _close(self, buffer: bytes) -> Iterator[bytes]:
        """The last piece: events up to the ``]`` that closes the list, then the tail of the document."""
        end = _list_end(buffer)
        if end is None:
            raise InputError(
                f"{self.name}: truncated, the event list is not closed", "the writer was interrupted; record again"
            )
        events = buffer[:end].strip()
        if events:
            yield b"[" + events + b"]"
        self.rest += buffer[end:]
        if self.rest.startswith(b'{"traceEvents":[') and not self.rest.rstrip().endswith(b"}"):
            self.rest = b'{"traceEvents":[]}'


def _last_cut(buffer: bytes) -> tuple[int, int] | None:
    """(end of the last whole event, start of the next) near the end of the buffer."""
    for back in (1 << 16, 1 << 19, len(buffer)):
        low = max(0, len(buffer) - back)
        found = list(_CUT.finditer(buffer, low))
        if found:
            return found[-1].start() + 1, found[-1].end()
        if low == 0:
            break
    return None


def _list_end(buffer: bytes) -> int | None:
    """Index of the ``]`` that closes the event list: brackets outside strings, counted from its start."""
    depth = 0
    for token in re.finditer(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', buffer, re.DOTALL):
        c = token.group()
        if c in (b"[", b"{"):
            depth += 1
        elif c in (b"]", b"}"):
            if depth == 0:
                return token.start()
            depth -= 1
    return None

