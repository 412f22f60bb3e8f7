"""From a path to a report: reads a recording or foreign traces and runs the analysis."""

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from loraprof.analysis.analyse import analyse
from loraprof.analysis.ranks.examine import STEPLESS, LeftOut, Run, sequential
from loraprof.analysis.ranks.merged import merged_ranks
from loraprof.diagnosis.build import Among, Diagnosis, diagnosed
from loraprof.diagnosis.verdict import proven, with_proof
from loraprof.errors import InputError
from loraprof.model.recording import Recording
from loraprof.model.report import Report
from loraprof.model.trace import Trace
from loraprof.store.directories import RankFile
from loraprof.store.kineto.read import read_trace
from loraprof.store.places import RemotePath
from loraprof.store.rank_files import recording_of
from loraprof.store.recordings import Source, fix_of, load_source

if TYPE_CHECKING:
    from loraprof.analysis.ranks.survey import Survey


def diagnose(path: str | PathLike[str] | RemotePath, run: Run = sequential) -> Report:
    """The report of a recording directory or of PyTorch profiler traces (``.json``, ``.json.gz``). No torch.

    ``path`` may be a URL; ``run`` says how the parts of many ranks are run. Raises InputError when it cannot be read.
    """
    return report_of(load_source(path), run)


def report_of(source: Source, run: Run = sequential) -> Report:
    """The same for a source that is loaded. Raises InputError when its trace cannot be read."""
    return diagnosis_of(source, run).report


def diagnosis_of(source: Source, run: Run = sequential) -> Diagnosis:
    """The report and what it was made of."""
    diagnosis = _diagnosed(source, run)
    found = fix_of(source)
    best = proven(found) if found else None
    if best is None:
        return diagnosis
    verdict = with_proof(diagnosis.report.verdict, best)
    return replace(diagnosis, report=msgspec.structs.replace(diagnosis.report, verdict=verdict))


def _diagnosed(source: Source, run: Run) -> Diagnosis:
    if len(source.traces) > 1:
        return ranks_diagnosis(source, surveyed(source, run))
    recording = source.recording
    if source.ranks and source.ranks[0].own is not None:
        recording = _described(source.ranks[0], source)
    trace = read_trace(source.traces[0])
    if recording is None and (made := _merged(source, merged_ranks(trace))):
        return made
    return _with_notes(diagnosed(trace, source.path, recording, source.nvml), *source.notes)


def _merged(source: Source, merged: Sequence[tuple[str, Trace]]) -> Diagnosis | None:
    """The slowest of several ranks whose traces are one file; None where none of them holds a step."""
    if not merged:
        return None
    from loraprof.analysis.ranks.breakdown import breakdown_of
    from loraprof.analysis.ranks.survey import survey

    found = [breakdown_of(i, process, analyse(trace), None) for i, (process, trace) in enumerate(merged)]
    if not any(one.steps for one in found):
        return None
    seen = survey(one if one.steps else LeftOut(one.rank, one.trace, STEPLESS) for one in found)
    trace = next(trace for process, trace in merged if process == seen.trace)
    processes = ", ".join(process for process, _ in merged)
    note = f"{len(merged)} ranks in one file, in the order of their processes: {processes}"
    return _among(seen, len(merged), trace, source, None, note)


def surveyed(source: Source, run: Run) -> "Survey":
    """All ranks of a source together."""
    from loraprof.analysis.ranks.survey import survey  # a single trace needs none of it

    world = source.recording.environment.world_size if source.recording else None
    try:
        return survey(run(source.ranks), world if world and world > 1 else None)
    except InputError as error:
        raise InputError(f"{source.path}: {error.message}", error.hint) from None


def file_of(source: Source, seen: "Survey") -> RankFile:
    """The slowest rank's files."""
    return next(file for file in source.ranks if file.trace.name == seen.trace)


def ranks_diagnosis(source: Source, seen: "Survey") -> Diagnosis:
    """The slowest rank, with what all ranks say together."""
    file = file_of(source, seen)
    return _among(seen, len(source.traces), read_trace(file.trace), source, _described(file, source))


def _among(
    seen: "Survey", ranks: int, trace: Trace, source: Source, recording: Recording | None, *notes: str
) -> Diagnosis:
    among = Among(ranks, seen.step, seen.transfer_ns)
    found = diagnosed(trace, source.path, recording, source.nvml, among)
    report = msgspec.structs.replace(found.report, ranks=seen.rows, rank_summary=seen.summary)
    return _with_notes(replace(found, report=report), *notes, *seen.notes, *source.notes)


def _described(file: RankFile, source: Source) -> Recording | None:
    return _calibrated(recording_of(file), source.recording)


def _calibrated(own: Recording | None, shared: Recording | None) -> Recording | None:
    """A rank's recording with the calibration that the leader made for all, if its device is of the same kind."""
    if own is None or shared is None:
        return own
    notes = [*own.notes, *(note for note in shared.notes if note not in own.notes)]
    if own.calibration is None and shared.calibration is not None:
        if own.device.name != shared.device.name:
            other = f"rank {shared.environment.rank} was calibrated, whose device is another: {shared.device.name}"
            return msgspec.structs.replace(own, notes=[*notes, other])
        own = msgspec.structs.replace(own, calibration=shared.calibration, training_cost=shared.training_cost)
    return msgspec.structs.replace(own, notes=notes)


def _with_notes(found: Diagnosis, *notes: str) -> Diagnosis:
    closure = msgspec.structs.replace(found.report.closure, notes=[*found.report.closure.notes, *notes])
    return replace(found, report=msgspec.structs.replace(found.report, closure=closure))
