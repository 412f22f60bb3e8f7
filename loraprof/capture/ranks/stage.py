"""Where do the ranks of one launch put their parts until the recording is whole?

Beside the target, in a folder named after the launch. A rank claims its number (of two processes with one number the
second is refused), writes its trace, and last ``rank<i>.json`` by a rename: that file says that the rank is done.
Publishing takes away what ranks that are not done left behind, adds ``recording.json`` and renames the folder: from
then on it is gone, which is how the others see that it happened.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from loraprof.capture.ranks.launch import Launch
from loraprof.errors import MeasurementError, UsageError
from loraprof.store.layout import CLAIM, NVML, RECORDING, own_name, rank_of_own, trace_name
from loraprof.store.leftovers import clear_leftovers
from loraprof.store.owners import owner, process_of
from loraprof.store.recordings import publish
from loraprof.store.writing import temporary, write

SKEW_S: Final = 5.0  # between this machine's clock and the file system's


class Stage(Protocol):
    """One rank's view of what the ranks share. Its methods raise OSError."""

    def trace(self) -> Path:
        """Where this rank's trace is to be written."""

    def add(self, name: str, content: bytes) -> None:
        """A file of the recording, there whole or not at all."""

    def finish(self, own: bytes) -> None:
        """This rank's trace and its own recording are complete."""

    def own(self) -> bytes:
        """The recording that this rank has finished."""

    def fail(self, reason: str) -> bool:
        """This rank will not finish; its part goes. True when no rank will: then everything goes."""

    def done(self) -> set[int]:
        """Ranks that have finished."""

    def failed(self) -> dict[int, str]:
        """Ranks that said that they will not finish, and why."""

    def processes(self, ranks: set[int]) -> set[int]:
        """The processes of those of ``ranks`` that can be told from here."""

    def published(self) -> bool:
        """Whether the recording has its name."""

    def publish(self, recording: bytes, ranks: set[int]) -> bool:
        """Gives the recording of ``ranks`` its name; False when another rank did."""

    def replace(self, recording: bytes) -> None:
        """Another ``recording.json`` in the published recording."""


def claim_of(rank: int) -> str:
    return f"rank{rank}{CLAIM}"


def files_of(ranks: set[int], launch: Launch) -> set[str]:
    """What a recording keeps of its ranks; of one alone ``recording.json`` says everything."""
    owns = {own_name(rank) for rank in ranks} if launch.world > 1 else set()
    return owns | {trace_name(rank) for rank in ranks}


def taken(rank: int, holder: str) -> UsageError:
    """Two processes with one rank's number."""
    what = f"rank {rank} is already being recorded, by process {holder.strip()}"
    return UsageError(what, "start every rank once, with a RANK of its own")


class LocalStage:
    """On a file system that all ranks see. Raises UsageError when another process has this rank's number."""

    def __init__(self, target: Path, launch: Launch, force: bool, claim: bool = True) -> None:
        self._target, self._launch, self._force = target, launch, force
        self.folder = target.absolute().parent / f".{target.name}.tmp-ranks-{launch.key}"
        self._claim = self.folder / claim_of(launch.rank)
        if claim:
            self._take()

    def _take(self) -> None:
        launch = self._launch
        clear_leftovers(self.folder.parent)
        made, words = temporary(self._target), f"{owner()} {owner(os.getppid()) if launch.world > 1 else owner()}"
        made.mkdir(parents=True)
        (made / self._claim.name).write_text(words)
        with suppress(OSError):  # another rank has made it, or one of a launch that crashed
            made.rename(self.folder)
            return
        shutil.rmtree(made, ignore_errors=True)
        if self._fresh(self._claim):
            raise taken(launch.rank, process_of(self._claim.read_text(errors="replace")))
        self._drop()
        with self._claim.open("x") as claim:
            claim.write(words)

    def trace(self) -> Path:
        return self.folder / trace_name(self._launch.rank)

    def add(self, name: str, content: bytes) -> None:
        write(self.folder / name, content)

    def finish(self, own: bytes) -> None:
        self.add(own_name(self._launch.rank), own)

    def own(self) -> bytes:
        return (self.folder / own_name(self._launch.rank)).read_bytes()

    def fail(self, reason: str) -> bool:
        self._drop(kept=CLAIM)  # room for the reason
        mark = self.folder / f"rank{self._launch.rank}.failed"
        mark.touch()  # a full disk still has room for an empty file
        with suppress(OSError):
            mark.write_text(reason)
        if len(self.failed()) < self._launch.world:
            self._claim.unlink(missing_ok=True)
            return False
        aside = temporary(self._target)  # whatever interrupts: it says whose it is
        with suppress(FileNotFoundError):
            self.folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
        return True

    def done(self) -> set[int]:
        return {rank for p in self._files() if (rank := rank_of_own(p.name)) is not None and self._fresh(p)}

    def failed(self) -> dict[int, str]:
        marks = [p for p in self._files() if p.suffix == ".failed" and self._fresh(p)]
        return {int(p.stem.removeprefix("rank")): p.read_text(errors="replace") for p in marks}

    def processes(self, ranks: set[int]) -> set[int]:
        claims = [p for p in self._files() if p.name in {claim_of(rank) for rank in ranks}]
        return {int(number) for p in claims if (number := process_of(_text(p)))}

    def published(self) -> bool:
        return not self.folder.exists()

    def publish(self, recording: bytes, ranks: set[int]) -> bool:
        kept = files_of(ranks, self._launch) | {NVML, RECORDING}
        try:
            self.add(RECORDING, recording)
            for path in self._files():
                if path.name not in kept and path.suffix != CLAIM:
                    path.unlink(missing_ok=True)
            publish(self.folder, self._target, self._force)
            for claim in self._target.glob(f"*{CLAIM}"):  # until here it says whose the folder is
                claim.unlink(missing_ok=True)
        except (FileNotFoundError, MeasurementError):
            if self.folder.exists():
                raise
            return False
        return True

    def replace(self, recording: bytes) -> None:
        write(self._target / RECORDING, recording)

    def _drop(self, kept: str = "") -> None:
        for part in self.folder.glob(f"rank{self._launch.rank}.*"):
            if part.suffix != kept:
                part.unlink(missing_ok=True)

    def _fresh(self, path: Path) -> bool:
        """Whether a file is there and of this launch, not of one that crashed before under the same key."""
        try:
            return path.stat().st_mtime > self._launch.began_s - SKEW_S
        except FileNotFoundError:
            return False

    def _files(self) -> list[Path]:
        try:
            return list(self.folder.iterdir())
        except FileNotFoundError:
            return []


def _text(path: Path) -> str:
    """Empty where the file has gone meanwhile."""
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
