"""From an analysis to the report: the one place where it is put together."""

from dataclasses import dataclass

import msgspec

from loraprof import units
from loraprof.analysis.analyse import Analysis, analyse
from loraprof.analysis.limits.best_times import limits_of
from loraprof.analysis.limits.ceiling import ceiling_of, ceilings, main_gpu
from loraprof.analysis.limits.roofline import Ceiling
from loraprof.analysis.prediction.comm_savings import more_communication
from loraprof.analysis.prediction.counterfactual import Counterfactual, counterfactual
from loraprof.analysis.prediction.replayed import StepReplay, step_replay
from loraprof.analysis.ranks.collectives import collectives_of, exposed_ns
from loraprof.analysis.ranks.communication import communication, wire_of
from loraprof.analysis.statistics import median_interval
from loraprof.analysis.step import tables
from loraprof.analysis.step.busy import busy_of
from loraprof.analysis.step.traffic import impossible, traffic, uncovered
from loraprof.diagnosis.case import Case
from loraprof.diagnosis.findings.compiled import compiled, compiled_notes
from loraprof.diagnosis.judge import findings
from loraprof.diagnosis.separate import unclear
from loraprof.diagnosis.verdict import verdict
from loraprof.model.ranks import Communication
from loraprof.model.recording import Nvml, Recording
from loraprof.model.report import (
    Adapter,
    Closure,
    CompiledReport,
    Finding,
    Kernel,
    ModuleRow,
    Replay,
    Report,
    Source,
    Step,
    TimingReport,
    Traffic,
    Unprofiled,
    Verdict,
)
from loraprof.model.trace import Int64, Trace
from loraprof.store.places import Place

NAMELESS = 0.05  # of the busy time: work of unknown role
UNREAD = "Where this step's time goes is unknown: it ran on an accelerator whose records loraprof cannot read."


@dataclass(frozen=True, slots=True)
class _Explained:
    """What the reported step gives; the defaults are those of an input without steps."""

    verdict: Verdict
    timing: TimingReport
    kernels: list[Kernel]
    modules: list[ModuleRow]
    adapter: Adapter | None
    traffic: list[Traffic] | None
    communication: Communication | None
    replay: Replay | None
    findings: list[Finding]
    notes: list[str]
    compiled: CompiledReport | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Among:
    """What the other ranks add to the report of one: how many there are, the step all are compared at, and the
    shortest duration over the ranks of each of its collectives (-1 unknown)."""

    ranks: int = 1
    step: str | None = None
    transfer_ns: Int64 | None = None


def build_report(
    trace: Trace,
    path: Place,
    recording: Recording | None = None,
    nvml: Nvml | None = None,
    among: Among = Among(),
) -> Report:
    """The report of one rank's trace, with what its recording and the other ranks add."""
    analysis = analyse(trace, recording, among.step)
    ceiling, roofless = ceiling_of(analysis, recording, nvml)
    step = analysis.steps[analysis.reported] if analysis.reported is not None else None
    explained = _explain(analysis, recording, nvml, ceiling, among)
    notes = [*_absent(recording, nvml), *([roofless] if roofless else []), *explained.notes]
    return Report(
        source=_source(analysis, path, recording, among.ranks),
        verdict=explained.verdict,
        timing=explained.timing,
        reported_step=step.name if step else None,
        steps=list(analysis.steps),
        kernels=explained.kernels,
        modules=explained.modules,
        adapter=explained.adapter,
        ceilings=ceilings(analysis, recording, ceiling),
        replay=explained.replay,
        probes=None,
        memory=tables.memory(recording),
        nvml=tables.nvml(nvml),
        findings=explained.findings,
        closure=_with_notes(analysis, recording, notes),
        traffic=explained.traffic,
        compiled=explained.compiled,
        communication=explained.communication,
        devices={f"cuda:{i}": list(steps) for i, steps in analysis.others.items()} or None,
    )


def _explain(
    analysis: Analysis, recording: Recording | None, nvml: Nvml | None, ceiling: Ceiling | None, among: Among
) -> _Explained:
    if analysis.reported is None:
        timing = _timing(recording, None, None)
        return _Explained(verdict(None, None, timing, None, []), timing, [], [], None, None, None, None, [], [])
    ledger, step = analysis.ledgers[analysis.reported], analysis.steps[analysis.reported]
    timing = _timing(recording, step.wall_ns, step.ns(kind="busy") if analysis.on_gpu else None)
    busy = busy_of(analysis, ledger)
    limits = limits_of(analysis.trace, ledger, busy.rows, busy.work, ceiling)
    table = tables.kernels(analysis, ledger, busy, limits)
    moved = traffic(ledger, busy, limits)
    calls = collectives_of(analysis, ledger)
    sent = communication(calls, among.transfer_ns, recording, exposed_ns(step, analysis.on_gpu))
    scale = timing.unprofiled.median_ns / step.wall_ns if timing.unprofiled and step.wall_ns else 1.0
    extra, unsaid = more_communication(sent, wire_of(calls, among.transfer_ns), analysis.on_gpu, scale)
    again = step_replay(analysis, ledger, timing.unprofiled)
    other = counterfactual(analysis, ledger, recording, timing.unprofiled, again, extra)
    adapter = _predicted(tables.adapter(analysis, ledger, table, busy), other)
    case = Case(
        analysis, ledger, step, busy, table, adapter, timing, recording, nvml, other, again, calls, sent, ceiling
    )
    found = findings(case) if step.wall_ns and not analysis.unread else []
    unsure = (uncovered(ledger, busy, moved), impossible(table), unsaid, _nameless(step, recording))
    unsent = sent.saved_bytes if sent and extra is None else None
    made = compiled(analysis, ledger, busy)
    told = verdict(step, adapter, timing, other, found, unclear(case, found), unsent)
    if analysis.unread:
        told = msgspec.structs.replace(told, sentence=UNREAD)
    return _Explained(
        verdict=told,
        timing=timing,
        kernels=table,
        modules=tables.modules(analysis, ledger, busy),
        adapter=adapter,
        traffic=moved,
        communication=sent,
        replay=again.report if again else None,
        findings=found,
        notes=[
            *compiled_notes(made, recording.compilation if recording else None),
            *(note for note in unsure if note),
            *_refused(again, timing),
        ],
        compiled=made,
    )


def _refused(again: StepReplay | None, timing: TimingReport) -> list[str]:
    if again is None or timing.unprofiled is None or again.refusal is None:
        return []
    return [f"{again.refusal}; what depends on idle time is not predicted"]


def _nameless(step: Step, recording: Recording | None) -> str | None:
    """How to record a trace whose work says what it is for."""
    unknown, busy = step.ns(kind="busy", role="other"), step.ns(kind="busy")
    if recording is not None or not busy or unknown < NAMELESS * busy:
        return None
    share = units.percent(unknown / busy)
    return f"{share} of the busy time has no known role: `loraprof profile` or with_stack=True, record_shapes=True tell"


def _source(analysis: Analysis, path: Place, recording: Recording | None, ranks: int) -> Source:
    gpu = main_gpu(analysis)
    return Source(
        path=str(path),
        kind="recording" if recording else "trace",
        device="cuda" if analysis.on_gpu else None if analysis.unread else "cpu",
        device_name=recording.device.name if recording else gpu.name if gpu else None,
        torch=recording.environment.torch if recording else None,
        ranks=ranks,
        workload=recording.workload.name if recording else None,
    )


def _timing(recording: Recording | None, profiled_ns: int | None, busy_ns: int | None) -> TimingReport:
    """``busy_ns`` of a GPU: the profiler slows the host, its kernels take as long without."""
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
        idle_unprofiled_ns=max(0, unprofiled.median_ns - busy_ns) if unprofiled and busy_ns is not None else None,
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
