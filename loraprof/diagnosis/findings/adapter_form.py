"""L7 to L11: in which form is the adapter written? Dense, reading values, elsewhere, in split or in slow kernels.

Gains and thresholds as in ``adapter``.
"""

import re
from math import prod
from typing import TypeGuard

import numpy as np

from loraprof.analysis.step.records import Record
from loraprof.diagnosis.case import Case
from loraprof.diagnosis.remedies import adapter as remedies
from loraprof.diagnosis.rows import WAITS, in_step, like
from loraprof.diagnosis.rule import ADAPTER, Rule, Seen, evidence
from loraprof.diagnosis.select import both, busy_ns, modules, of_rows, roles, total_ns, worth
from loraprof.diagnosis.worth import Worth
from loraprof.model.trace import named
from loraprof.model.vocabulary import ADAPTER_ROLES, ROLES, HostKind

SYNC_SHARE = 0.01  # L8: of the step, on a GPU
SPLIT_SHARE = 0.10  # L10: of all launches
FUSED_RATE = 0.8  # L11: of the calibrated rate
_FUSED = re.compile(r"(?i)lora")  # in a kernel's own name: the vendor's kernels have none


def dense_delta(case: Case) -> Seen | None:
    """L7: the weight difference is built as a full matrix (DoRA's norm, parametrization) in every pass."""
    dense = _dense_rows(case)
    rows = [r for r in dense if r.phase == "forward"]
    layers = {r.site for r in rows if r.site is not None}
    if not layers:
        return None
    kinds = {case.recording.sites[i].kind for i in layers} if case.recording else set()
    spent = case.spent_ns(rows)
    saved, once = (worth(case, of_rows(case, like(case, found))) for found in (dense, rows))
    return Seen(
        evidence=[
            evidence("layers that build a matrix as large as their weight", len(layers), "layers"),
            evidence("ops on such matrices in forward", len(rows), "ops"),
            evidence("their time, whatever the number of tokens", spent, "ns"),
        ],
        saved=saved.between(once, saved) if saved and once else None,
        remedies=(remedies.PLAIN_LORA if "dora" in kinds else remedies.ON_ACTIVATIONS,),
    )


def _dense_rows(case: Case) -> list[Record]:
    """Ops that build, change or read a matrix as large as their layer's weight, products and moves aside.

    In forward, what they were made of in the counted step tells; backward, and in older recordings, their shapes.
    """
    shapes: dict[int | None, set[tuple[int, ...]]]
    shapes = {i: {(s.out_features, s.in_features), (s.in_features, s.out_features)} for i, s in case.numbered_sites}
    base = [r for r in case.records if r.role == "base.linear" and r.phase == "forward"]
    tokens, known = {_tokens(case), *map(_rows_of_input, base)}, case.analysis.attribution.dense

    def dense(r: Record) -> bool:
        if known is not None and r.phase == "forward":
            return r.row in known
        large = (d for d in r.dims if _matrices(d) and d[-2:] in shapes[r.site])
        return tokens != {None} and any(not tokens & {*d, prod(d[:-1])} for d in large)

    return [
        r
        for r in case.records
        if r.site in shapes
        and r.phase != "optimizer"
        and r.role in ADAPTER_ROLES
        and r.op not in ("aten::mm", "aten::addmm", "aten::copy_")
        and r.ns
        and not re.search(r"::(t|transpose|as_strided|view|expand|detach|to|empty\w*|resolve_\w+)$", r.op)
        and dense(r)
    ]


def host_sync(case: Case) -> Seen | None:
    """L8: the adapter reads a value back, so the host waits for the device at every call."""
    trace, attribution = case.analysis.trace, case.analysis.attribution
    host = trace.host
    inside = np.array([r in ADAPTER_ROLES for r in ROLES])[attribution.role] & (attribution.module >= 0) & in_step(case)
    waiting = inside & named(trace.names, WAITS.search)[host.name] & (host.kind == HostKind.RUNTIME)
    reads = named(trace.names, lambda n: n in ("aten::item", "aten::nonzero"))[host.name]
    reading = inside & reads & (host.kind == HostKind.OP)
    waited = min(round(int((host.end - host.start)[waiting].sum()) * case.scale), case.step.ns(cause="sync"))
    count = int(reading.sum()) or int(waiting.sum())
    if not count or (case.analysis.on_gpu and waited < SYNC_SHARE * case.wall_ns):
        return None
    where = sorted({attribution.paths[m] for m in attribution.module[reading | waiting].tolist()})
    select = both(of_rows(case, reading), roles(*ADAPTER_ROLES))
    saved = Worth(waited, 0.0, waited) if waited and case.timing.unprofiled else worth(case, select)
    spent = waited or busy_ns(case, select)
    return Seen(
        evidence=[
            evidence("reads of a device value inside adapted layers", count, "per step"),
            evidence("first of them in", where[0], ""),
            evidence("time the host waited there" if waited else "time of these ops", spent, "ns"),
        ],
        saved=saved,
        severity=None if case.analysis.on_gpu else "minor",
        values={"module": where[0]},
    )


def other_device(case: Case) -> Seen | None:
    """L9: adapter parameters live on another device than the base."""
    if case.recording is None:
        return None
    own = [p for p in case.recording.parameters if p.part in ("down", "up")]
    base = {p.device for p in case.recording.parameters if p.part == "base"}
    astray = [p for p in own if base and p.device not in base]
    if not astray:
        return None
    device = next(iter(sorted(base)))
    copies = both(roles("copy"), modules(case, lambda m: m.site is not None))
    return Seen(
        evidence=[
            evidence("adapter parameters on another device than the base", len(astray), "tensors"),
            evidence("theirs", astray[0].device, ""),
            evidence("the base's", device, ""),
            evidence("copies inside adapted layers", total_ns(case, copies), "ns"),
        ],
        saved=worth(case, copies),
        severity="major",
        values={"device": device},
    )


def split_gradients(case: Case) -> Seen | None:
    """L10: the weight gradients of A and B run as a split-K product and a kernel that collects the parts."""
    if not case.analysis.on_gpu:
        return None
    products = [r for r in case.records if r.role in ("adapter.down", "adapter.up") and r.phase == "backward"]
    rows = [r for r in products if re.search("(?i)split_?k|reduce", r.name) and _weight_gradient(case, r)]
    launches = len(case.busy.rows)
    pairs = 2 * len(rows)  # each comes with the product it belongs to
    if not launches or pairs < SPLIT_SHARE * launches:
        return None
    sms = case.analysis.trace.gpus[0].sms if case.analysis.trace.gpus else None
    small = [r for r in rows if sms and 0 <= r.blocks < sms]
    return Seen(
        evidence=[
            evidence("reductions after split weight gradients", len(rows), "kernels"),
            evidence("launches of these gradients, of all", pairs / launches, "share"),
            evidence("reductions with fewer blocks than the device has SMs", len(small) if sms else None, "kernels"),
            evidence("time of the reductions", case.spent_ns(rows), "ns"),
        ],
    )


def _weight_gradient(case: Case, record: Record) -> bool:
    """Whether a product's result is as large as A or B. B's input gradient is too where a layer has as many outputs as
    tokens: then the weight gradient is the one whose left operand was transposed."""
    if case.recording is None or record.site is None or len(record.dims) < 2:
        return False
    left, right = record.dims[:2]
    if not (_matrices(left) and _matrices(right)):
        return False
    s = case.recording.sites[record.site]
    width = s.in_features if record.role == "adapter.down" else s.out_features
    if sorted((left[0], right[-1])) != sorted((s.rank or 0, width)):
        return False
    if left[0] != left[-1]:
        return True
    strides = case.analysis.trace.shapes[int(case.analysis.trace.host.shapes[record.row])].strides
    return bool(strides) and strides[0][0] == 1


def slow_fused(case: Case) -> Seen | None:
    """L11: a fused LoRA kernel takes longer per FLOP than this device's own products of the same shape."""
    rates, tokens = case.rates, _tokens(case)
    rows = [r for r in case.records if r.phase == "forward" and r.site is not None and _FUSED.search(r.name)]
    if rates is None or tokens is None or not rows or case.recording is None:
        return None
    spent = sum(r.ns for r in rows)
    expected = 0.0
    for s in (case.recording.sites[r.site] for r in rows if r.site is not None):
        ns = rates.gemm_ns(tokens, s.out_features, s.in_features, s.base_dtype)
        if ns is None:
            return None
        expected += ns * (1 + (s.rank or 0) * (1 / s.in_features + 1 / s.out_features))  # the adapter's FLOPs too
    if expected >= FUSED_RATE * spent:
        return None
    return Seen(
        evidence=[
            evidence("fused LoRA kernels in forward", len(rows), "kernels"),
            evidence("their time", spent, "ns"),
            evidence("the same FLOPs at this device's calibrated rate", round(expected), "ns"),
            evidence("rate reached, of that", expected / spent, "share"),
        ],
    )


def _tokens(case: Case) -> int | None:
    w = case.workload
    return w.tokens_per_step // case.micro_batches if w and w.tokens_per_step else None


def _rows_of_input(record: Record) -> int | None:
    """Leading size of a product's left operand: the tokens of that layer, whatever the model feeds it."""
    left = {"aten::mm": 0, "aten::addmm": 1}.get(record.op)
    dims = record.dims[left] if left is not None and len(record.dims) > left else None
    return int(dims[0]) if isinstance(dims, tuple) and len(dims) == 2 and isinstance(dims[0], int) else None


def _matrices(dims: object) -> TypeGuard[tuple[int, ...]]:
    """A matrix, or one per expert."""
    return isinstance(dims, tuple) and len(dims) in (2, 3) and all(isinstance(d, int) for d in dims)


HOST_SYNC = Rule("L8", ADAPTER, host_sync, (remedies.NO_READS,), thresholds={"share": SYNC_SHARE})
FORMS = (
    Rule("L7", ADAPTER, dense_delta, (remedies.PLAIN_LORA, remedies.ON_ACTIVATIONS)),
    HOST_SYNC,
    Rule("L9", ADAPTER, other_device, (remedies.SAME_DEVICE,)),
    Rule(
        "L10",
        ADAPTER,
        split_gradients,
        (remedies.COMPILED_GRADIENTS, remedies.MERGED_GRADIENTS),
        thresholds={"launches": SPLIT_SHARE},
    ),
    Rule("L11", ADAPTER, slow_fused, (remedies.UNFUSED,), thresholds={"rate": FUSED_RATE}),
)
