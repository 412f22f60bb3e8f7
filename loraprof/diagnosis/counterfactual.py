"""What would this step take fully fine-tuned, or without adapters? Predicted from the LoRA recording alone.

frozen = T - adapter path - optimizer and clipping (+ the input gradients LoRA's first layers did not need)
full   = frozen + weight gradients of the frozen layers + optimizer and clipping of all parameters + accumulation
         + communication of the gradients that LoRA does not have

Times are unprofiled: each recorded op is freed of the calibrated cost of its event, then all are scaled so that
they sum to the unprofiled median. Weight gradients take the calibrated time of their own shape, corrected by how the
same layers' forward GEMMs ran in the step against their calibration.
"""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loraprof.analysis.analyse import Analysis
from loraprof.analysis.ledger import Ledger
from loraprof.analysis.rates import Rates
from loraprof.diagnosis.comm_savings import MoreCommunication
from loraprof.model.recording import ModuleInfo, ParameterInfo, Recording
from loraprof.model.report import Interval, Savings, Unprofiled
from loraprof.model.vocabulary import ADAPTER_ROLES, PHASE, ROLE

Floats = npt.NDArray[np.float64]
SPREAD = 0.15  # relative uncertainty of a calibrated GEMM in another context: cache state, fresh output memory
WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2}
LINEAR = re.compile(r"Linear|Conv1D")
OPTIMIZER_SPREAD = 0.2  # of the measured optimizer, clipping and accumulation


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """Predicted step times, ns, and what they are made of."""

    full_ns: int
    full: Interval
    frozen_ns: int
    frozen: Interval
    savings: Savings
    adapter_ns: int  # unprofiled time of the adapter path, idle included
    trained_ns: int  # optimizer and clipping of the adapter's parameters
    notes: tuple[str, ...]


def counterfactual(
    analysis: Analysis,
    ledger: Ledger,
    recording: Recording | None,
    unprofiled: Unprofiled | None,
    extra: MoreCommunication | None = None,
) -> Counterfactual | None:
    """None where a needed input is missing: unprofiled timing, calibration, tokens, adapted layers."""
    if recording is None or unprofiled is None or recording.calibration is None or not recording.sites:
        return None
    if recording.training_cost is None:
        return None
    tokens, micro = recording.workload.tokens_per_step, recording.workload.micro_batches or 1
    if not tokens or any(s.kernel for s in recording.sites):
        return None
    rates = Rates(recording.calibration)
    time = unprofiled_ns(analysis, ledger, recording, unprofiled.median_ns)
    adapter_rows = np.isin(ledger.role, [ROLE[r] for r in ADAPTER_ROLES])
    optimizer_rows = ledger.role == ROLE["optimizer"]
    clip_rows = ledger.role == ROLE["grad_clip"]
    adapter = float(time[adapter_rows].sum())
    trained = float(time[optimizer_rows | clip_rows].sum())
    per = tokens // micro
    context = _context(ledger, time, recording, rates, per, micro)
    input_grad = _missing_input_gradients(analysis, ledger, recording, rates, per, micro, context)
    wgrad = _weight_gradients(recording, rates, per, micro)
    if wgrad is None or input_grad is None:
        return None
    wgrad *= context
    cost = recording.training_cost
    optimizer = float(cost.optimizer_ns)
    clip = float(cost.clip_ns) if clip_rows.any() else 0.0
    accumulate = float(cost.accumulate_ns) * (micro - 1)
    frozen = unprofiled.median_ns - adapter - trained + input_grad
    wgrad += _embeddings(recording, rates) * micro
    backward = float(time[ledger.busy & (ledger.phase == PHASE["backward"])].sum()) + wgrad
    comm, comm_low, comm_high = extra.exposed_ns(backward) if extra else (0.0, 0.0, 0.0)
    full = frozen + wgrad + optimizer + clip + accumulate + comm
    spread = SPREAD * wgrad + OPTIMIZER_SPREAD * (optimizer + clip + accumulate) + 0.1 * adapter
    step = (unprofiled.high_ns - unprofiled.low_ns) / 2
    return Counterfactual(
        full_ns=round(full),
        full=Interval(
            low=round(full - spread - step - (comm - comm_low)), high=round(full + spread + step + comm_high - comm)
        ),
        frozen_ns=round(frozen),
        frozen=Interval(low=round(frozen - 0.1 * adapter - step), high=round(frozen + 0.1 * adapter + step)),
        savings=Savings(
            wgrad_ns=round(wgrad + accumulate),
            optimizer_ns=round(optimizer - float(time[optimizer_rows].sum())),
            grad_clip_ns=round(clip - float(time[clip_rows].sum())),
            comm_ns=round(comm) if extra else None,
        ),
        adapter_ns=round(adapter),
        trained_ns=round(trained),
        notes=(),
    )


def unprofiled_ns(analysis: Analysis, ledger: Ledger, recording: Recording, total_ns: int) -> Floats:
    """Time of each ledger entry without the profiler, ns; sums to ``total_ns``."""
    raw = ledger.ns.astype(np.float64)
    if not analysis.on_gpu and recording.calibration is not None and recording.calibration.event_ns:
        cost = recording.calibration.event_ns * np.where(ledger.busy, 1.0, 0.5)
        raw = np.maximum(raw - cost, 0.3 * raw)
    if analysis.on_gpu:  # kernels keep their duration, the rest of the step is idle time that scales
        busy = float(raw[ledger.busy].sum())
        idle = float(raw[~ledger.busy].sum())
        scale = max(total_ns - busy, 0.0) / idle if idle else 0.0
        raw = np.where(ledger.busy, raw, raw * scale)
        if raw.sum() <= total_ns:
            return raw
    scaled: Floats = raw * (total_ns / raw.sum())
    return scaled


@dataclass(frozen=True, slots=True)
class _Linear:
    """A linear layer full fine-tuning would train: its module, (out, in) and dtype."""

    module: ModuleInfo
    n: int
    k: int
    dtype: str


def _linears(recording: Recording) -> list[_Linear]:
    """Frozen linear-like layers, tied heads included (their weight is listed with the embedding)."""
    weights: dict[int, list[ParameterInfo]] = {}
    for p in recording.parameters:
        weights.setdefault(p.module, []).append(p)
    base = next((s.base_dtype for s in recording.sites), "float32")
    out = []
    for m in recording.modules:
        own = [p for p in weights.get(m.id, []) if len(p.shape) == 2]
        layer = m.in_features and m.out_features and LINEAR.search(m.cls) and m.part in (None, "base", "fused")
        if layer and not any(p.trainable for p in own if m.part is None):
            dtype = own[0].dtype if own else base
            out.append(_Linear(m, int(m.out_features or 0), int(m.in_features or 0), _compute_dtype(recording, dtype)))
    return out


def _embeddings(recording: Recording, rates: Rates) -> float:
    """The dense gradient of each frozen embedding: one write of its size."""
    tables = [p for p in recording.parameters if not p.trainable and "Embedding" in recording.modules[p.module].cls]
    return sum((rates.copy_ns(2 * int(np.prod(p.shape)) * WIDTH.get(p.dtype, 4)) or 0.0) / 2 for p in tables)


def _compute_dtype(recording: Recording, own: str) -> str:
    autocast = recording.workload.autocast
    return autocast if autocast and autocast != "none" else own


def _weight_gradients(recording: Recording, rates: Rates, tokens: int, micro: int) -> float | None:
    """dW = dY^T X: (out, in) over the tokens, once per micro-batch."""
    total = 0.0
    for x in _linears(recording):
        ns = rates.gemm_ns(x.n, x.k, tokens, x.dtype)
        if ns is None:
            return None
        total += ns * micro
    return total


def _context(
    ledger: Ledger, time: Floats, recording: Recording, rates: Rates, tokens: int, micro: int
) -> float:
    """How the base's GEMMs ran in the step against their calibration; 1 where it cannot be told."""
    rows = ledger.busy & (ledger.role == ROLE["base.linear"]) & (ledger.phase == PHASE["forward"])
    measured = float(time[rows].sum())
    expected = 0.0
    for x in _linears(recording):
        expected += (rates.gemm_ns(tokens, x.n, x.k, x.dtype) or 0.0) * micro
    head = float(time[ledger.busy & (ledger.role == ROLE["head"]) & (ledger.phase == PHASE["forward"])].sum())
    return float(np.clip((measured + head) / expected, 0.5, 2.0)) if expected and measured else 1.0


def _missing_input_gradients(
    analysis: Analysis,
    ledger: Ledger,
    recording: Recording,
    rates: Rates,
    tokens: int,
    micro: int,
    context: float,
) -> float | None:
    """Input gradients of adapted layers that read an output without gradient (the first block's)."""
    backward = ledger.busy & (ledger.phase == PHASE["backward"]) & (ledger.role == ROLE["base.linear"])
    present = {int(m) for m in np.unique(ledger.module[backward])}
    total = 0.0
    for x in _linears(recording):
        if x.module.id not in present and x.module.part in ("base", "fused"):
            ns = rates.gemm_ns(tokens, x.k, x.n, x.dtype)
            if ns is None:
                return None
            total += ns * micro * context
    return total
