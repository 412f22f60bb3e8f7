"""From paths to a report or a comparison: reads recordings or a foreign trace and runs the analysis."""

from os import PathLike
from pathlib import Path

import msgspec

from loraprof.diagnosis.build import build_report
from loraprof.diagnosis.ranks import rows_of, slowest
from loraprof.diagnosis.recorded import compare_recordings
from loraprof.model.compare import Comparison
from loraprof.model.report import Report
from loraprof.store.kineto import read_trace
from loraprof.store.recordings import Source, load_source


def diagnose(path: str | Path) -> Report:
    """The report of a recording directory or a PyTorch profiler trace (``.json``, ``.json.gz``). No torch.

    Raises InputError when it cannot be read.
    """
    return report_of(load_source(path))


def compare(*recordings: str | PathLike[str], allow_different: bool = False) -> Comparison:
    """Recordings against the first of them: times, verdicts and the waterfall to the last. No torch.

    Raises InputError for what cannot be read or holds no step times, UsageError for fewer than two, and for different
    workloads unless ``allow_different``.
    """
    return compare_recordings([Path(place) for place in recordings], allow_different)


def report_of(source: Source) -> Report:
    """The same for a source that is loaded. Raises InputError when its trace cannot be read."""
    if len(source.traces) < 2:
        return build_report(read_trace(source.traces[0]), source.path, source.recording, source.nvml)
    jobs = [(rank, path, own) for (rank, own), path in zip(source.ranks, source.traces, strict=True)]
    rows, notes = rows_of(jobs)
    chosen = slowest(rows).rank
    path, own = next((p, r) for rank, p, r in jobs if rank == chosen)
    report = build_report(read_trace(path), source.path, own or source.recording, source.nvml, len(source.traces))
    notes = [f"{len(rows)} ranks; the report is rank {chosen}'s, the slowest", *notes]
    closure = msgspec.structs.replace(report.closure, notes=[*report.closure.notes, *notes])
    return msgspec.structs.replace(report, closure=closure, ranks=rows)
