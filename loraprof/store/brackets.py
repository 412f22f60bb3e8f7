"""Where do JSON values end? Every bracket outside strings with the depth behind it, for any text at the same speed.

A chunk at a time in columns, so a file of nothing but brackets costs no more than a trace. Whoever nests deeper than
``DEEPEST`` writes no trace: readers that recurse are spared it.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from loraprof.model.trace import Bool, Int64

DEEPEST: Final = 64
_FIRST_BYTES, _CHUNK_BYTES = 1 << 10, 1 << 18  # most values are short
_OPEN, _CLOSE, _QUOTE, _BACKSLASH = 1, -1, 2, 3
_CODES = np.zeros(256, np.int8)
_CODES[list(b"[{")], _CODES[list(b"]}")] = _OPEN, _CLOSE
_CODES[list(b'"')], _CODES[list(b"\\")] = _QUOTE, _BACKSLASH


class TooDeep(Exception):
    """The text nests deeper than ``DEEPEST``; ``at`` is where."""

    def __init__(self, at: int) -> None:
        super().__init__(f"nested deeper than {DEEPEST}")
        self.at = at


class Brackets:
    """A scan of one text that may arrive in parts; it begins outside every string, at depth 0."""

    def __init__(self) -> None:
        self._inside = self._escaped = False
        self._depth = 0

    def levels(self, text: bytes, start: int) -> Iterator[tuple[Int64, Int64]]:
        """Positions of the brackets of ``text`` from ``start`` on, and the depth behind each, chunk by chunk.

        What an earlier call was given is taken to lie before ``start``. Raises TooDeep.
        """
        size = _FIRST_BYTES
        while start < len(text):
            codes = _CODES[np.frombuffer(text, np.uint8, min(size, len(text) - start), start)]
            at = np.flatnonzero(codes)
            kinds = codes[at]
            quotes = (kinds == _QUOTE) & self._unescaped(at, kinds == _BACKSLASH, len(codes))
            within = np.cumsum(quotes, dtype=np.int32) + self._inside
            brackets = (np.abs(kinds) == _OPEN) & (within & 1 == 0)
            behind = np.cumsum(kinds[brackets], dtype=np.int64) + self._depth
            places = at[brackets] + start
            if len(within):
                self._inside = bool(within[-1] & 1)
            if len(behind):
                self._depth = int(behind[-1])
                if behind.max() > DEEPEST:
                    raise TooDeep(int(places[np.argmax(behind > DEEPEST)]))
            yield places, behind
            start, size = start + len(codes), _CHUNK_BYTES

    def _unescaped(self, at: Int64, backslash: Bool, size: int) -> Bool:
        """Which of the places have an even number of backslashes before them."""
        slashes = at[backslash & ((at != 0) | (not self._escaped))]
        escaped = np.zeros(size + 1, np.bool_)
        escaped[0] = self._escaped
        if len(slashes):
            first = np.ones(len(slashes), np.bool_)
            first[1:] = np.diff(slashes) != 1
            begins = np.maximum.accumulate(np.where(first, slashes, 0))
            escaped[slashes[(slashes - begins) % 2 == 0] + 1] = True
        self._escaped = bool(escaped[size])
        return ~escaped[at]


def check_depth(text: bytes) -> None:
    """Raises TooDeep."""
    for _ in Brackets().levels(text, 0):
        pass
