"""From an analysis to the report: the one place where the contract's JSON is put together."""

from pathlib import Path

import msgspec

from loraprof.analysis.analyse import Analysis, analyse
from loraprof.analysis.statistics import median_interval
from loraprof.diagnosis import tables
from loraprof.diagnosis.case import Case
from loraprof.diagnosis.findings import findings
from loraprof.diagnosis.verdict import sentence
from loraprof.model.recording import Nvml, Recording
from loraprof.model.report import Closure, Report, Source, TimingReport, Unprofiled, Verdict
from loraprof.model.trace import Trace


def build_report(
    trace: Trace, path: Path, recording: Recording | None = None, nvml: Nvml | None = None, ranks: int = 1
) -> Report:
    """The report of one rank's trace, with what its recording adds."""
    analysis = analyse(trace, recording)
    reported = analysis.reported
    ledger = analysis.ledgers[reported] if reported is not None else None
    step = analysis.steps[reported] if reported is not None else None
    busy = tables.busy_of(analysis, ledger) if ledger is not None else None
    table = tables.kernels(analysis, ledger, busy) if ledger is not None and busy is not None else []
    rows = tables.modules(analysis, ledger, busy) if ledger is not None and busy is not None else []
    adapter = tables.adapter(recording, ledger, table, busy) if ledger is not None and busy is not None else None
    timing = _timing(recording, step.wall_ns if step else None)
    found = []
    if ledger is not None and step is not None and busy is not None and step.wall_ns:
        found = findings(Case(analysis, ledger, step, busy, table, adapter, timing, recording, nvml))
    return Report(
        source=_source(analysis, path, recording, ranks),
        verdict=Verdict(sentence=sentence(step, adapter, timing)),
        timing=timing,
        reported_step=step.name if step else None,
        steps=list(analysis.steps),
        kernels=table,
        modules=rows,
        adapter=adapter,
        ceilings=None,
        replay=None,
        probes=None,
        memory=tables.memory(recording),
        nvml=tables.nvml(nvml),
        findings=found,
        closure=_with_notes(analysis, recording),
        devices={f"cuda:{i}": list(steps) for i, steps in analysis.others.items()} or None,
    )


def _source(analysis: Analysis, path: Path, recording: Recording | None, ranks: int) -> Source:
    gpu = analysis.trace.gpus[0].name if analysis.trace.gpus else None
    return Source(
        path=str(path),
        kind="recording" if recording else "trace",
        device="cuda" if analysis.on_gpu else "cpu",
        device_name=recording.device.name if recording else gpu,
        torch=recording.environment.torch if recording else None,
        ranks=ranks,
        workload=recording.workload.name if recording else None,
    )


def _timing(recording: Recording | None, profiled_ns: int | None) -> TimingReport:
    unprofiled = None
    if recording is not None and recording.timing is not None and recording.timing.samples_ns:
        median, low, high = median_interval(recording.timing.samples_ns)
        steps = len(recording.timing.samples_ns)
        unprofiled = Unprofiled(median_ns=median, low_ns=low, high_ns=high, steps=steps)
    inflation = profiled_ns / unprofiled.median_ns if unprofiled and profiled_ns else None
    return TimingReport(
        unprofiled=unprofiled,
        profiled_ns=profiled_ns,
        inflation=inflation,
        tokens_per_step=recording.workload.tokens_per_step if recording else None,
    )


def _with_notes(analysis: Analysis, recording: Recording | None) -> Closure:
    extra = list(recording.notes) if recording else ["a trace without a recording: modules, timing and memory unknown"]
    return msgspec.structs.replace(analysis.closure, notes=[*analysis.closure.notes, *extra])
