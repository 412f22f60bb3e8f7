"""L findings: what the adapter path itself costs, and in which form.

Gains are the unprofiled time of the work that would vanish (``select.worth``), times the range that the remedy has
in the cost model or elsewhere. Every threshold is a default of the catalogue.
"""

import re
from typing import TypeGuard

import numpy as np

from loraprof.diagnosis.case import Case, check, evidence, finding
from loraprof.diagnosis.records import HALF, HALF_INPUTS, Record
from loraprof.diagnosis.rows import conversions, like
from loraprof.diagnosis.select import (
    Worth,
    both,
    busy_ns,
    either,
    gain_of,
    modules,
    of_rows,
    roles,
    scaled,
    total_ns,
    within,
    worth,
)
from loraprof.model.recording import AdapterSite
from loraprof.model.report import Finding
from loraprof.model.vocabulary import ADAPTER_ROLES, ROLES, HostKind

ELEMENTWISE_SHARE = 0.30  # L1: of the adapter's busy time
STREAMING = 0.5  # L1: of the calibrated bandwidth
GEMM_SHARE = 0.30  # L5: of the adapter's busy time
RIDGE_SHARE = 0.5  # L5: arithmetic intensity over the ridge
LAUNCH_SHARE = 0.30  # L6: of all launches
SYNC_SHARE = 0.01  # L8: of the step, on a GPU
SPLIT_SHARE = 0.10  # L10: of all launches
FUSED_RATE = 0.8  # L11: of the calibrated rate
_FUSED = re.compile(r"(?i)lora")  # in a kernel's own name: the vendor's kernels have none
SHARED_INPUT = (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("gate_proj", "up_proj"))
ATTENTION_PAIRS = (("q_proj", "v_proj"), ("query", "value"), ("q", "v"), ("c_attn",), ("qkv",), ("query_key_value",))


def elementwise(case: Case) -> Finding | None:
    """L1: full-size tensors stream through scale, add, dropout, casts and gradient sums."""
    spent = case.step.ns(kind="busy", role="adapter.elementwise")
    if not case.adapter_ns or spent < ELEMENTWISE_SHARE * case.adapter_ns or case.rates is None:
        return None
    rows = [k for k in case.kernels if k.role == "adapter.elementwise" and k.min_bytes]
    moved, time = sum(k.min_bytes or 0 for k in rows), sum(k.total_ns for k in rows)
    ceiling = case.rates.stream_bytes_per_s
    if not time or not ceiling or moved / time * 1e9 < STREAMING * ceiling:
        return None
    return finding(
        case,
        "L1",
        [
            evidence("share of the adapter's busy time", spent / case.adapter_ns, "share"),
            evidence("bytes moved by its elementwise ops, at least", moved, "B"),
            evidence("achieved bandwidth", moved / time * 1e9, "B/s"),
            evidence("bandwidth of this device", ceiling, "B/s"),
        ],
        "fuse the adapter: torch.compile(get_peft_model(model, config)), or Unsloth, axolotl "
        "(lora_mlp_kernel: true, lora_qkv_kernel: true, lora_o_kernel: true); lora_dropout=0.0",
        gain_of(case, scaled(worth(case, roles("adapter.elementwise")), 0.7, 0.3, 1.0)),
    )


def fp32_adapters(case: Case) -> Finding | None:
    """L2: fp32 adapters on a half-precision base, without autocast."""
    sites = {i for i, s in _active(case) if s.dtype == "float32" and s.base_dtype in HALF}
    if not sites:
        return None
    gemms = [r for r in case.records if r.site in sites and r.gemm_type and r.role in ADAPTER_ROLES]
    wide = [r for r in gemms if r.gemm_type == "float"]
    if not wide or len(wide) < len(gemms) / 2:
        return None
    casts = both(of_rows(case, conversions(case)), roles(*ADAPTER_ROLES))
    saved, path = worth(case, casts), worth(case, roles(*ADAPTER_ROLES))
    if saved is not None and path is not None:  # at least the casts vanish; at most, the rest moves half the bytes too
        half = 0.5 * max(path.high - saved.high, 0.0)
        saved = Worth(saved.ns + half / 2, saved.low, saved.high + half)
    base = next(s.base_dtype for i, s in _active(case) if i in sites)
    return finding(
        case,
        "L2",
        [
            evidence(f"adapted layers with float32 adapters on a {base} base", len(sites), "layers"),
            evidence("their matrix products in float32", len(wide), "ops"),
            evidence("time of those products", sum(r.ns for r in wide), "ns"),
            evidence("time of the dtype conversions around them", busy_ns(case, casts), "ns"),
        ],
        "get_peft_model(model, config, autocast_adapter_dtype=False); or run the step under "
        f'torch.autocast("{_device(case)}", torch.{base})' + check(case, "lora-bf16"),
        gain_of(case, saved),
    )


def undone_casts(case: Case) -> Finding | None:
    """L3: PEFT casts the input to fp32 and autocast casts the same tensor back for the product."""
    sites = {i for i, s in _active(case) if s.dtype == "float32" and s.base_dtype in HALF}
    rows = [r for r in case.records if r.site in sites and r.phase == "forward" and r.conversion]
    up = {(r.site, r.dims[0]) for r in rows if r.role == "adapter.elementwise" and _widens(r)}
    undone = [r for r in rows if r.role == "adapter.down" and not _widens(r) and (r.site, r.dims[0]) in up]
    if not undone:
        return None
    casts = both(of_rows(case, conversions(case, weights=False)), roles(*ADAPTER_ROLES))
    elements = sum(int(np.prod(np.array(r.dims[0], dtype=np.int64))) for r in undone)
    return finding(
        case,
        "L3",
        [
            evidence("inputs cast to float32 and back before A", len(undone), "tensors"),
            evidence("bytes of these casts, forward and backward", 24 * elements, "B"),
            evidence("their busy time", busy_ns(case, casts), "ns"),
        ],
        "from peft.helpers import disable_input_dtype_casting; "
        "run the step inside `with disable_input_dtype_casting(model):`",
        gain_of(case, worth(case, casts)),
    )


def dropout(case: Case) -> Finding | None:
    """L4: dropout inside the adapter streams a mask and a copy of the full input, both ways."""
    probability = max((s.dropout for s in case.sites), default=0.0)
    own = modules(case, lambda m: m.site is not None and "Dropout" in m.cls)
    called = both(within(case, r"^aten::(native_|alpha_|feature_)?dropout|DropoutBackward"), roles(*ADAPTER_ROLES))
    select = both(either(own, called), roles(*ADAPTER_ROLES))
    spent = busy_ns(case, select)
    if probability <= 0 or not spent:
        return None
    masked = [k for k in case.kernels if k.role in ADAPTER_ROLES and k.op and re.search("bernoulli|native_dro", k.op)]
    return finding(
        case,
        "L4",
        [
            evidence("dropout probability", probability, "share"),
            evidence("masks drawn in the adapter", sum(k.count for k in masked if k.phase != "backward"), "ops"),
            evidence("busy time of dropout, forward and backward", spent, "ns"),
        ],
        "LoraConfig(lora_dropout=0.0)" + check(case, "lora-nodropout"),
        gain_of(case, worth(case, select)),
    )


def bandwidth_bound(case: Case) -> Finding | None:
    """L5: A and B read the layer's whole input and output for a handful of operations per byte."""
    rows = [k for k in case.kernels if k.role in ("adapter.down", "adapter.up") and k.flops and k.min_bytes]
    flops, moved, time = (sum(getattr(k, f) or 0 for k in rows) for f in ("flops", "min_bytes", "total_ns"))
    rates = case.rates
    if rates is None or not moved or time < GEMM_SHARE * case.adapter_ns:
        return None
    compute, stream = case.gemm_flops_per_s, rates.stream_bytes_per_s
    if not compute or not stream or flops / moved >= RIDGE_SHARE * compute / stream:
        return None
    if moved / time * 1e9 < STREAMING * stream:  # too small for the memory system: launches decide, not bytes
        return None
    spare, groups = _sharable(case)
    saved = scaled(worth(case, roles("adapter.down")), spare, 0.3 * spare, spare) if spare else None
    return finding(
        case,
        "L5",
        [
            evidence("share of the adapter's busy time in A and B", time / case.adapter_ns, "share"),
            evidence("arithmetic intensity of A and B", flops / moved, "FLOP/B"),
            evidence("ridge of this device", compute / stream, "FLOP/B"),
            evidence("A products that read an input another A reads too", spare, "share"),
        ],
        f"fuse {' and '.join('+'.join(g) for g in groups)} into one linear with one adapter, so that A reads the input "
        "once; raising r to 64 costs almost no time"
        if groups
        else "do not lower r for speed: LoraConfig(r=64) costs almost the same time",
        gain_of(case, saved),
    )


def too_many_targets(case: Case) -> Finding | None:
    """L6: every linear is adapted, and launches follow the number of adapted layers."""
    launches = len(case.busy.rows)
    suffixes = sorted({s.path.rsplit(".", 1)[-1] for s in case.sites})
    if case.adapter is None or not launches or case.adapter.launches < LAUNCH_SHARE * launches:
        return None
    keep = next((p for p in ATTENTION_PAIRS if set(p) <= set(suffixes)), ())
    if not keep or len(suffixes) <= max(len(keep), 2):
        return None
    spared = {i for i, s in _active(case) if s.path.rsplit(".", 1)[-1] not in keep}
    select = both(modules(case, lambda m: m.site in spared), roles(*ADAPTER_ROLES))
    return finding(
        case,
        "L6",
        [
            evidence("adapted layers", len(case.sites), "layers"),
            evidence("layers that stay adapted", len(case.sites) - len(spared), "layers"),
            evidence("share of all launches that the adapters issue", case.adapter.launches / launches, "share"),
            evidence("time of the adapters that would go", total_ns(case, select), "ns"),
        ],
        f"LoraConfig(target_modules={list(keep)!r}), or only the upper layers (layers_to_transform=[...]); "
        "check the quality afterwards" + (check(case, "lora-qv") if len(keep) == 2 else ""),
        gain_of(case, worth(case, select)),
    )


def dense_delta(case: Case) -> Finding | None:
    """L7: the weight difference is built as a full matrix (DoRA's norm, parametrization) in every pass."""
    shapes = {i: {(s.out_features, s.in_features), (s.in_features, s.out_features)} for i, s in _active(case)}
    base = [r for r in case.records if r.role == "base.linear" and r.phase == "forward"]
    tokens = {_tokens(case), *map(_rows_of_input, base)}
    rows = [
        r
        for r in case.records
        if r.site in shapes
        and r.phase == "forward"
        and r.role in ADAPTER_ROLES
        and r.op not in ("aten::mm", "aten::addmm", "aten::copy_")
        and any(d[-2:] in shapes[r.site or 0] and not tokens & {*d} for d in r.dims if _matrices(d))
        and r.ns
        and not re.search(r"::(t|transpose|as_strided|view|expand|detach|to|empty\w*|resolve_\w+)$", r.op)
    ]
    layers = {r.site for r in rows}
    if not layers or tokens == {None}:
        return None
    kinds = {case.recording.sites[i or 0].kind for i in layers} if case.recording else set()
    spent = sum(r.ns for r in rows)
    return finding(
        case,
        "L7",
        [
            evidence("layers that build a matrix as large as their weight", len(layers), "layers"),
            evidence("ops on such matrices in forward", len(rows), "ops"),
            evidence("their time, whatever the number of tokens", spent, "ns"),
        ],
        "LoraConfig(use_dora=False)" if "dora" in kinds else "apply the adapter to activations: B(A(x)), not W + BA",
        gain_of(case, scaled(worth(case, of_rows(case, like(case, rows))), 1.5, 1.0, 3.0)),  # its backward comes on top
    )


def host_sync(case: Case) -> Finding | None:
    """L8: the adapter reads a value back, so the host waits for the device at every call."""
    who, host, window = case.analysis.who, case.analysis.trace.host, case.ledger.window
    inside = np.array([r in ADAPTER_ROLES for r in ROLES])[who.role] & (who.module >= 0)
    inside &= (host.start >= window.noted_start) & (host.start < window.end)
    names = case.analysis.trace.names
    reads = np.array([n in ("aten::item", "aten::nonzero") for n in names] or [False])[host.name]
    waits = np.array([bool(re.search(r"Synchronize|^(cuda|hip)Memcpy(?!.*Async)", n)) for n in names] or [False])
    waiting = inside & waits[host.name] & (host.kind == HostKind.RUNTIME)
    reading = inside & reads & (host.kind == HostKind.OP)
    waited = min(int((host.end - host.start)[waiting].sum()), case.step.ns(cause="sync"))
    count = int(reading.sum()) or int(waiting.sum())
    if not count or (case.analysis.on_gpu and waited < SYNC_SHARE * case.wall_ns):
        return None
    where = sorted({who.paths[m] for m in who.module[reading | waiting].tolist()})
    select = both(of_rows(case, reading), roles(*ADAPTER_ROLES))
    scaled = waited * case.scale
    saved = Worth(scaled, 0.5 * scaled, scaled) if waited else worth(case, select)
    spent = waited or busy_ns(case, select)
    return finding(
        case,
        "L8",
        [
            evidence("reads of a device value inside adapted layers", count, "per step"),
            evidence("first of them in", where[0], ""),
            evidence("time the host waited there" if waited else "time of these ops", spent, "ns"),
        ],
        f"remove .item(), nonzero() and tensors built from Python values in the forward of {where[0]}; "
        "keep index tensors as buffers",
        gain_of(case, saved),
        severity=None if case.analysis.on_gpu else "minor",
    )


def other_device(case: Case) -> Finding | None:
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
    return finding(
        case,
        "L9",
        [
            evidence("adapter parameters on another device than the base", len(astray), "tensors"),
            evidence("theirs", astray[0].device, ""),
            evidence("the base's", device, ""),
            evidence("copies inside adapted layers", total_ns(case, copies), "ns"),
        ],
        f'model.to("{device}") after get_peft_model',
        gain_of(case, worth(case, copies)),
        severity="major",
    )


def split_gradients(case: Case) -> Finding | None:
    """L10: the weight gradients of A and B run as a split-K product and a kernel that collects the parts."""
    if not case.analysis.on_gpu:
        return None
    products = [r for r in case.records if r.role in ("adapter.down", "adapter.up") and r.phase == "backward"]
    rows = [r for r in products if re.search("(?i)split_?k|reduce", r.name)]
    launches = len(case.busy.rows)
    pairs = 2 * len(rows)  # each comes with the product it belongs to
    if not launches or pairs < SPLIT_SHARE * launches:
        return None
    sms = case.analysis.trace.gpus[0].sms if case.analysis.trace.gpus else None
    small = [r for r in rows if sms and 0 <= r.blocks < sms]
    return finding(
        case,
        "L10",
        [
            evidence("reductions after split weight gradients", len(rows), "kernels"),
            evidence("launches of these gradients, of all", pairs / launches, "share"),
            evidence("reductions with fewer blocks than the device has SMs", len(small) if sms else None, "kernels"),
            evidence("time of the reductions", sum(r.ns for r in rows), "ns"),
        ],
        "torch.compile(get_peft_model(model, config)), or one adapter for fused q, k and v",
        None,
    )


def slow_fused(case: Case) -> Finding | None:
    """L11: a fused LoRA kernel takes longer per FLOP than this device's own products of the same shape."""
    rates, tokens = case.rates, _tokens(case)
    rows = [r for r in case.records if r.phase == "forward" and r.site is not None and _FUSED.search(r.name)]
    if rates is None or tokens is None or not rows or case.recording is None:
        return None
    spent = sum(r.ns for r in rows)
    expected = 0.0
    for r in rows:
        s = case.recording.sites[r.site or 0]
        ns = rates.gemm_ns(tokens, s.out_features, s.in_features, s.base_dtype)
        if ns is None:
            return None
        expected += ns * (1 + (s.rank or 0) * (1 / s.in_features + 1 / s.out_features))  # the adapter's FLOPs too
    if expected >= FUSED_RATE * spent:
        return None
    return finding(
        case,
        "L11",
        [
            evidence("fused LoRA kernels in forward", len(rows), "kernels"),
            evidence("their time", spent, "ns"),
            evidence("the same FLOPs at this device's calibrated rate", round(expected), "ns"),
            evidence("rate reached, of that", expected / spent, "share"),
        ],
        "switch the fused kernel off (axolotl: lora_mlp_kernel: false, lora_qkv_kernel: false), or clear Triton's "
        "cache (~/.triton/cache) so that it is tuned again",
    )


def _active(case: Case) -> list[tuple[int, AdapterSite]]:
    sites = case.recording.sites if case.recording else []
    return [(i, s) for i, s in enumerate(sites) if s.active]


def _device(case: Case) -> str:
    return "cuda" if case.analysis.on_gpu else "cpu"


def _tokens(case: Case) -> int | None:
    w = case.workload
    return w.tokens_per_step // (w.micro_batches or 1) if w and w.tokens_per_step else None


def _rows_of_input(record: Record) -> int | None:
    """Leading size of a product's left operand: the tokens of that layer, whatever the model feeds it."""
    left = {"aten::mm": 0, "aten::addmm": 1}.get(record.op)
    dims = record.dims[left] if left is not None and len(record.dims) > left else None
    return int(dims[0]) if isinstance(dims, tuple) and len(dims) == 2 and isinstance(dims[0], int) else None


def _matrices(dims: object) -> TypeGuard[tuple[int, ...]]:
    """A matrix, or one per expert."""
    return isinstance(dims, tuple) and len(dims) in (2, 3) and all(isinstance(d, int) for d in dims)


def _widens(record: Record) -> bool:
    return record.conversion is not None and record.conversion[0] in HALF_INPUTS


def _sharable(case: Case) -> tuple[float, list[tuple[str, ...]]]:
    """Share of A products that repeat the read of a shared input, and the groups of layers that share one."""
    parents: dict[str, set[str]] = {}
    for s in case.sites:
        parent, _, name = s.path.rpartition(".")
        parents.setdefault(parent, set()).add(name)
    found = [(g, sum(set(g) <= names for names in parents.values())) for g in SHARED_INPUT]
    spare = sum((len(g) - 1) * count for g, count in found)
    return spare / max(len(case.sites), 1), [g for g, count in found if count]


ADAPTER = (
    elementwise,
    fp32_adapters,
    undone_casts,
    dropout,
    bandwidth_bound,
    too_many_targets,
    dense_delta,
    host_sync,
    other_device,
    split_gradients,
    slow_fused,
)
