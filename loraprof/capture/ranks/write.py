"""From a finished session to a recording: this rank's part, and from all parts the whole. One process is one rank."""

from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import msgspec

from loraprof.capture.passes.foreign import silent
from loraprof.capture.passes.session import Session
from loraprof.capture.passes.spent import Spent
from loraprof.capture.ranks.launch import Launch, launch
from loraprof.capture.ranks.publish import Patience, RankWriter, joined
from loraprof.capture.ranks.save import calibrated, early, recording_of
from loraprof.capture.ranks.stage import Stage
from loraprof.capture.ranks.trace_file import export_trace
from loraprof.errors import LoraprofError, MeasurementError
from loraprof.model.recording import Workload
from loraprof.store.places import Place
from loraprof.store.writing import disk, reason_of

Progress = Callable[[str], None]


class PartLost(MeasurementError):
    """One rank's part could not be written; the others go on without it."""


class Writer:
    """Where a session's recording goes. Raises UsageError where something is there already, unless ``force``."""

    def __init__(
        self,
        target: Place,
        force: bool,
        progress: Progress,
        patience: Patience | None = None,
        spent: Spent | None = None,
    ) -> None:
        self._target, self._force, self._progress, self._patience = target, force, progress, patience
        self._spent = spent or Spent()
        self._own = launch()

    def write(self, session: Session, workload: Workload) -> bool:
        """Writes this rank's part; True on the rank that gave the recording its name.

        Of several that one calibrates last, as the others are done. Raises PartLost where only this part is lost,
        MeasurementError where all is.
        """
        with disk(self._target), silent():
            writer = self._handed_in(session, workload)
            if writer is None or not self._in_time(writer) or writer.whole is None:
                return False
            if self._own.world > 1:
                self._progress("calibrating the device")
                try:
                    writer.stage.replace(msgspec.json.encode(calibrated(session, writer.whole)))
                except OSError as error:
                    self._progress(f"{self._target}: whole, but without the calibration: {reason_of(error)}")
        return True

    def leave_behind(self, session: Session, workload: Workload) -> Launch | None:
        """In a job that falls apart: writes this part. Returns the launch when this rank is to see to the rest."""
        with disk(self._target), silent():
            writer = self._handed_in(session, workload)
            leads = writer is not None and self._own.rank == min(writer.stage.done(), default=self._own.rank)
            return self._own if leads else None

    def absent(self, reason: str) -> None:
        """Tells the other ranks, if there are any, that this one has nothing to add."""
        if self._own.world > 1:
            with suppress(OSError, LoraprofError):
                stage = joined(self._target, self._own, self._force)
                if stage is not None:
                    told(stage, reason)

    def _handed_in(self, session: Session, workload: Workload) -> RankWriter | None:
        """None when the others did not wait."""
        alone = self._own.world == 1
        session.stop_profiler()
        stage = joined(self._target, self._own, self._force)
        if stage is None or session.recorded is None:
            self._late()
            return None
        writer = RankWriter(stage, self._own, self._patience)
        try:
            if alone and not session.done:
                self._progress(early(session, session.recorded))
            if alone:
                self._progress("writing the trace")
            export_trace(session.recorded.profiler, writer.trace())
            self._spent.ends("writing")
            if alone:
                self._progress("calibrating the device")
            recording = recording_of(session, workload, calibrate=alone)
            self._spent.ends("calibration")
            writer.hand_in(recording, session.nvml)
        except OSError as error:
            if stage.published():
                self._late()
                return None
            self._give_up(stage, error)
        except BaseException as error:
            told(stage, f"ended by {type(error).__name__}")
            raise
        return writer

    def _in_time(self, writer: RankWriter) -> bool:
        try:
            return writer.publish()
        except (OSError, MeasurementError) as error:
            if writer.stage.published():
                self._late()
                return False
            self._give_up(writer.stage, error)

    def _late(self) -> None:
        self._progress(f"rank {self._own.rank} took too long: {self._target} was written without it")

    def _give_up(self, stage: Stage, error: OSError | MeasurementError) -> NoReturn:
        why = reason_of(error) if isinstance(error, OSError) else error.message
        if told(stage, why):
            raise error
        raise PartLost(f"{self._target}: rank {self._own.rank}'s part cannot be written, {why}") from None


def told(stage: Stage, reason: str) -> bool:
    """Says that this rank gives up, as far as the disk lets it. True when no rank has anything to add."""
    with suppress(OSError):
        return stage.fail(reason)
    return False
