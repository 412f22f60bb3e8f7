"""From an analysis to the report: the one place where the contract's JSON is put together."""

from pathlib import Path

import msgspec

from loraprof.analysis.analyse import Analysis, analyse
from loraprof.analysis.statistics import median_interval
from loraprof.diagnosis import tables
from loraprof.diagnosis.busy import busy_of
from loraprof.diagnosis.case import Case
from loraprof.diagnosis.ceiling import ceiling_of, ceilings
from loraprof.diagnosis.counterfactual import Counterfactual, counterfactual
from loraprof.diagnosis.findings import findings
from loraprof.diagnosis.limits import limits_of
from loraprof.diagnosis.traffic import traffic, uncovered
from loraprof.diagnosis.verdict import verdict
from loraprof.model.recording import Nvml, Recording
from loraprof.model.report import Adapter, Closure, Kernel, Report, Source, TimingReport, Traffic, Unprofiled
from loraprof.model.trace import Trace


def build_report(
    trace: Trace, path: Path, recording: Recording | None = None, nvml: Nvml | None = None, ranks: int = 1
) -> Report:
    """The report of one rank's trace, with what its recording adds."""
    analysis = analyse(trace, recording)
    reported = analysis.reported
    ledger = analysis.ledgers[reported] if reported is not None else None
    step = analysis.steps[reported] if reported is not None else None
    busy = busy_of(analysis, ledger) if ledger is not None else None
    ceiling, roofless = ceiling_of(analysis, recording, nvml)
    notes = [roofless]
    table: list[Kernel] = []
    moved: list[Traffic] | None = None
    if ledger is not None and busy is not None:
        limits = limits_of(trace, ledger, busy.rows, busy.work, ceiling)
        table = tables.kernels(analysis, ledger, busy, limits)
        moved = traffic(ledger, busy, limits)
        notes.append(uncovered(ledger, busy, moved))
    rows = tables.modules(analysis, ledger, busy) if ledger is not None and busy is not None else []
    adapter = tables.adapter(analysis, ledger, table, busy) if ledger is not None and busy is not None else None
    timing = _timing(recording, step.wall_ns if step else None)
    other = counterfactual(analysis, ledger, recording, timing.unprofiled) if ledger is not None else None
    adapter = _predicted(adapter, other)
    found = []
    if ledger is not None and step is not None and busy is not None and step.wall_ns:
        found = findings(Case(analysis, ledger, step, busy, table, adapter, timing, recording, nvml, other))
    return Report(
        source=_source(analysis, path, recording, ranks),
        verdict=verdict(step, adapter, timing, other, found),
        timing=timing,
        reported_step=step.name if step else None,
        steps=list(analysis.steps),
        kernels=table,
        modules=rows,
        adapter=adapter,
        ceilings=ceilings(analysis, recording, ceiling),
        replay=None,
        probes=None,
        memory=tables.memory(recording),
        nvml=tables.nvml(nvml),
        findings=found,
        closure=_with_notes(analysis, recording, [*_absent(recording, nvml), *(n for n in notes if n)]),
        traffic=moved,
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


def _absent(recording: Recording | None, nvml: Nvml | None) -> list[str]:
    """What a recording could hold and this input does not."""
    if recording is None:
        return ["a trace without a recording: modules, timing and memory unknown"]
    missing = (
        (recording.timing is None, "no unprofiled timing was recorded: inflation and gains are unknown"),
        (recording.memory is None, "no memory figures were recorded"),
        (recording.calibration is None, "no calibration was recorded: this device's own ceilings are unknown"),
        (nvml is None and recording.device.kind == "cuda", "NVML was not sampled: clocks and power are unknown"),
    )
    return [text for absent, text in missing if absent]


def _with_notes(analysis: Analysis, recording: Recording | None, notes: list[str]) -> Closure:
    extra = recording.notes if recording else []
    return msgspec.structs.replace(analysis.closure, notes=[*analysis.closure.notes, *extra, *notes])


def _predicted(adapter: Adapter | None, other: Counterfactual | None) -> Adapter | None:
    if adapter is None or other is None:
        return adapter
    return msgspec.structs.replace(
        adapter,
        savings=other.savings,
        predicted_full_ns=other.full_ns,
        predicted_full_interval=other.full,
        predicted_frozen_ns=other.frozen_ns,
        predicted_frozen_interval=other.frozen,
    )
