"""One recording from many ranks: every rank writes its own files, one of them gives the recording its name.

Ranks share a temporary directory beside the target. Each writes ``rank<i>.trace.json.gz`` and ``rank<i>.json``, then a
``rank<i>.done`` file. The leader (rank 0, or the lowest rank alive when rank 0 died) waits for the others, writes
``recording.json`` with a note for every rank that is missing, and renames. Nothing is sent between the ranks: a rank
that dies cannot hold the others up.
"""

import os
import time
from pathlib import Path

import msgspec

from loraprof.errors import UsageError
from loraprof.model.recording import Nvml, Recording
from loraprof.store.recordings import NVML, RECORDING, publish

PATIENCE_S = 60.0  # how long the leader waits for ranks that are slower to write
LAST_WORDS_S = 10.0  # the same when the job is being torn down: torchrun kills after 30 s


def rank_and_world() -> tuple[int, int]:
    """(rank, world size) as torchrun and its kind announce them; (0, 1) alone."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def launch_stamp() -> float:
    """A time all ranks of one launch on this machine agree on: when their parent process started."""
    try:
        return Path(f"/proc/{os.getppid()}").stat().st_ctime
    except OSError:
        return time.time()


class RankWriter:
    """Writes one rank's part of ``target``. Raises UsageError when the target exists (without ``force``)."""

    def __init__(self, target: Path, rank: int, world: int, force: bool, patience_s: float = PATIENCE_S) -> None:
        if target.exists() and not force:
            raise UsageError(f"{target}: exists already", "--force overwrites it")
        self.target, self.rank, self.world, self.force = target, rank, world, force
        self.patience_s = patience_s
        self.folder = target.absolute().parent / f".{target.name}.tmp-ranks-{round(launch_stamp())}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def trace(self) -> Path:
        return self.folder / f"rank{self.rank}.trace.json.gz"

    def finish(self, recording: Recording, nvml: Nvml | None) -> Path | None:
        """Publishes the recording when this rank leads; returns its path then, else None."""
        (self.folder / f"rank{self.rank}.json").write_bytes(msgspec.json.encode(recording))
        if nvml is not None and self.rank == 0:
            (self.folder / NVML).write_bytes(msgspec.json.encode(nvml))
        (self.folder / f"rank{self.rank}.done").touch()
        missing = self._wait()
        published = not self.folder.exists()
        leads = self.rank == 0 or (0 in missing and min(set(range(self.world)) - missing) == self.rank)
        if published or not leads:
            return None
        slow = f"it died or was slower than {self.patience_s:.0f} s"
        notes = [f"rank {r} left no recording: {slow}" for r in sorted(missing)]
        whole = msgspec.structs.replace(recording, notes=[*recording.notes, *notes])
        (self.folder / RECORDING).write_bytes(msgspec.json.encode(whole))
        for mark in self.folder.glob("*.done"):
            mark.unlink()
        return publish(self.folder, self.target, self.force)

    def _wait(self) -> set[int]:
        """Ranks that have not finished when all others have or patience ends. Followers wait for rank 0 only."""
        wanted = set(range(self.world)) if self.rank == 0 else {0}
        end = time.monotonic() + self.patience_s
        while True:
            missing = {r for r in range(self.world) if not (self.folder / f"rank{r}.done").exists()}
            if not missing & wanted or not self.folder.exists() or time.monotonic() > end:
                return missing & wanted if self.rank == 0 else missing
            time.sleep(0.05)
