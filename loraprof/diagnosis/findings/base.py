"""B findings: what the frozen model, its formats and its head cost, and what LoRA cannot change about it."""

import re

import numpy as np

from loraprof.analysis.attribution.containers import CORE
from loraprof.analysis.attribution.roles import HEAD
from loraprof.analysis.step.records import GEMMS, Record
from loraprof.diagnosis.case import Case
from loraprof.diagnosis.findings.attention import LOST_ATTENTION
from loraprof.diagnosis.findings.head import HEAD_AND_LOSS, has_logits, vocabulary_of
from loraprof.diagnosis.findings.networks import NETWORKS
from loraprof.diagnosis.findings.regressed import SLOW_OP
from loraprof.diagnosis.remedies import base as remedies
from loraprof.diagnosis.rows import element_bytes, like, rows_of
from loraprof.diagnosis.rule import BASE, Rule, Seen, evidence
from loraprof.diagnosis.select import both, modules, of_rows, phase, roles, total_ns, within, without, worth
from loraprof.model.recording import ParameterInfo
from loraprof.model.vocabulary import Role

NEEDLESS = 0.70  # B2: peak memory over the device's
OTHER_SHARE = 0.30  # B3: of busy time
FUSABLE_SHARE = 0.10  # B3: norms and the loss, of busy time
DEQUANT_SHARE = 0.10  # B4: of busy time
TRAINED_SHARE = 0.02  # B7: of all parameters
EXPERTS = 4  # B9: expert modules under one parent
EXPERT_SHARE = 0.30  # B9: of the forward products
GEMM_EFFICIENCY = 0.40  # B10: of the calibrated rate
BUSY_SHARE = 0.80  # B10: of the step
BF16_UNITS = 8  # B8: compute capability
OPTIMIZER_SHARE = 0.05  # B1: of the full step
QUANTISED = re.compile(r"4bit|8bit|Quant|GPTQ|AWQ|HQQ")


def no_optimizer_saving(case: Case) -> Seen | None:
    """B1: the optimizer is a small part of full fine-tuning here, and LoRA's largest saving with it."""
    predicted = case.counterfactual
    if predicted is None or not predicted.full_ns:
        return None
    optimizer = (predicted.savings.optimizer_ns or 0) + (predicted.savings.grad_clip_ns or 0)
    if optimizer >= OPTIMIZER_SHARE * predicted.full_ns:
        return None
    bound = "1.33x" if case.workload and case.workload.checkpointing not in (None, "none") else "1.5x"
    return Seen(
        evidence=[
            evidence("optimizer and clipping of full fine-tuning, predicted", optimizer, "ns"),
            evidence("of its step", optimizer / predicted.full_ns, "share"),
            evidence("tokens per optimizer step", case.timing.tokens_per_step, "tokens"),
        ],
        severity="info",
        values={"bound": bound},
    )


def checkpointing(case: Case) -> Seen | None:
    """B2: the forward runs again in backward."""
    spent = total_ns(case, phase("recompute"))
    if not spent:
        return None
    memory = case.recording.memory if case.recording else None
    peak, total = (memory.peak_bytes, memory.total_bytes) if memory else (None, None)
    reentrant = any("CheckpointFunction" in n for n in case.op_names)
    needless = peak / total < NEEDLESS if peak and total else None
    return Seen(
        evidence=[
            evidence("time of recomputed work", spent, "ns"),
            evidence("of the step", spent / case.wall_ns, "share"),
            evidence("mode", "reentrant" if reentrant else "non-reentrant"),
            evidence("peak memory, of the device's", peak / total if peak and total else None, "share"),
        ],
        saved=worth(case, phase("recompute")),
        spent_ns=spent,
        values={"memory": "" if needless else " if memory allows", "reentrant": reentrant},
    )


def other_parts(case: Case) -> Seen | None:
    """B3: attention, norms, head and loss take the time, and LoRA leaves them as they are."""
    if case.adapter is None or not case.busy_ns:
        return None
    logits = has_logits(case, vocabulary_of(case))
    counted: tuple[Role, ...] = ("attention", "norm", "head", "loss") if logits else ("attention", "norm")
    parts = {r: case.step.ns(kind="busy", role=r) for r in counted}
    share = sum(parts.values()) / case.busy_ns
    rows = [k for k in case.kernels if k.role == "attention" and k.phase == "forward" and k.op]
    rows = [k for k in rows if re.search("(?i)att", k.module or "")]  # not a router's softmax
    products = sum(k.count for k in rows if k.op in ("aten::bmm", "aten::baddbmm", "aten::mm"))
    softmax = sum(k.count for k in rows if "softmax" in (k.op or ""))
    fused = any(CORE.search(k.op or "") for k in rows)
    unfused = products > 0 and softmax > 0 and not fused
    math = any("scaled_dot_product_attention_math" in n for n in case.op_names)  # what SDPA falls back to
    if share < OTHER_SHARE and not unfused:
        return None
    saved = (
        worth(case, both(roles("attention"), without(within(case, r"^aten::(bmm|baddbmm|mm|matmul)$"))))
        if unfused
        else None
    )
    return Seen(
        evidence=[
            evidence(f"attention{', norms, head and loss' if logits else ' and norms'}, of busy time", share, "share"),
            *(evidence(f"time of {role}", ns, "ns") for role, ns in parts.items()),
            evidence("attention runs as", "products and a softmax" if unfused else "one kernel" if fused else None),
        ],
        saved=saved,
        severity="info" if not unfused else None,
        values={"fusable": sum(parts.values()) - parts["attention"] >= FUSABLE_SHARE * case.busy_ns},
        remedies=(remedies.FAST_ATTENTION if unfused and math else remedies.SDPA if unfused else remedies.LIGER,),
    )


def dequantization(case: Case) -> Seen | None:
    """B4: quantised weights are expanded before every product."""
    spent = case.step.ns(kind="busy", role="dequant")
    if not case.busy_ns or spent < DEQUANT_SHARE * case.busy_ns:
        return None
    rows = [k for k in case.kernels if k.role == "dequant"]
    return Seen(
        evidence=[
            evidence("time of dequantisation", spent, "ns"),
            evidence("of busy time", spent / case.busy_ns, "share"),
            evidence("weights expanded", sum(k.count for k in rows), "kernels"),
        ],
        saved=worth(case, roles("dequant")),
        spent_ns=spent,
    )


def promoted_parts(case: Case) -> Seen | None:
    """B5: the parts of a quantised base that are not quantised were cast to fp32."""
    if case.recording is None or not _quantised(case):
        return None
    table = case.recording.modules
    wide = [p for p in case.recording.parameters if p.dtype == "float32" and p.part not in ("down", "up")]
    if not wide:
        return None
    owners = {p.module for p in wide}
    select = modules(case, lambda m: m.id in owners)
    saved = worth(case, select, waiting=False)
    return Seen(
        evidence=[
            evidence("float32 parameters outside the adapters", len(wide), "tensors"),
            evidence("first of them", f"{table[wide[0].module].path}.{wide[0].name}", ""),
            evidence("time of their modules", total_ns(case, select), "ns"),
        ],
        saved=saved.times(1 - element_bytes("bfloat16") / element_bytes("float32")) if saved else None,
    )


def trained_in_full(case: Case) -> Seen | None:
    """B7: embedding, head or other full-size weights train beside the adapters."""
    if case.recording is None or not case.sites:
        return None
    table, parameters = case.recording.modules, case.recording.parameters
    total = sum(int(np.prod(p.shape)) for p in parameters)
    full = [p for p in parameters if p.trainable and len(p.shape) == 2 and _outside(case, p)]
    full = [p for p in full if table[p.module].cls == "Embedding" or HEAD.search(table[p.module].path)]
    numel = sum(int(np.prod(p.shape)) for p in full)
    whole = vocabulary_of(case) in {p.shape[0] for p in full}
    if not full or not (whole or numel >= TRAINED_SHARE * total):
        return None
    trained = sum(int(np.prod(p.shape)) for p in parameters if p.trainable)
    step = worth(case, roles("optimizer", "grad_clip"))
    wgrad = worth(case, of_rows(case, like(case, [r for r in case.records if _weight_gradient(r, full)])))
    saved = step.times(numel / trained).plus(wgrad) if step and wgrad else None
    return Seen(
        evidence=[
            evidence("parameters trained in full", numel, "parameters"),
            evidence("of all parameters", numel / total, "share"),
            evidence("of the trained parameters", numel / trained, "share"),
            evidence("first of them", f"{table[full[0].module].path}.{full[0].name}", ""),
        ],
        saved=saved,
    )


def _weight_gradient(record: Record, full: list[ParameterInfo]) -> bool:
    """Whether a product in backward gives one of these weights' gradient; of an embedding, whether anything does."""
    shapes = [sorted(p.shape) for p in full if record.module and p.module == record.module.id]
    if record.phase != "backward" or not shapes or record.row < 0:
        return False
    if record.op not in GEMMS:
        return True
    operands = record.dims[:2] if record.op == "aten::mm" else record.dims[1:3]
    if len(operands) < 2:  # a trace without shapes
        return False
    left, right = operands
    return isinstance(left, tuple) and isinstance(right, tuple) and sorted((*left[-2:-1], *right[-1:])) in shapes


def no_bf16_units(case: Case) -> Seen | None:
    """B8: bf16 products on a GPU older than capability 8.0."""
    device = case.recording.device if case.recording else None
    gpus = case.analysis.trace.gpus
    capability = device.capability if device and device.capability else gpus[0].capability if gpus else None
    if not case.analysis.on_gpu or capability is None or capability >= (BF16_UNITS, 0):
        return None
    products = [r for r in case.records if r.gemm_type == "c10::BFloat16"]
    if not products:
        return None
    return Seen(
        evidence=[
            evidence("compute capability", ".".join(map(str, capability)), ""),
            evidence("products in bfloat16", len(products), "kernels"),
            evidence("their time", case.spent_ns(products), "ns"),
        ],
        severity="major",
    )


def expert_loop(case: Case) -> Seen | None:
    """B9: a Python loop launches every expert on its own."""
    rows = [r for r in case.records if r.phase == "forward"]
    products = [r for r in rows if r.op in GEMMS]
    of_experts = [r for r in products if r.module and _expert(r.module.path)]
    experts = {_expert(r.module.path) for r in of_experts if r.module}
    parents = {e.rpartition(".")[0] for e in experts if e}
    picks = [r for r in rows if re.search(r"nonzero|index|where|masked_select", r.op)]
    if not parents or len(experts) < EXPERTS * len(parents) or len(picks) < len(parents):
        return None
    if len(of_experts) < EXPERT_SHARE * len(products):
        return None
    sizes = sorted(rows_of(r) for r in of_experts)
    return Seen(
        evidence=[
            evidence("experts that ran one by one", len(experts), "modules"),
            evidence("their products in forward", len(of_experts), "ops"),
            evidence("of all products in forward", len(of_experts) / len(products), "share"),
            evidence("median rows per product", sizes[(len(sizes) - 1) // 2], "tokens"),
        ],
        saved=worth(case, modules(case, lambda m: bool(_expert(m.path)))),
        severity="major",
    )


def slow_products(case: Case) -> Seen | None:
    """B10: the base's own products run far below what this device reached in calibration, and had it to themselves."""
    rows = [k for k in case.kernels if k.role == "base.linear"]
    work = [(k.flops, k.total_ns) for k in rows if k.flops and k.total_ns]
    peak = case.gemm_flops_per_s
    if not peak or not work or case.busy_ns < BUSY_SHARE * case.wall_ns or case.timing.crowded:
        return None
    flops, spent = map(sum, zip(*work, strict=True))
    reached = flops / spent * 1e9 / peak
    if reached >= GEMM_EFFICIENCY:
        return None
    convolved = any("conv" in (k.op or "") for k in rows)
    odd = [s for s in case.sites if s.in_features % 8 or s.out_features % 8]
    best = max(count / ns for count, ns in work)
    slow = sum(ns - count / best for count, ns in work) / spent  # at the rate of the best of them
    products = worth(case, roles("base.linear"), waiting=False)
    odd_shapes = bool(odd) and not convolved
    return Seen(
        evidence=[
            evidence("rate of the base's products", flops / spent * 1e9, "FLOP/s"),
            evidence("best rate of this device", peak, "FLOP/s"),
            evidence("layers with a width that 8 does not divide", len(odd) if case.sites else None, "layers"),
        ],
        saved=products.times(slow).at_most.between(products.times(0), products.times(1 - reached))
        if products
        else None,
        title=None if case.adapter else "The linear layers' products are slow",
        values={"odd": odd_shapes},
    )


_EXPERT = re.compile(r"^(.*\bexperts?\.\d+)\b")


def _expert(path: str) -> str | None:
    found = _EXPERT.match(path)
    return found[1] if found else None


def _outside(case: Case, parameter: ParameterInfo) -> bool:
    assert case.recording is not None
    return parameter.part not in ("down", "up", "elementwise")


def _quantised(case: Case) -> bool:
    table = case.recording.modules if case.recording else []
    return bool(case.step.ns(role="dequant")) or any(QUANTISED.search(m.cls) for m in table if m.part == "base")


BASE_RULES = (
    Rule("B1", BASE, no_optimizer_saving, (remedies.FEWER_LAYERS,), thresholds={"share": OPTIMIZER_SHARE}),
    Rule(
        "B2", BASE, checkpointing, (remedies.NO_CHECKPOINTING, remedies.NON_REENTRANT), thresholds={"memory": NEEDLESS}
    ),
    Rule(
        "B3",
        BASE,
        other_parts,
        (remedies.FAST_ATTENTION, remedies.SDPA, remedies.LIGER),
        thresholds={"share": OTHER_SHARE},
        explained_by=(LOST_ATTENTION,),
    ),
    Rule(
        "B4",
        BASE,
        dequantization,
        (remedies.HALF_BASE, remedies.MORE_TOKENS),
        thresholds={"share": DEQUANT_SHARE},
        probe="batch",
    ),
    Rule("B5", BASE, promoted_parts, (remedies.HALF_PARTS,)),
    HEAD_AND_LOSS,
    Rule("B7", BASE, trained_in_full, (remedies.NEW_TOKENS,), thresholds={"share": TRAINED_SHARE}),
    Rule("B8", BASE, no_bf16_units, (remedies.FP16,), thresholds={"capability": BF16_UNITS}),
    Rule(
        "B9",
        BASE,
        expert_loop,
        (remedies.GROUPED_EXPERTS, remedies.NO_EXPERTS),
        thresholds={"experts": EXPERTS, "products": EXPERT_SHARE},
    ),
    Rule(
        "B10",
        BASE,
        slow_products,
        (remedies.FEWER_MICRO_BATCHES, remedies.LARGER_BATCH, remedies.MULTIPLES, remedies.COMPILED_PRODUCTS),
        thresholds={"rate": GEMM_EFFICIENCY, "busy": BUSY_SHARE},
    ),
    *NETWORKS,
    LOST_ATTENTION,
    SLOW_OP,
)
