"""From an analysis to the report: the one place where the contract's JSON is put together."""

from pathlib import Path

import msgspec

from loraprof.analysis.analyse import Analysis, analyse
from loraprof.analysis.rates import Rates
from loraprof.analysis.statistics import median_interval
from loraprof.diagnosis import tables
from loraprof.diagnosis.case import Case
from loraprof.diagnosis.counterfactual import Counterfactual, counterfactual
from loraprof.diagnosis.findings import findings
from loraprof.diagnosis.verdict import verdict
from loraprof.model.recording import Nvml, Recording
from loraprof.model.report import Adapter, Ceilings, Closure, Report, Source, TimingReport, Unprofiled
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
        ceilings=_ceilings(analysis, recording),
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


def _ceilings(analysis: Analysis, recording: Recording | None) -> Ceilings | None:
    """What this device reached in its own calibration."""
    calibration = recording.calibration if recording else None
    if calibration is None:
        return None
    rates = Rates(calibration)
    return Ceilings(
        gemm_flops_per_s=rates.gemm_flops_per_s,
        copy_bytes_per_s=rates.stream_bytes_per_s,
        launch_floor_ns=calibration.launch_floor_ns if analysis.on_gpu else None,
        turnaround_ns=calibration.turnaround_ns if analysis.on_gpu else None,
        basis="calibrated on this device",
    )
