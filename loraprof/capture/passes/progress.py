"""How far is a profile? One line that a terminal rewrites, in a pipe one every few seconds; never in a timed step."""

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TextIO

LIVE_NS: Final = 500_000_000
PIPED_NS: Final = 10_000_000_000


class Progress:
    """``stream`` None: nothing is shown. The caller asks ``due`` where a line disturbs nothing, then calls ``show``."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self._stream, self._clock = stream, clock
        self._live = stream is not None and stream.isatty()
        self._every_ns = LIVE_NS if self._live else PIPED_NS
        self._last, self._width = clock(), 0

    def due(self) -> bool:
        return self._stream is not None and self._clock() - self._last >= self._every_ns

    def show(self, text: str) -> None:
        """On a terminal the cursor stays at the line's start, so that what a script prints comes in its place."""
        line = f"loraprof: {text}"
        if self._live:
            line = line[: shutil.get_terminal_size().columns - 1]
            self._write(f"\r{line.ljust(self._width)}\r")
            self._width = len(line)
        else:
            self._write(f"{line}\n")
        self._last = self._clock()

    def clear(self) -> None:
        """Takes the line off a terminal."""
        if self._width:
            self._write(f"\r{' ' * self._width}\r")
            self._width = 0

    def _write(self, text: str) -> None:
        if self._stream is not None:
            with suppress(OSError, ValueError):  # nobody is told
                self._stream.write(text)
                self._stream.flush()
