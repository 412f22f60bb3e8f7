"""One recording from many ranks: every rank writes its own files, one of them gives the recording its name.

The leader is rank 0, or the lowest rank that is done when rank 0 is not. It waits until every rank is done, said that
it will not be or (on one machine) has ended, at most ``PATIENCE_S``, then publishes with a note for every rank that is
missing. Should it die meanwhile, the next one takes over after ``GRACE_S``. Nothing is sent between the ranks: one that
dies cannot hold the others up. What takes longer (the calibration) is added when the recording is already whole.

In a job that falls apart a rank may wait in a collective for ranks that gave up, and hears of it only when their
processes end. There all leave as soon as their part is written; the lowest that is done leaves a process behind that
publishes (``runs/profile/last_words.py``). Whoever waits then does so for ``LAST_WORDS_S`` more at most.
"""

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from loraprof import units
from loraprof.capture.ranks.launch import Launch
from loraprof.capture.ranks.stage import LocalStage, Stage
from loraprof.capture.ranks.stage_remote import RemoteStage, launch_of
from loraprof.errors import UsageError
from loraprof.model.recording import Nvml, Recording
from loraprof.store.layout import NVML, RECORDING
from loraprof.store.owners import children, machine_key
from loraprof.store.places import Place, RemotePath
from loraprof.store.writing import check_target

PATIENCE_S: Final = 60.0  # how long the leader waits for ranks that are slower to write
LAST_WORDS_S: Final = 20.0  # the same when the job is being torn down: torchrun kills after 30 s
GRACE_S: Final = 5.0  # between the turns of those who would lead
POLL_S: Final = (0.05, 0.25)  # rank 0, the others
LOOK_S: Final = 1.0  # between two looks at all processes of the machine


def joined(target: Place, launch: Launch, force: bool) -> Stage | None:
    """This rank's part in the recording ``target``; None when the others have published without it.

    Raises UsageError when the target exists (without ``force``), OSError when it cannot be written.
    """
    if exists(target):
        if launch_of(target) == launch.key:
            return None
        if isinstance(target, Path):
            check_target(target, force)
        elif not force:
            raise UsageError(f"{target}: exists already", "--force overwrites it")
    return stage_of(target, launch, force)


def stage_of(target: Place, launch: Launch, force: bool, claim: bool = True) -> Stage:
    """``claim=False``: in a process that goes on for one that has the claim. Raises OSError."""
    if isinstance(target, RemotePath):
        return RemoteStage(target, launch, claim)
    return LocalStage(target, launch, force, claim)


def exists(target: Place) -> bool:
    """Whether there is something to overwrite; behind a URL other ranks' files may be there already."""
    return (target / RECORDING).exists() if isinstance(target, RemotePath) else target.exists()


class Patience:
    """How long the leader waits for the others."""

    def __init__(self, seconds: float = PATIENCE_S, until: float = math.inf) -> None:
        """``until`` by ``time.monotonic``, which all processes of a machine share."""
        self.seconds, self.until = seconds, until

    def shorten(self, *_: object) -> None:
        """The job is being torn down; may be called by a signal."""
        if self.until == math.inf:
            self.seconds, self.until = min(self.seconds, LAST_WORDS_S), time.monotonic() + LAST_WORDS_S

    def is_over(self, begun: float) -> bool:
        """``begun``: when the waiting began, by ``time.monotonic``."""
        return time.monotonic() > min(begun + self.seconds, self.until)


class RankWriter:
    """Hands in one rank's part and waits for the others'. ``whole`` is what this rank published, if it led."""

    def __init__(self, stage: Stage, launch: Launch, patience: Patience | None = None) -> None:
        self.stage, self._launch, self._patience = stage, launch, patience or Patience()
        self._own: Recording | None = None
        self._nobody_else, self._looked = False, -math.inf
        self.whole: Recording | None = None

    def trace(self) -> Path:
        return self.stage.trace()

    def hand_in(self, recording: Recording, nvml: Nvml | None) -> None:
        """This rank is done."""
        launch = self._launch
        where = {"rank": launch.rank, "world_size": launch.world, "launch": launch.key, "machine": machine_key()}
        own = msgspec.structs.replace(recording, environment=msgspec.structs.replace(recording.environment, **where))
        if nvml is not None and launch.rank == 0:
            self.stage.add(NVML, msgspec.json.encode(nvml))
        self.stage.finish(msgspec.json.encode(own))
        self._own = own

    def publish(self) -> bool:
        """Waits for its turn; True when this rank led and the recording has its name."""
        own = self._own or msgspec.json.decode(self.stage.own(), type=Recording)
        done = self._gathered()
        if done is None:
            return False
        missing = sorted(set(range(self._launch.world)) - done)
        notes = [*own.notes, *self._missing(missing)]
        self.whole = msgspec.structs.replace(own, missing_ranks=missing, notes=notes)
        return self.stage.publish(msgspec.json.encode(self.whole), done)

    def _gathered(self) -> set[int] | None:
        """The ranks that are done when it is this one's turn to publish; None when another did."""
        pause, rank = POLL_S[self._launch.rank > 0], self._launch.rank
        begun, ready = time.monotonic(), None
        while not self.stage.published():
            done, now = self.stage.done(), time.monotonic()
            if ready is None and (self._is_all(done) or self._patience.is_over(begun)):
                ready = now
            if ready is not None and rank in done and now - ready >= GRACE_S * sorted(done).index(rank):
                return done
            time.sleep(pause)
        return None

    def _is_all(self, done: set[int]) -> bool:
        """Whether nobody is left to wait for."""
        launch, now = self._launch, time.monotonic()
        if len(done | self.stage.failed().keys()) == launch.world:
            return True
        if now - self._looked < LOOK_S:
            return False
        self._looked = now
        alive = children(launch.launcher) if launch.one_machine and launch.launcher else None
        self._nobody_else = alive is not None and alive <= {os.getpid()} | self.stage.processes(done)
        return self._nobody_else

    def _missing(self, ranks: list[int]) -> Iterator[str]:
        failures = self.stage.failed()
        unknown = "died" if self._nobody_else else f"died, or slower than {self._patience.seconds:.0f} s"
        reasons = {rank: failures.get(rank, unknown) or "it could not write" for rank in ranks}
        for reason in dict.fromkeys(reasons.values()):
            ranks_named = units.named("rank", [rank for rank in ranks if reasons[rank] == reason])
            yield f"{ranks_named} left no recording: {reason}"
