"""A large file is read by several processes, each of which decodes every n-th piece of it.

Each inflates the whole file and cuts it into the same pieces: that costs about a seventh of decoding them, and no
piece goes from one process to another. A cut is a guess that the process which decodes the piece proves; where one was
wrong, or anything else goes wrong, the file is read again by one process, which says what is the matter.
"""

import gc
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO, BinaryIO, Final

from loraprof.errors import InputError
from loraprof.lifeline import bound
from loraprof.store.kineto.contents import Contents, Decode, contents_of
from loraprof.store.kineto.events import Batch, decode
from loraprof.store.kineto.feed import UNREADABLE

LARGE_BYTES: Final = 8 << 20  # inflated about seven times that, read in 0.4 s by one process
LARGE_PLAIN_BYTES: Final = 80 << 20
MOST: Final = 4  # processes: all of them inflate
ALONE: Final = 32  # pieces that the first one decodes while the others start
_GZIP: Final = b"\x1f\x8b"


class Apart(Exception):
    """The parts do not make a whole."""


def in_parts(path: Path, stream: BinaryIO) -> Contents | None:
    """What the file at ``path``, open as ``stream``, holds; None, and the stream at its start, where one process is
    to read it."""
    processes = _processes(stream)
    if processes < 2:
        return None
    try:
        with _others(path, processes) as others:
            read = contents_of(stream, str(path), every(processes, 0, ALONE))
            for other in others:
                file, rows = pickle.load(other)
                if file != _identity(stream):  # replaced or grown meanwhile
                    raise Apart
                read.rows.absorb(rows)
        return read
    except (Apart, InputError, OSError, EOFError, pickle.UnpicklingError):
        stream.seek(0)
        return None


def every(of: int, index: int, alone: int) -> Decode:
    """Decodes every piece of number ``n`` with ``n % of == index``; the first ``alone`` are all of index 0. Raises
    Apart for a piece that is not JSON."""
    numbers = count()

    def decoded(piece: bytes) -> list[Batch] | None:
        number = next(numbers)
        if (0 if number < alone else number % of) != index:
            return []
        try:
            return decode(piece)
        except UNREADABLE as error:
            raise Apart from error

    return decoded


def _processes(stream: BinaryIO) -> int:
    """How many are worth their start; 1 in a process that is itself one of several."""
    if not isinstance(stream, io.BufferedReader) or not sys.executable or _is_worker():
        return 1
    least = LARGE_BYTES if stream.peek(2)[:2] == _GZIP else LARGE_PLAIN_BYTES
    if os.fstat(stream.fileno()).st_size < least:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST)


def _is_worker() -> bool:
    processes = sys.modules.get("multiprocessing.process")
    return processes is not None and processes.parent_process() is not None


@contextmanager
def _others(path: Path, of: int) -> Iterator[list[IO[bytes]]]:
    """The output of every other process; none is left behind."""
    started = []
    try:
        for index in range(1, of):
            words = [sys.executable, "-P", "-m", __name__, str(path), *map(str, (of, index, ALONE))]
            started.append(
                subprocess.Popen(
                    bound(words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
                )
            )
        yield [process.stdout for process in started if process.stdout is not None]
    finally:
        for process in started:
            process.kill()
            process.communicate()


def _identity(stream: BinaryIO) -> tuple[int, ...]:
    found = os.fstat(stream.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def main() -> None:
    """One of the other processes: the rows of its pieces go to the standard output."""
    path, *numbers = sys.argv[1:]
    gc.disable()
    with Path(path).open("rb") as stream:
        rows = contents_of(stream, path, every(*map(int, numbers)), known=True).rows  # the first part asks
        file = _identity(stream)
    for table in (rows.host, rows.device):
        table.take()  # what it holds, not what it may grow to
    pickle.dump((file, rows), sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)


if __name__ == "__main__":
    main()
