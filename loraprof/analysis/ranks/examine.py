"""One rank's part of the analysis: from its files to its breakdown, in whatever process runs it.

``Run`` is how the parts of many ranks are run: one after the other, in processes of this machine, or as Ray tasks. Each
gets a file name and gives a breakdown of a few kilobytes, in the order of the files, whichever way it went.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from loraprof.analysis.ranks.breakdown import RankBreakdown
from loraprof.errors import InputError
from loraprof.lifeline import end_with
from loraprof.store.directories import RankFile
from loraprof.store.places import RemotePath

WORTH_BYTES: Final = 8 << 20  # of compressed traces: below, starting processes takes longer
WORKER_BYTES: Final = 120 << 20  # a worker without a trace
PER_BYTE: Final = 20  # memory per byte of a compressed trace
PER_PLAIN_BYTE: Final = 2
STEPLESS: Final = "its trace holds no step"


class LeftOut(Struct, frozen=True):
    """A rank that cannot be compared, and why."""

    rank: int | None
    name: str
    why: str


Result = RankBreakdown | LeftOut
Run = Callable[[Sequence[RankFile]], Iterable[Result]]


def examine(file: RankFile) -> Result:
    """A rank's breakdown, or why it has none."""
    from loraprof.analysis.analyse import analyse
    from loraprof.analysis.ranks.breakdown import breakdown_of
    from loraprof.store.kineto.read import read_trace
    from loraprof.store.rank_files import recording_of

    name = file.trace.name
    try:
        recording, trace = recording_of(file), read_trace(file.trace)
    except InputError as error:
        return _unreadable(file, error.message)
    alone = (trace.world_size or 1) == 1  # such a job is rank 0 to itself, whatever else it is a part of
    said = trace.rank if file.rank is None or not alone else None
    if recording is not None and said not in (None, file.rank):
        return LeftOut(file.rank, name, f"it is the trace of rank {said}")
    rank = file.rank if said is None else said
    if rank is None:
        return LeftOut(None, name, "it does not say which rank it is")
    found = breakdown_of(rank, name, analyse(trace, recording), recording)
    return found if found.steps else LeftOut(rank, name, STEPLESS)


def _unreadable(file: RankFile, message: str) -> LeftOut:
    """Under the name of the file that is meant; its folder is that of the whole report."""
    files = [place for place in (file.own, file.shared) if place is not None and message.startswith(f"{place}: ")]
    meant = files[0] if files else file.trace
    return LeftOut(file.rank, meant.name, message.removeprefix(f"{meant}: "))


def sequential(files: Sequence[RankFile]) -> Iterable[Result]:
    return map(examine, files)


def processes(files: Sequence[RankFile]) -> Iterable[Result]:
    """In as many processes as cores and memory allow; in this one where that is quicker or no other sees the files."""
    sizes = [file.size_bytes for file in files]
    needs = [file.size_bytes * (PER_BYTE if file.trace.suffix == ".gz" else PER_PLAIN_BYTE) for file in files]
    private = any(isinstance(file.trace, RemotePath) and file.trace.private for file in files)
    count = workers(len(files), max(needs, default=0))
    if count < 2 or private or sum(sizes) < WORTH_BYTES:
        yield from sequential(files)
        return
    # Loaded here: a report of one rank starts in half a second, a tenth of it would go into these.
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    try:
        with ProcessPoolExecutor(count, get_context("spawn"), end_with, (os.getpid(),)) as pool:
            yield from pool.map(examine, files)
    except BrokenProcessPool:
        what = "a process that analysed a rank was killed: was memory short?"
        raise InputError(what, "report one rank's trace file, or use a machine with more memory") from None


def workers(ranks: int, needed_bytes: int) -> int:
    """Processes for this many ranks, by cores and by free memory, of which the largest trace needs so much."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free = _free_bytes()
    fit = free // (WORKER_BYTES + needed_bytes) if free is not None else cores
    return max(1, min(ranks, cores, fit))


def _free_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
