"""From a finished session to what a recording says beside the trace."""

import datetime
import time
from typing import Any

import msgspec
import torch
from torch import nn

from loraprof.capture.device.attention_cost import attention_costs
from loraprof.capture.device.calibrate import DTYPES
from loraprof.capture.device.calibration_cache import cached_calibration
from loraprof.capture.device.environment import environment
from loraprof.capture.device.gradient_cost import gradient_costs
from loraprof.capture.device.graph_names import graph_nodes
from loraprof.capture.device.training_cost import frozen_parameters, training_cost
from loraprof.capture.modules.facts import autocast_of, tables_of
from loraprof.capture.modules.markers import Markers
from loraprof.capture.passes.phases import Recorded
from loraprof.capture.passes.session import Session
from loraprof.capture.trainers import trainers
from loraprof.errors import MeasurementError
from loraprof.model.compilation import Compilation
from loraprof.model.recording import AdapterSite, ModuleInfo, Recording, TrainingCost, Workload


def gemm_shapes(modules: list[ModuleInfo], sites: list[AdapterSite], tokens: int) -> list[tuple[int, int, int]]:
    """(m, n, k) a prediction will ask for: the forward product of every linear layer, and the A products."""
    layers = {(int(m.out_features), int(m.in_features)) for m in modules if m.out_features and m.in_features}
    ranks = {(s.rank, s.in_features) for s in sites if s.rank and not s.kernel}
    wide = {(n, k) for n, k in layers if min(n, k) > max((r for r, _ in ranks), default=1)}
    return sorted({(tokens, n, k) for n, k in wide} | {(tokens, r, k) for r, k in ranks})


def hook_cost_ns(markers: Markers) -> float:
    """Median cost of the markers around one module call, ns: an empty module with and without them."""
    module, x = nn.Identity(), torch.zeros(1, device="cpu")

    def per_call(n: int = 2000) -> float:
        begin = time.perf_counter_ns()
        for _ in range(n):
            module(x)
        return (time.perf_counter_ns() - begin) / n

    bare = sorted(per_call() for _ in range(5))[2]
    probe = Markers()
    probe.adopt([module])
    probe.install()
    try:
        marked = sorted(per_call() for _ in range(5))[2]
    finally:
        probe.remove()
    return max(marked - bare, 0.0)


def recording_of(session: Session, workload: Workload, calibrate: bool = True) -> Recording:
    """Everything but the trace. ``workload`` fields left null are filled from what the session saw."""
    recorded = session.recorded
    if recorded is None:
        raise MeasurementError("no step was profiled", None)
    tables = recorded.tables or tables_of(session.markers)
    compilation = _compilation(session, tables.modules)
    seen: dict[str, Any] = {
        "tokens_per_step": session.tokens,
        "micro_batches": session.micro_batches,
        "optimizer": session.optimizer_name,
        "missing_gradients": session.missing,
        "trainers": trainers() if workload.kind == "script" else [],
        "autocast": autocast_of(session.markers),
        **_compile_facts(compilation),
    }
    tokens = workload.tokens_per_step or session.tokens
    if tokens:
        seen |= {f"{part}_tokens_per_step": round(share * tokens) for part, share in recorded.token_shares.items()}
    facts = {k: v for k, v in seen.items() if getattr(workload, k) in (None, [])}
    recording = Recording(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        environment=environment(),
        device=session.device.info(),
        workload=msgspec.structs.replace(workload, **facts),
        modules=tables.modules,
        parameters=tables.parameters,
        sites=tables.sites,
        adapter_ops=tables.adapter_ops,
        dense_ops=tables.dense_ops,
        calls=recorded.calls or session.markers.calls,
        timing=session.timing,
        counted=session.counted,
        attention=session.attention,
        repeated=session.repeated,
        memory=session.memory,
        overhead_ns={
            "boundary_hook": session.boundary.cost_ns / max(session.boundary.calls, 1),
            "module_marker": hook_cost_ns(session.markers),
        },
        compilation=compilation,
        graph_nodes=graph_nodes(),
        first_step=recorded.first_step,
        whole_steps=None if recorded.complete else recorded.whole_steps,
        notes=[*session.notes, *tables.notes, *([] if session.done else [early(session, recorded)])],
    )
    return calibrated(session, recording) if calibrate else recording


def early(session: Session, recorded: Recorded) -> str:
    """What a recording lacks that was made of fewer steps than planned."""
    timed = len(session.timing.samples_ns) if session.timing else 0
    return (
        f"the training ended after {session.steps} steps, before all that was planned was measured: "
        f"{recorded.whole_steps} profiled, {timed} timed"
    )


def calibrated(session: Session, recording: Recording) -> Recording:
    """With what this device reaches, and what training the frozen parameters would cost."""
    sites = recording.sites
    dtype = _matrix_dtype(recording.workload.autocast, sites)
    per = (recording.workload.tokens_per_step or 0) // (recording.workload.micro_batches or 1)
    shapes = gemm_shapes(recording.modules, sites, per) if per and sites else []
    beside = "bfloat16" if dtype == "float32" else None
    calibration, notes = cached_calibration(session.device.place, shapes, dtype, beside=beside)
    cost = _training_cost(session) if sites else None
    attention = attention_costs(recording.attention, session.device.place)
    return msgspec.structs.replace(
        recording, calibration=calibration, training_cost=cost, attention=attention, notes=[*recording.notes, *notes]
    )


def _compilation(session: Session, modules: list[ModuleInfo]) -> Compilation | None:
    found = session.watch.compilation()
    if found is None:
        return None
    graphs = session.watch.provenance.graphs(session.markers.ids, modules)
    steady = len(session.timing.samples_ns) if session.timing else 0  # the first timed steps may have been dropped
    return msgspec.structs.replace(found, graphs=graphs, timed_ns=found.timed_ns[-steady:])


def _compile_facts(compilation: Compilation | None) -> dict[str, bool | int]:
    """Recompilations count from the end of the warm-up steps."""
    if compilation is None:
        return {"compiled": False}
    return {
        "compiled": True,
        "graph_breaks": sum(p.graph_breaks for p in compilation.passes),
        "recompiles": sum(p.recompilations for p in compilation.passes if p.name != "skip"),
    }


def _matrix_dtype(autocast: str | None, sites: list[AdapterSite]) -> str:
    """Whose GEMMs to calibrate: what the base computes in; a quantized base computes in its adapters' dtype."""
    first = sites[:1]
    wanted = [autocast, *(s.base_dtype for s in first), *(s.dtype for s in first)]
    return next((d for d in wanted if d in DTYPES), "float32")


def _training_cost(session: Session) -> TrainingCost | None:
    """What training the frozen weights would add; None where the optimizer cannot be run on them."""
    markers = session.markers
    cost = training_cost(frozen_parameters(markers), session.optimizer) if session.optimizer is not None else None
    if cost is None:
        return None
    trained = {module for top in markers.trained() for module in top.modules()}
    called = {module: one for module, one in markers.called.items() if module in trained}
    gradients = gradient_costs(called, markers.ids.__getitem__, session.device.place)
    return msgspec.structs.replace(cost, gradients=gradients)
