"""The same behind a URL, for ranks on machines that share no file system.

An object store has no rename: the ranks' files go to their final names, marks beside them into ``_<launch>/``, and
``recording.json`` comes last. A place without it is no recording yet, whatever else is in it.
"""

import os
import shutil
from pathlib import Path

import msgspec

from loraprof.capture.ranks.launch import Launch
from loraprof.capture.ranks.stage import claim_of, files_of, taken
from loraprof.errors import InputError
from loraprof.store.layout import NVML, RECORDING, own_name, trace_name
from loraprof.store.leftovers import scratch_folder
from loraprof.store.places import Entry, RemotePath
from loraprof.store.recordings import read_recording


class RemoteStage:
    """Raises UsageError when another process has this rank's number."""

    def __init__(self, target: RemotePath, launch: Launch, claim: bool = True) -> None:
        self._target, self._launch = target, launch
        self._marks = target / f"_{launch.key}"
        self._claim = self._marks / claim_of(launch.rank)
        self._folder: Path | None = None
        if claim:
            self._take()

    def _take(self) -> None:
        if self._claim.exists():
            raise taken(self._launch.rank, self._claim.read_bytes().decode(errors="replace"))
        self._claim.write_bytes(str(os.getpid()).encode())
        if launch_of(self._target) not in (None, self._launch.key):  # what is replaced is no recording from here on
            (self._target / RECORDING).remove()

    def trace(self) -> Path:
        self._folder = self._folder or scratch_folder()
        return self._folder / trace_name(self._launch.rank)

    def add(self, name: str, content: bytes) -> None:
        (self._target / name).write_bytes(content)

    def finish(self, own: bytes) -> None:
        rank = self._launch.rank
        (self._target / trace_name(rank)).upload(self.trace())
        self._clear()
        self.add(own_name(rank), own)
        (self._marks / f"rank{rank}.done").write_bytes(b"")

    def own(self) -> bytes:
        return (self._target / own_name(self._launch.rank)).read_bytes()

    def fail(self, reason: str) -> bool:
        rank = self._launch.rank
        self._clear()
        for name in (own_name(rank), trace_name(rank)):
            (self._target / name).remove()
        (self._marks / f"rank{rank}.failed").write_bytes(reason.encode())
        if len(self.failed()) < self._launch.world:
            return False
        self._marks.remove()
        return True

    def done(self) -> set[int]:
        return {_rank(entry) for entry in _listed(self._marks) if entry.name.endswith(".done")}

    def failed(self) -> dict[int, str]:
        marks = [entry for entry in _listed(self._marks) if entry.name.endswith(".failed")]
        return {_rank(e): (self._marks / e.name).read_bytes().decode(errors="replace") for e in marks}

    def processes(self, ranks: set[int]) -> set[int]:
        return set()  # asking would cost requests as long as the ranks are waited for

    def published(self) -> bool:
        return not self._claim.exists()

    def publish(self, recording: bytes, ranks: set[int]) -> bool:
        if self.published():
            return False
        published = files_of(ranks, self._launch) | {NVML, self._marks.name}
        for entry in _listed(self._target):  # of a recording that is replaced, or of ranks that did not finish
            if entry.name not in published:
                (self._target / entry.name).remove()
        self.add(RECORDING, recording)
        self._marks.remove()
        return True

    def replace(self, recording: bytes) -> None:
        self.add(RECORDING, recording)

    def _clear(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def launch_of(target: Path | RemotePath) -> str | None:
    """The launch whose recording lies at ``target``; None where there is none that can be read."""
    try:
        return read_recording(target / RECORDING).environment.launch
    except (InputError, msgspec.DecodeError):
        return None


def _listed(place: RemotePath) -> list[Entry]:
    try:
        return place.entries()
    except FileNotFoundError:
        return []


def _rank(entry: Entry) -> int:
    return int(entry.name.removeprefix("rank").partition(".")[0])
