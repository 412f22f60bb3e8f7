"""From a path to a report: reads a recording or a foreign trace and runs the analysis."""

from pathlib import Path

from loraprof.diagnosis.build import build_report
from loraprof.model.report import Report
from loraprof.store.kineto import read_trace
from loraprof.store.recordings import Source, load_source


def diagnose(path: str | Path) -> Report:
    """The report of a recording directory or a PyTorch profiler trace (``.json``, ``.json.gz``). No torch.

    Raises InputError when it cannot be read.
    """
    return report_of(load_source(path))


def report_of(source: Source) -> Report:
    """The same for a source that is loaded. Raises InputError when its trace cannot be read."""
    trace = read_trace(source.traces[0])
    return build_report(trace, source.path, source.recording, source.nvml, len(source.traces))
