"""From a finished session to one rank's part of a recording, and from all parts to the recording."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import msgspec

from loraprof.capture.passes.session import Session
from loraprof.capture.ranks.launch import Launch, launch
from loraprof.capture.ranks.publish import Patience, RankWriter, joined
from loraprof.capture.ranks.save import calibrated, recording_of, save
from loraprof.capture.ranks.stage import Stage
from loraprof.capture.ranks.trace_file import export_trace
from loraprof.errors import LoraprofError, MeasurementError
from loraprof.model.recording import Workload
from loraprof.store.places import Place
from loraprof.store.writing import disk, reason_of

Progress = Callable[[str], None]


class PartLost(MeasurementError):
    """One rank's part could not be written; the others go on without it."""


def save_launch(
    session: Session,
    workload: Workload,
    target: Place,
    force: bool,
    progress: Progress,
    patience: Patience | None = None,
) -> bool:
    """Writes what this process recorded, alone or with the ranks beside it; True where it named the recording.

    Raises MeasurementError where it cannot.
    """
    if isinstance(target, Path) and launch().world == 1:
        save(session, workload, target, force, progress)
        return True
    return save_rank(session, workload, target, force, progress, patience)


def save_rank(
    session: Session,
    workload: Workload,
    target: Place,
    force: bool,
    progress: Progress,
    patience: Patience | None = None,
) -> bool:
    """Writes this rank's part; True on the rank that gave the recording its name.

    That one then calibrates, as the others are done. Raises PartLost where only this part is lost, MeasurementError
    where all is.
    """
    own = launch()
    with disk(target):
        writer = _handed_in(session, workload, target, force, progress, own, patience)
        if writer is None or not _in_time(writer, own, target, progress) or writer.whole is None:
            return False
        progress("calibrating the device")
        try:
            writer.stage.replace(msgspec.json.encode(calibrated(session, writer.whole)))
        except OSError as error:
            progress(f"{target}: whole, but without the calibration: {reason_of(error)}")
    return True


def leave_behind(session: Session, workload: Workload, target: Place, force: bool, progress: Progress) -> Launch | None:
    """In a job that falls apart: writes this rank's part. Returns the launch when this rank is to see to the rest."""
    own = launch()
    with disk(target):
        writer = _handed_in(session, workload, target, force, progress, own)
        return own if writer is not None and own.rank == min(writer.stage.done(), default=own.rank) else None


def _handed_in(
    session: Session,
    workload: Workload,
    target: Place,
    force: bool,
    progress: Progress,
    own: Launch,
    patience: Patience | None = None,
) -> RankWriter | None:
    """None when the others did not wait."""
    session.stop_profiler()
    stage = joined(target, own, force)
    if stage is None:
        _late(own, target, progress)
        return None
    writer = RankWriter(stage, own, patience)
    try:
        export_trace(session.profiler, writer.trace())
        writer.hand_in(recording_of(session, workload, calibrate=False), session.nvml)
    except OSError as error:
        if stage.published():
            _late(own, target, progress)
            return None
        _give_up(stage, own, target, error)
    return writer


def _in_time(writer: RankWriter, own: Launch, target: Place, progress: Progress) -> bool:
    try:
        return writer.publish()
    except (OSError, MeasurementError) as error:
        if writer.stage.published():
            _late(own, target, progress)
            return False
        _give_up(writer.stage, own, target, error)


def _late(own: Launch, target: Place, progress: Progress) -> None:
    progress(f"rank {own.rank} took too long: {target} was written without it")


def _give_up(stage: Stage, own: Launch, target: Place, error: OSError | MeasurementError) -> NoReturn:
    why = reason_of(error) if isinstance(error, OSError) else error.message
    if told(stage, why):
        raise error
    raise PartLost(f"{target}: rank {own.rank}'s part cannot be written, {why}") from None


def absent(target: Place, force: bool, reason: str) -> None:
    """Tells the other ranks that this one has nothing to add."""
    with suppress(OSError, LoraprofError):
        stage = joined(target, launch(), force)
        if stage is not None:
            told(stage, reason)


def told(stage: Stage, reason: str) -> bool:
    """Says that this rank gives up, as far as the disk lets it. True when no rank has anything to add."""
    with suppress(OSError):
        return stage.fail(reason)
    return False
