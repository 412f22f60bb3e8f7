"""D findings: what the devices say to each other, and for whom they wait.

Payloads are the elements Kineto copies to collective kernels (``In msg nelems``, ``Out msg nelems``) times the width
of their dtype. Exposed communication is the time of the step in which nothing but communication ran.
"""

import re
from dataclasses import dataclass
from math import prod

import numpy as np

from loraprof.diagnosis.case import Case, evidence, finding
from loraprof.diagnosis.select import Worth, gain_of
from loraprof.model.report import Finding, Gain
from loraprof.model.vocabulary import DeviceKind

EXPOSED_SHARE = 0.10  # D1: of the step
GATHERED = 1.5  # D1: gathered bytes over the frozen weights' bytes; two gathers per step, less what is kept
SMALL_BYTES = 1_000_000  # D2: median message
PER_LAYER = 2  # D2: messages per adapted layer
FLAT = 10  # D3: trained flat parameters over the adapters' own
NEEDLESS = 10  # D4: reduced bytes over the adapters'
WIDTH = {"Float": 4, "BFloat16": 2, "Half": 2, "Double": 8, "Byte": 1, "Int": 4, "Long": 8}
KINDS = (
    ("gather", r"all_?gather"),
    ("reduce", r"all_?reduce"),
    ("scatter", r"reduce_?scatter"),
    ("pipe", r"send|recv"),
)


@dataclass(frozen=True, slots=True)
class Message:
    """One collective kernel of the reported step."""

    kind: str  # of KINDS; "" another
    nbytes: int | None
    ns: int
    group: int | None


def messages(case: Case) -> list[Message]:
    trace, window = case.analysis.trace, case.ledger.window
    device = trace.device
    inside = (device.kind == DeviceKind.KERNEL) & (device.start >= window.start) & (device.start < window.end)
    named = np.array([bool(re.search(r"(?i)nccl|rccl", n)) for n in trace.names] or [False])
    out = []
    for row in np.flatnonzero(inside & named[device.name]).tolist():
        number = int(device.collective[row])
        c = trace.collectives[number] if number >= 0 else None
        text = (c.name if c else trace.names[int(device.name[row])]).lower()
        kind = next((k for k, pattern in KINDS if re.search(pattern, text)), "")
        elements = max(c.in_elements or 0, c.out_elements or 0) if c else 0
        width = WIDTH.get(c.dtype) if c else None
        out.append(
            Message(
                kind=kind,
                nbytes=elements * width if elements and width else None,
                ns=int(device.end[row] - device.start[row]),
                group=c.group_size if c else None,
            )
        )
    return out


def gathers(case: Case) -> Finding | None:
    """D1: the frozen weights travel in every step."""
    mine = [m for m in messages(case) if m.kind == "gather"]
    moved, exposed = sum(m.nbytes or 0 for m in mine), _exposed(case)
    weights = _bytes(case, trained=False)
    if not mine or not moved or exposed < EXPOSED_SHARE * case.wall_ns:
        return None
    if weights and moved < GATHERED * weights:
        return None
    spent = sum(m.ns for m in mine)
    return finding(
        case,
        "D1",
        [
            evidence("bytes gathered per step", moved, "B"),
            evidence("bytes of the frozen weights", weights, "B"),
            evidence("time of the gathers", spent, "ns"),
            evidence("communication that nothing hides", exposed, "ns"),
            evidence("of the step", exposed / case.wall_ns, "share"),
        ],
        'DeepSpeed "zero_optimization": {"stage": 2}, or DDP, if the frozen model fits on one device; else '
        "backward_prefetch=BackwardPrefetch.BACKWARD_PRE and more tokens per step",
        _gain(case, min(exposed, spent), 0.8, 0.4),
        severity="major",
    )


def small_messages(case: Case) -> Finding | None:
    """D2: every adapter tensor is a message of its own."""
    sent = [m for m in messages(case) if m.nbytes]
    sizes = sorted(m.nbytes or 0 for m in sent)
    median = sizes[(len(sizes) - 1) // 2] if sizes else 0
    if not case.sites or not sent or median >= SMALL_BYTES or len(sent) <= PER_LAYER * len(case.sites):
        return None
    spent = sum(m.ns for m in sent if (m.nbytes or 0) < SMALL_BYTES)
    return finding(
        case,
        "D2",
        [
            evidence("messages per step", len(sent), "messages"),
            evidence("adapted layers", len(case.sites), "layers"),
            evidence("median message", median, "B"),
            evidence("time of the small ones", spent, "ns"),
        ],
        "wrap whole blocks as one FSDP unit (transformer_auto_wrap_policy), or replicate the adapters: "
        "FullyShardedDataParallel(ignored_states=lora_parameters) with DDP for them",
        _gain(case, min(_exposed(case), spent), 0.7, 0.2),
    )


def mixed_units(case: Case) -> Finding | None:
    """D3: one flat parameter holds frozen and trained weights, and gradients of its whole size."""
    if case.recording is None:
        return None
    flat = [p for p in case.recording.parameters if p.trainable and "flat_param" in p.name]
    size, own = sum(prod(p.shape) for p in flat), _adapter_elements(case)
    if not flat or not own or size <= FLAT * own:
        return None
    return finding(
        case,
        "D3",
        [
            evidence("trained elements in flat parameters", size, "parameters"),
            evidence("elements of the adapters", own, "parameters"),
            evidence("bytes of gradients on this rank", _gradients(case), "B"),
        ],
        "FullyShardedDataParallel(model, use_orig_params=True), or wrap the adapters apart from the base",
        severity="major",
    )


def needless_reduction(case: Case) -> Finding | None:
    """D4: gradients are reduced that the adapters do not have."""
    mine = [m for m in messages(case) if m.kind == "reduce" and m.nbytes]
    moved, own = sum(m.nbytes or 0 for m in mine), 4 * _adapter_elements(case)
    if not mine or not own or moved <= NEEDLESS * own:
        return None
    spent = sum(m.ns for m in mine)
    return finding(
        case,
        "D4",
        [
            evidence("bytes reduced per step", moved, "B"),
            evidence("bytes of the adapters' gradients, at most", own, "B"),
            evidence("time of the reductions", spent, "ns"),
            evidence("communication that nothing hides", _exposed(case), "ns"),
        ],
        "freeze first, wrap afterwards: DistributedDataParallel(get_peft_model(model, config), "
        "find_unused_parameters=False)",
        _gain(case, min(_exposed(case), spent) * (1 - own / moved), 0.9, 0.5),
        severity="major",
    )


def pipeline_bubble(case: Case) -> Finding | None:
    """D5: stages of a pipeline wait for each other."""
    mine = [m for m in messages(case) if m.kind == "pipe"]
    micro = case.workload.micro_batches if case.workload else None
    stages = max((m.group or 0 for m in mine), default=0)
    if not mine or not micro or stages < 2:
        return None
    bubble = (stages - 1) / (stages - 1 + micro)
    waited = _exposed(case) + case.step.ns(cause="queued") + case.step.ns(cause="sync")
    if waited < bubble * case.wall_ns:
        return None
    return finding(
        case,
        "D5",
        [
            evidence("stages", stages, "devices"),
            evidence("micro-batches per step", micro, "count"),
            evidence("bubble that they imply", bubble, "share"),
            evidence("time this rank waited", waited, "ns"),
            evidence("of the step", waited / case.wall_ns, "share"),
        ],
        "more micro-batches per step (gradient_accumulation_steps), or several adapters trained in one batch",
        _gain(case, waited, 0.5, 0.2),
        severity="major",
    )


def _exposed(case: Case) -> int:
    return case.step.ns(kind="busy", class_="comm")


def _gain(case: Case, ns: float, factor: float, low: float) -> Gain | None:
    saved = ns * case.scale
    return gain_of(case, Worth(factor * saved, low * saved, saved)) if case.timing.unprofiled else None


def _bytes(case: Case, trained: bool) -> int:
    width = {"float32": 4, "bfloat16": 2, "float16": 2}
    rows = case.recording.parameters if case.recording else []
    return sum(prod(p.shape) * width.get(p.dtype, 2) for p in rows if p.trainable == trained)


def _adapter_elements(case: Case) -> int:
    return sum((s.rank or 0) * (s.in_features + s.out_features) for s in case.sites)


def _gradients(case: Case) -> int | None:
    memory = case.recording.memory if case.recording else None
    return memory.gradients_bytes if memory else None


DISTRIBUTED = (gathers, small_messages, mixed_units, needless_reduction, pipeline_bubble)
