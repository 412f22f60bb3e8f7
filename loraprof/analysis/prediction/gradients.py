"""What would the backward pass add if the frozen weights were trained? From modules measured alone, and the step.

wgrad = factor * sum(calls * weight_ns) + the sum of both gradients of a shared weight

Only networks that hold adapters count: full fine-tuning would train no other. A frozen linear layer that could not be
measured takes the rates of the device's calibration; a convolution has none.
"""

import re

import numpy as np
from msgspec import Struct

from loraprof.analysis.limits.precision import compute_dtype
from loraprof.analysis.limits.rates import Rates
from loraprof.analysis.partition.ledger import Ledger
from loraprof.analysis.step.unprofiled import Floats
from loraprof.model.recording import GradientCost, ModuleInfo, ParameterInfo, Recording
from loraprof.model.trace import NONE
from loraprof.model.vocabulary import PHASE, ROLE, Phase

WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2}
LINEAR = re.compile(r"Linear|Conv1D")
CONVOLUTION = re.compile(r"Conv(Transpose)?\dd$")


class _Linear(Struct, frozen=True):
    """A linear layer full fine-tuning would train: its module, (out, in) and dtype."""

    module: ModuleInfo
    n: int
    k: int
    dtype: str


def gradients(recording: Recording, rates: Rates) -> list[GradientCost] | None:
    """The measured modules, and linear layers that could not be. None: a time is unknown."""
    adapted = adapted_roots(recording)
    inside = {m.id for m in recording.modules if m.root in adapted}
    called = _called(recording) if recording.compilation is None else set()  # or it hides calls
    measured = [g for g in (recording.training_cost.gradients if recording.training_cost else []) if g.module in inside]
    known = {g.module for g in measured}
    micro = recording.workload.micro_batches or 1
    tokens = (recording.workload.tokens_per_step or 0) // micro
    needed = {p.module for p in recording.parameters if not p.trainable} & inside - known
    if any(CONVOLUTION.search(recording.modules[m].cls) for m in (needed & called if called else needed)):
        return None
    for x in _linears(recording):
        if x.module.id in known or x.module.id not in (inside & called if called else inside):
            continue
        rows = tokens or _rows(recording, x) // micro
        if not rows:
            return None
        weight, upstream = rates.gemm_ns(x.n, x.k, rows, x.dtype), rates.gemm_ns(rows, x.k, x.n, x.dtype)
        if weight is None or upstream is None:
            return None
        measured.append(
            GradientCost(module=x.module.id, calls=micro, weight_ns=round(weight), input_ns=round(upstream))
        )
    return measured


def _called(recording: Recording) -> set[int]:
    """Modules that were called, and the base of a layer that multiplies with its weight itself."""
    called = {c.module for c in recording.calls}
    sites = {m.site for m in recording.modules if m.id in called and m.site is not None}
    return called | {m.id for m in recording.modules if m.site in sites and m.part == "base"} if called else called


def _rows(recording: Recording, layer: _Linear) -> int:
    """Of the inputs of a layer's products in the counted step, by their FLOPs; 0 where none was counted."""
    own, weight = layer.module, {f"{layer.n}x{layer.k}", f"{layer.k}x{layer.n}"}
    around = {m.id for m in recording.modules if m.site == own.site is not None}  # one function may do it all
    counted = [c for c in recording.counted if c.phase == "forward"]
    flops = sum(c.flops for c in counted if c.module == own.id or (c.module in around and weight & {*c.shapes.split()}))
    return flops // (2 * layer.n * layer.k)


def adapted_roots(recording: Recording) -> set[int]:
    """The networks that hold adapters; all where none is known to."""
    sites = {m.root for m in recording.modules if m.site is not None}
    sites |= {recording.modules[o.module].root for o in recording.adapter_ops if any(o.labels)}
    return sites or {m.root for m in recording.modules}


def module_ns(ledger: Ledger, time: Floats, phase: Phase, recording: Recording) -> dict[int, float]:
    """Unprofiled busy ns in ``phase`` of each module that has any; a frozen layer's products that its adapted layer
    computes itself are the frozen layer's."""
    rows = ledger.busy & (ledger.phase == PHASE[phase]) & (ledger.module != NONE)
    base = {m.site: m.id for m in recording.modules if m.site is not None and m.part == "base"}
    module, product = ledger.module[rows], ledger.role[rows] == ROLE["base.linear"]
    owner = np.arange(max(len(recording.modules), int(module.max(initial=0)) + 1))
    for m in recording.modules:
        owner[m.id] = base.get(m.site, m.id) if m.site is not None else m.id
    total = np.bincount(np.where(product, owner[module], module), time[rows])
    return {int(m): float(total[m]) for m in np.flatnonzero(total)}


def missing_inputs(recording: Recording, known: list[GradientCost], backward: dict[int, float]) -> list[GradientCost]:
    """Modules whose input gradient this step did without and full fine-tuning would need: those that it trains
    something in front of, so all but the first to own weights, whose input is data."""
    roots = adapted_roots(recording)
    owners = {p.module for p in recording.parameters if not p.trainable and recording.modules[p.module].root in roots}
    first = next((c.module for c in recording.calls if c.module in owners), None)
    return [g for g in known if g.input_ns and g.module not in backward and g.module != first]


def factor(known: list[GradientCost], backward: dict[int, float]) -> float:
    """How much slower the step runs than the measurement, by the input gradients that both have; at least 1.

    Faster only says that caches hold weights which nothing writes: that helps no weight gradient.
    """
    both = [(backward[g.module], g.calls * g.input_ns) for g in known if g.input_ns and g.module in backward]
    inside, alone = sum(ns for ns, _ in both), sum(ns for _, ns in both)
    return min(max(inside / alone, 1.0), 2.0) if alone else 1.0


def tied_ns(recording: Recording, rates: Rates) -> float:
    """A weight with two owners gets two gradients, which are added: read both, write one."""
    owners = {p.module for p in recording.parameters}
    tables = [p for p in recording.parameters if not p.trainable and "Embedding" in recording.modules[p.module].cls]
    for x in _linears(recording):
        shared = [p for p in tables if tuple(p.shape) == (x.n, x.k)] if x.module.id not in owners else []
        if shared:
            return rates.copy_ns(3 * x.n * x.k * WIDTH.get(shared[0].dtype, 4)) or 0.0
    return 0.0


def _linears(recording: Recording) -> list[_Linear]:
    """Frozen linear-like layers, tied heads included (their weight is listed with the embedding)."""
    weights: dict[int, list[ParameterInfo]] = {}
    for p in recording.parameters:
        weights.setdefault(p.module, []).append(p)
    out = []
    for m in recording.modules:
        own = [p for p in weights.get(m.id, []) if len(p.shape) == 2]
        layer = m.in_features and m.out_features and LINEAR.search(m.cls) and m.part in (None, "base", "fused")
        if layer and not any(p.trainable for p in own if m.part is None):
            dtype = compute_dtype(recording, own[0].dtype if own else None)
            out.append(_Linear(m, int(m.out_features or 0), int(m.in_features or 0), dtype))
    return out
