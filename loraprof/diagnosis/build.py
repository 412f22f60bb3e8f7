"""From an analysis to the report: the one place where it is put together."""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from loraprof import units
from loraprof.analysis.analyse import Analysis, analyse
from loraprof.analysis.attribution.attribute import Attribution
from loraprof.analysis.limits.ceiling import ceiling_of, ceilings, main_gpu
from loraprof.analysis.limits.roofline import Ceiling
from loraprof.analysis.partition.ledger import Ledger
from loraprof.analysis.prediction.comm_savings import more_communication
from loraprof.analysis.prediction.counterfactual import Counterfactual, counterfactual, unpredicted
from loraprof.analysis.prediction.moved import moved_ledger
from loraprof.analysis.prediction.replayed import StepReplay, step_replay
from loraprof.analysis.ranks.collectives import collectives_of, exposed_ns
from loraprof.analysis.ranks.communication import communication, wire_of
from loraprof.analysis.statistics import median_interval
from loraprof.analysis.step import tables
from loraprof.analysis.step.best_times import limits_of
from loraprof.analysis.step.busy import busy_of
from loraprof.analysis.step.networks import networks
from loraprof.analysis.step.traffic import impossible, traffic, uncovered
from loraprof.analysis.step.unprofiled import scaled_ledger
from loraprof.diagnosis.case import Case
from loraprof.diagnosis.findings.compiled import compiled, compiled_notes
from loraprof.diagnosis.judge import findings
from loraprof.diagnosis.remedy import typed
from loraprof.diagnosis.separate import unclear
from loraprof.diagnosis.verdict import verdict
from loraprof.model.compilation import CompiledReport
from loraprof.model.finding import Finding
from loraprof.model.recording import Nvml, Recording
from loraprof.model.report import (
    NAMELESS,
    Adapter,
    Report,
    Source,
    Step,
    TimingReport,
    Unprofiled,
    UnprofiledStep,
    Verdict,
)
from loraprof.model.trace import Int64, Trace
from loraprof.store.places import Place

CROWDED = 0.75  # of the share of the step that is work: with less processor time, others had it
UNREAD = "Where this step's time goes is unknown: it ran on an accelerator whose records loraprof cannot read."


class Among(Struct, frozen=True, eq=False):
    """What the other ranks add to the report of one: how many there are, the step all are compared at, and the
    shortest duration over the ranks of each of its collectives (-1 unknown)."""

    ranks: int = 1
    step: str | None = None
    transfer_ns: Int64 | None = None


class Diagnosis(Struct, frozen=True, eq=False):
    """A report and what it was made of; ``case`` is None where the trace holds no step."""

    report: Report
    analysis: Analysis
    case: Case | None


def build_report(
    trace: Trace,
    path: Place,
    recording: Recording | None = None,
    nvml: Nvml | None = None,
    among: Among = Among(),
) -> Report:
    """The report of ``diagnosed`` alone."""
    return diagnosed(trace, path, recording, nvml, among).report


def diagnosed(
    trace: Trace,
    path: Place,
    recording: Recording | None = None,
    nvml: Nvml | None = None,
    among: Among = Among(),
) -> Diagnosis:
    """One rank's trace, with what its recording and the other ranks add."""
    analysis = analyse(trace, recording, among.step)
    ceiling, roofless = ceiling_of(analysis, recording, nvml)
    step = analysis.steps[analysis.reported] if analysis.reported is not None else None
    timing = _timing(recording, step, analysis.on_gpu)
    notes = [*analysis.closure.notes, *(recording.notes if recording else []), *_absent(recording, nvml)]
    report = Report(
        source=_source(analysis, path, recording, among.ranks),
        verdict=verdict(step, None, timing, None, []),
        timing=timing,
        reported_step=step.name if step else None,
        steps=list(analysis.steps),
        kernels=[],
        modules=[],
        adapter=None,
        ceilings=ceilings(analysis, recording, ceiling),
        replay=None,
        probes=None,
        memory=tables.memory(recording),
        nvml=tables.nvml(nvml, timing.unprofiled.median_ns if timing.unprofiled else None),
        findings=[],
        closure=replace(analysis.closure, notes=[*notes, *([roofless] if roofless else [])]),
        devices={f"cuda:{i}": list(steps) for i, steps in analysis.others.items()} or None,
    )
    return _explained(report, analysis, recording, nvml, ceiling, among) if step else Diagnosis(report, analysis, None)


def _explained(
    report: Report,
    analysis: Analysis,
    recording: Recording | None,
    nvml: Nvml | None,
    ceiling: Ceiling | None,
    among: Among,
) -> Diagnosis:
    """``report`` with all that the reported step gives."""
    assert analysis.reported is not None
    ledger, step, timing = analysis.ledgers[analysis.reported], analysis.steps[analysis.reported], report.timing
    busy = busy_of(analysis, ledger)
    limits = limits_of(analysis.trace, ledger, busy, ceiling)
    table = tables.kernels(analysis, ledger, busy, limits)
    moved = traffic(ledger, busy, limits)
    calls = collectives_of(analysis, ledger)
    exchanged = communication(calls, among.transfer_ns, recording, exposed_ns(step, analysis.on_gpu))
    scale = timing.unprofiled.median_ns / step.wall_ns if timing.unprofiled and step.wall_ns else 1.0
    extra, unpriced = more_communication(exchanged, wire_of(calls, among.transfer_ns), analysis.on_gpu, scale)
    replayed = step_replay(analysis, ledger, timing.unprofiled)
    plain = _unprofiled_ledger(analysis, ledger, recording, timing.unprofiled, replayed)
    untold = exchanged is not None and exchanged.strategy is None
    predicted = counterfactual(analysis, ledger, recording, timing.unprofiled, replayed, plain, extra, untold)
    adapter = _predicted(tables.adapter(analysis, ledger, table, busy), predicted)
    seen = _unprofiled_step(plain, replayed, analysis.attribution)
    case = Case(
        analysis=analysis,
        ledger=ledger,
        step=seen.like(step) if seen else step,
        busy=busy,
        limits=limits,
        kernels=table,
        adapter=adapter,
        timing=timing,
        recording=recording,
        nvml=nvml,
        counterfactual=predicted,
        replay=replayed,
        collectives=calls,
        communication=exchanged,
        unprofiled=plain,
    )
    found = findings(case) if step.wall_ns and not analysis.unread else []
    generated = compiled(analysis, ledger, busy)
    notes = _notes(case, (uncovered(ledger, busy, moved), impossible(table), unpriced), generated)
    full = replace(
        report,
        ceilings=ceilings(analysis, recording, limits.ceiling, busy.work),
        verdict=_judged(case, found, seen, exchanged.saved_bytes if exchanged and extra is None else None),
        kernels=table,
        modules=tables.modules(analysis, ledger, busy),
        adapter=adapter,
        replay=replayed.report if replayed else None,
        findings=found,
        closure=replace(report.closure, notes=[*report.closure.notes, *notes]),
        traffic=moved,
        compiled=generated,
        communication=exchanged,
        unprofiled=seen,
        networks=networks(analysis, ledger, plain),
    )
    return Diagnosis(full, analysis, case)


def _judged(case: Case, found: list[Finding], seen: UnprofiledStep | None, unsent: int | None) -> Verdict:
    """Of the step without the profiler, where that is ``seen``."""
    causes, plain = unclear(case, found), seen is not None
    judged = verdict(case.step, case.adapter, case.timing, case.counterfactual, found, causes, unsent, plain)
    return replace(judged, sentence=UNREAD) if case.analysis.unread else judged


def _notes(case: Case, unsure: Sequence[str | None], generated: CompiledReport | None) -> list[str]:
    """What the figures leave out, and what could not be predicted."""
    recording, timing = case.recording, case.timing
    silent = recording is not None and case.adapter is not None and case.counterfactual is None
    return [
        *compiled_notes(generated, recording.compilation if recording else None),
        *(note for note in (*unsure, _nameless(case.step, recording)) if note),
        *_refused(case.replay, timing),
        *([unpredicted(recording, timing.unprofiled)] if silent and recording else []),
    ]


def _unprofiled_ledger(
    analysis: Analysis,
    ledger: Ledger,
    recording: Recording | None,
    unprofiled: Unprofiled | None,
    replay: StepReplay | None,
) -> Ledger | None:
    """The reported step's entries without the profiler; None where that is not known."""
    if unprofiled is None or recording is None or not ledger.ns.sum():
        return None
    if not analysis.on_gpu:
        return scaled_ledger(analysis, ledger, recording, unprofiled.median_ns)
    return moved_ledger(analysis, ledger, replay, unprofiled.median_ns) if replay else None


def _unprofiled_step(
    ledger: Ledger | None, replay: StepReplay | None, attribution: Attribution
) -> UnprofiledStep | None:
    if ledger is None:
        return None
    return UnprofiledStep(
        wall_ns=int(ledger.ns.sum()),
        partition=ledger.parts(attribution.network, tuple(n.name for n in attribution.networks)),
        basis="replayed" if replay else "scaled",
        gate_error=replay.gate_error if replay else None,
    )


def _refused(replayed: StepReplay | None, timing: TimingReport) -> list[str]:
    if replayed is None or timing.unprofiled is None or replayed.refusal is None:
        return []
    return [f"{replayed.refusal}; what depends on idle time is not predicted"]


def _nameless(step: Step, recording: Recording | None) -> str | None:
    """How to record a trace whose work says what it is for."""
    unknown, busy = step.ns(kind="busy", role="other"), step.ns(kind="busy")
    if recording is not None or not busy or unknown < NAMELESS * busy:
        return None
    share = units.percent(unknown / busy)
    return f"{share} of the busy time has no known role: record it with with_stack=True, record_shapes=True"


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
        target=typed(recording.workload) if recording else None,
    )


def _timing(recording: Recording | None, step: Step | None, on_gpu: bool) -> TimingReport:
    """On a GPU the profiler slows the host, kernels take as long without: what is left of the step is idle time."""
    profiled_ns = step.wall_ns if step else None
    busy_ns = step.ns(kind="busy") if step and on_gpu else None
    unprofiled = None
    if recording is not None and recording.timing is not None and recording.timing.samples_ns:
        median, low, high = median_interval(recording.timing.samples_ns)
        steps = len(recording.timing.samples_ns)
        unprofiled = Unprofiled(median_ns=median, low_ns=low, high_ns=high, steps=steps)
    inflation = profiled_ns / unprofiled.median_ns if unprofiled and profiled_ns else None
    cores = recording.timing.cores if recording is not None and recording.timing is not None else None
    working = step.ns(kind="busy") / step.wall_ns if step and step.wall_ns else 0.0
    return TimingReport(
        unprofiled=unprofiled,
        profiled_ns=profiled_ns,
        inflation=inflation,
        tokens_per_step=recording.workload.tokens_per_step if recording else None,
        real_tokens_per_step=recording.workload.real_tokens_per_step if recording else None,
        cores=cores,
        crowded=None if cores is None or on_gpu else cores < CROWDED * working,
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


def _predicted(adapter: Adapter | None, predicted: Counterfactual | None) -> Adapter | None:
    if adapter is None or predicted is None:
        return adapter
    return replace(
        adapter,
        savings=predicted.savings,
        added_ns=predicted.added_ns,
        predicted_full_ns=predicted.full_ns,
        predicted_full_interval=predicted.full,
        predicted_frozen_ns=predicted.frozen_ns,
        predicted_frozen_interval=predicted.frozen,
    )
