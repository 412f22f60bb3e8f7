"""Which files of a directory belong to a recording or to a set of ranks' traces, and what is beside them?

A directory is listed once, by name. One without ``recording.json`` is a recording whose leader died before it gave
it its name (``rank<i>.trace.json``), or foreign traces (``*.trace.json``, or a rank's number in the name).
"""

import re
from collections import Counter
from typing import Final

from msgspec import Struct

from loraprof.errors import InputError
from loraprof.store.layout import CLAIM, FIX, NVML, RECORDING, rank_of_own, rank_of_trace
from loraprof.store.places import Place, entries

SHOWN: Final = 3
_FOREIGN = re.compile(r"\.trace\.json(\.gz)?$|rank[-_]?\d+\b.*\.json(\.gz)?$", re.IGNORECASE)
_NUMBER = re.compile(r"rank[-_]?(\d+)", re.IGNORECASE)


class RankFile(Struct, frozen=True):
    """One rank's trace; ``rank`` is None where only the trace itself can say."""

    rank: int | None
    trace: Place
    size_bytes: int = 0
    own: Place | None = None  # this rank's recording
    shared: Place | None = None  # that of all


class Directory(Struct, frozen=True):
    """``ranks`` in the order of their numbers, those without one by name."""

    recording: Place | None
    nvml: Place | None
    ranks: tuple[RankFile, ...]
    ignored: tuple[str, ...]

    @property
    def foreign(self) -> bool:
        """Traces that no recording describes."""
        return self.recording is None and not any(file.own for file in self.ranks)

    def note(self) -> str | None:
        """What is not read."""
        if not self.ignored:
            return None
        shown = ", ".join(self.ignored[:SHOWN]) + (", …" if len(self.ignored) > SHOWN else "")
        files = "1 file that belongs" if len(self.ignored) == 1 else f"{len(self.ignored):,} files that belong"
        return f"ignored {files} to no rank: {shown}"


def directory_of(place: Place) -> Directory:
    """Raises InputError when two files are the trace of one rank."""
    listed = sorted(entries(place))
    names = {entry.name for entry in listed}
    recording = place / RECORDING if RECORDING in names else None
    traces = [(rank, e) for e in listed if (rank := rank_of_trace(e.name)) is not None]
    own = {rank: place / e.name for e in listed if (rank := rank_of_own(e.name)) is not None}
    found = [RankFile(rank, place / e.name, e.size_bytes, own.get(rank), recording) for rank, e in traces]
    used = {RECORDING, NVML, FIX, *(e.name for _, e in traces), *(path.name for path in own.values())}
    if recording is None and not found:
        foreign = [e for e in listed if _FOREIGN.search(e.name)]
        numbers = Counter(_number(e.name) for e in foreign)  # node0_rank0 and node1_rank0: the traces know better
        told = [n if numbers[n] == 1 else None for n in (_number(e.name) for e in foreign)]
        found = [RankFile(n, place / e.name, e.size_bytes) for n, e in zip(told, foreign, strict=True)]
        used = {e.name for e in foreign}
    _refuse_doubles(place, found)
    ranks = sorted(found, key=lambda f: (f.rank is None, f.rank, f.trace.name))
    nvml = place / NVML if NVML in names and recording is not None else None
    return Directory(
        recording,
        nvml,
        tuple(ranks),
        tuple(e.name for e in listed if e.name not in used and not e.name.endswith(CLAIM)),
    )


def _number(name: str) -> int | None:
    found = _NUMBER.search(name)
    return int(found[1]) if found else None


def _refuse_doubles(place: Place, found: list[RankFile]) -> None:
    first: dict[int, RankFile] = {}
    for file in found:
        if file.rank is not None and first.setdefault(file.rank, file) is not file:
            both = f"{first[file.rank].trace.name} and {file.trace.name}"
            raise InputError(f"{place}: rank {file.rank} has two traces, {both}", "take one of them away")
