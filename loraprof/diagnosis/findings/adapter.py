"""L1 to L6: what does the adapter path cost, in time of the device or in launches?

Gains are the unprofiled time of the work that would vanish (``select.worth``), or the share of it whose bytes would.
"""

import re

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from loraprof.analysis.limits.roofline import TF32, unit_of
from loraprof.analysis.step.records import HALF, HALF_INPUTS, Record
from loraprof.diagnosis.case import Case
from loraprof.diagnosis.remedies import adapter as remedies
from loraprof.diagnosis.rows import conversions, element_bytes, like, rows_of
from loraprof.diagnosis.rule import ADAPTER, Rule, Seen, evidence
from loraprof.diagnosis.select import both, busy_ns, either, modules, of_rows, roles, total_ns, within, worth
from loraprof.diagnosis.stack import LORA
from loraprof.diagnosis.worth import Worth
from loraprof.model.vocabulary import ADAPTER_ROLES, ROLE

ELEMENTWISE_SHARE = 0.30  # L1: of the adapter's busy time
FUSED_DROPOUT = r"fused_\w*dropout"  # inductor names a kernel after the ops in it
STREAMING = 0.5  # L1: of the calibrated bandwidth
GEMM_SHARE = 0.30  # L5: of the adapter's busy time
RIDGE_SHARE = 0.5  # L5: arithmetic intensity over the ridge
RANK = 64  # L5: up to which r is nearly free, where the ridge allows it
LAUNCH_SHARE = 0.30  # L6: of all launches
SHARED_INPUT = (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("gate_proj", "up_proj"))
ATTENTION_PAIRS = (("q_proj", "v_proj"), ("query", "value"), ("q", "v"), ("c_attn",), ("qkv",), ("query_key_value",))


def elementwise(case: Case) -> Seen | None:
    """L1: full-size tensors stream through scale, add, dropout, casts and gradient sums."""
    spent = case.step.ns(kind="busy", role="adapter.elementwise")
    if not case.adapter_ns or spent < ELEMENTWISE_SHARE * case.adapter_ns or case.rates is None:
        return None
    if case.sites and not any(s.kind in (*LORA, "handwritten", "adalora") for s in case.sites):
        return None  # other methods have no A and B beside which this were overhead
    rows = [(k.min_bytes, k.total_ns) for k in case.kernels if k.role == "adapter.elementwise" and k.min_bytes]
    ceiling = case.rates.stream_bytes_per_s
    if not rows or not ceiling or (typical := _typical_rate(rows)) < STREAMING * ceiling:
        return None
    moved = sum(nbytes for nbytes, _ in rows)
    fused, pointwise = _fusable(case, moved)
    return Seen(
        evidence=[
            evidence("share of the adapter's busy time", spent / case.adapter_ns, "share"),
            evidence("bytes moved by its elementwise ops, at least", moved, "B"),
            evidence("bandwidth at which half of them move, caches included", typical, "B/s"),
            evidence("bandwidth of this device's memory", ceiling, "B/s"),
        ],
        saved=fused,
        values={"pointwise": pointwise},
    )


def _typical_rate(rows: list[tuple[int, int]]) -> float:
    """Bytes per second at which half of the bytes move at least, of pairs of bytes and ns: a kernel that was
    interrupted does not count for more."""
    rates = sorted((nbytes / max(ns, 1) * 1e9, nbytes) for nbytes, ns in rows)
    reached = np.cumsum([moved for _, moved in rates])
    return rates[int(np.searchsorted(reached, reached[-1] / 2))][0]


def _fusable(case: Case, moved: int) -> tuple[Worth | None, Worth | None]:
    """What a LoRA written as one autograd function saves of the elementwise time, and what fused pointwise ops save.

    share = 1 - bytes that stay / bytes now, where of a layer with k inputs, n outputs, T tokens, an adapter of w_a and
    a base of w_b bytes per element there stay: in one function, whose products add into what is there, its reads
    (T n + T k) w_b; as pointwise kernels the casts T k (w_a + w_b) and T n (w_a + w_b), and per sum one operand of w_a
    and two of w_b.
    """
    spent = worth(case, roles("adapter.elementwise"))
    down = [r for r in case.records if r.role == "adapter.down" and r.phase == "forward" and r.gemm_type]
    sites, fused_bytes, pointwise_bytes = dict(case.numbered_sites), 0, 0
    for record in {r.row: r for r in down}.values():  # one of the kernels that a product was split in
        site, tokens = sites.get(-1 if record.site is None else record.site), rows_of(record)
        if site is None or not tokens:
            return None, None
        adapter, base = element_bytes(site.dtype), element_bytes(site.base_dtype)
        width = tokens * (site.in_features + site.out_features)
        fused_bytes += width * base
        pointwise_bytes += width * ((adapter + base) * (adapter != base) + adapter + 2 * base)
    if spent is None or not fused_bytes:
        return None, None
    pointwise = spent.times(max(1 - pointwise_bytes / moved, 0.0))
    return spent.times(max(1 - fused_bytes / moved, 0.0)).between(pointwise, spent), pointwise


def fp32_adapters(case: Case) -> Seen | None:
    """L2: fp32 adapters on a half-precision base, without autocast."""
    sites = {i for i, s in case.numbered_sites if s.dtype == "float32" and s.base_dtype in HALF}
    if not sites:
        return None
    gemms = [r for r in case.records if r.site in sites and r.gemm_type and r.role in ADAPTER_ROLES]
    wide = [r for r in gemms if r.gemm_type == "float"]
    if not wide or len(wide) < len(gemms) / 2:
        return None
    casts = both(of_rows(case, conversions(case)), roles(*ADAPTER_ROLES))
    saved, path = worth(case, casts), worth(case, roles(*ADAPTER_ROLES))
    base = next(s.base_dtype for i, s in case.numbered_sites if i in sites)
    narrower = worth(case, both(of_rows(case, like(case, _wide(case, sites))), roles(*ADAPTER_ROLES)), waiting=False)
    if saved is not None and path is not None and narrower is not None:  # fp32 work moves fewer bytes, casts go
        less = 1 - element_bytes(base) / element_bytes("float32")
        most = saved.plus(path.plus(saved.times(-1)).times(less))
        saved = saved.plus(narrower.times(less)).between(saved, most)
    plain = case.analysis.on_gpu and not any(TF32.search(r.name) for r in wide)
    return Seen(
        evidence=[
            evidence(f"adapted layers with float32 adapters on a {base} base", len(sites), "layers"),
            evidence("their matrix products in float32", len(wide), "ops"),
            evidence("time of those products", case.spent_ns(wide), "ns"),
            evidence("time of the dtype conversions around them", busy_ns(case, casts), "ns"),
        ],
        saved=saved,
        values={
            "base": base,
            "plain": plain,
            "device": "cuda" if case.analysis.on_gpu else "cpu",
            "flag": "bf16" if base == "bfloat16" else "fp16",
            "precision": "bf16-mixed" if base == "bfloat16" else "16-mixed",
            "autocast": _autocast(case, sites, base),
        },
    )


def _wide(case: Case, sites: set[int]) -> list[Record]:
    """Adapter work whose tensors are all float32."""
    return [
        r
        for r in case.records
        if r.site in sites
        and r.row >= 0
        and not r.conversion
        and r.role in ADAPTER_ROLES
        and (floats := [t for t in r.types if t in ("float", *HALF_INPUTS)])
        and all(t == "float" for t in floats)
    ]


def _autocast(case: Case, sites: set[int], base: str) -> Worth | None:
    """Under autocast the products run in the base's dtype, and the casts stay."""
    products = [r for r in _wide(case, sites) if r.gemm_type]
    spent = worth(case, both(of_rows(case, like(case, products)), roles(*ADAPTER_ROLES)), waiting=False)
    return spent.times(1 - element_bytes(base) / element_bytes("float32")).at_most if spent else None


def undone_casts(case: Case) -> Seen | None:
    """L3: PEFT casts the input to fp32 and autocast casts the same tensor back for the product."""
    sites = {i for i, s in case.numbered_sites if s.dtype == "float32" and s.base_dtype in HALF}
    rows = [r for r in case.records if r.site in sites and r.phase == "forward" and r.conversion]
    up = {(r.site, r.dims[0]) for r in rows if r.role == "adapter.elementwise" and _widens(r)}
    undone = [r for r in rows if r.role == "adapter.down" and not _widens(r) and (r.site, r.dims[0]) in up]
    if not undone:
        return None
    casts = both(of_rows(case, conversions(case, weights=False)), roles(*ADAPTER_ROLES))
    elements = sum(int(np.prod(np.array(r.dims[0], dtype=np.int64))) for r in undone)
    return Seen(
        evidence=[
            evidence("inputs cast to float32 and back before A", len(undone), "tensors"),
            evidence("bytes of these casts, forward and backward", 24 * elements, "B"),
            evidence("their busy time", busy_ns(case, casts), "ns"),
        ],
        saved=worth(case, casts),
        values={"base": next(s.base_dtype for i, s in case.numbered_sites if i in sites)},
    )


def dropout(case: Case) -> Seen | None:
    """L4: dropout inside the adapter streams a mask and a copy of the full input, both ways.

    In compiled code a kernel of another role may draw the mask besides: how much of its time that is, is not known.
    """
    probability = max((s.dropout for s in case.sites), default=0.0)
    own = modules(case, lambda m: m.site is not None and "Dropout" in m.cls)
    called = within(case, rf"^aten::(native_|alpha_|feature_)?dropout|DropoutBackward|{FUSED_DROPOUT}")
    select = both(either(own, called), roles(*ADAPTER_ROLES))
    spent, compiled = busy_ns(case, select), case.analysis.attribution.compiled
    fused = both(within(case, FUSED_DROPOUT), of_rows(case, compiled.mixed)) if compiled else None
    fused_ns = busy_ns(case, fused) if fused else 0
    if probability <= 0 or not (spent or fused_ns):
        return None
    masked = [k for k in case.kernels if k.role in ADAPTER_ROLES and k.op and re.search("bernoulli|native_dro", k.op)]
    return Seen(
        evidence=[
            evidence("dropout probability", probability, "share"),
            evidence("masks drawn in the adapter", sum(k.count for k in masked if k.phase != "backward"), "ops"),
            evidence("busy time of dropout, forward and backward", spent, "ns"),
            *[evidence("kernels of other roles that draw masks too", fused_ns, "ns")] * bool(fused_ns),
        ],
        saved=worth(case, select) if spent and not fused_ns else None,
    )


def bandwidth_bound(case: Case) -> Seen | None:
    """L5: A and B read the layer's whole input and output for a handful of operations per byte."""
    products = _products(case)
    stream = case.rates.stream_bytes_per_s if case.rates else None
    profiled_ns = int(case.ledger.ns[roles(*ADAPTER_ROLES)(case.ledger) & case.ledger.busy].sum())  # as products.ns
    if products is None or not stream or products.ns < GEMM_SHARE * profiled_ns:
        return None
    intensity, ridge = products.flops / products.nbytes, products.flops_per_s / stream
    if intensity >= RIDGE_SHARE * ridge:
        return None
    if products.nbytes / products.ns * 1e9 < STREAMING * stream:  # too small for the memory system: launches decide
        return None
    spare, groups = _sharable(case)
    repeated = modules(case, lambda m: m.site in spare)
    saved = worth(case, both(repeated, roles("adapter.down")))
    forward = worth(case, both(repeated, roles("adapter.down", phase="forward")))
    free = intensity * RANK < ridge * max((s.rank or 0 for s in case.sites), default=0)  # intensity grows with r
    return Seen(
        evidence=[
            evidence("share of the adapter's busy time in A and B", products.ns / profiled_ns, "share"),
            evidence("arithmetic intensity of A and B", intensity, "FLOP/B"),
            evidence("ridge of this device in their dtype", ridge, "FLOP/B"),
            evidence(
                "A products that read an input another A reads too", len(spare) / max(len(case.sites), 1), "share"
            ),
        ],
        saved=saved.between(forward, saved) if saved and forward else None,
        remedies=(remedies.SHARED_A, remedies.SHARED_INPUT) if groups else (remedies.KEEP_RANK,),
        values={
            "shared": saved.at_most if saved else None,
            "groups": " and ".join("+".join(g) for g in groups),
            "free": f"; r up to {RANK} costs almost no time" if free else "",
        },
    )


class _Products(Struct, frozen=True):
    """A's and B's in the step; ``flops_per_s``: the device's rate for them, in the dtypes they have."""

    flops: int
    nbytes: int
    ns: int
    flops_per_s: float


def _products(case: Case) -> _Products | None:
    """None where there is none whose work is known, or the device's rate in their dtype is not."""
    flops = nbytes = spent_ns = 0
    compute_s = 0.0
    names, busy = case.analysis.trace.names, case.busy
    of_adapters = np.isin(case.ledger.role[busy.rows], [ROLE["adapter.down"], ROLE["adapter.up"]])
    for i in np.flatnonzero(of_adapters).tolist():
        work = busy.work[i]
        if work is None or not work.flops or not work.min_bytes or case.limits.ceiling is None:
            continue
        rate = case.limits.ceiling.flops_per_s.get(unit_of(work, names[int(case.ledger.name[busy.rows[i]])]))
        if not rate:
            return None
        flops, nbytes, spent_ns = flops + work.flops, nbytes + work.min_bytes, spent_ns + int(busy.ns[i])
        compute_s += work.flops / rate
    return _Products(flops, nbytes, spent_ns, flops / compute_s) if compute_s else None


def too_many_targets(case: Case) -> Seen | None:
    """L6: every linear is adapted, and launches follow the number of adapted layers."""
    launches = len(case.busy.rows)
    suffixes = sorted({s.path.rsplit(".", 1)[-1] for s in case.sites})
    if case.adapter is None or not launches or case.adapter.launches < LAUNCH_SHARE * launches:
        return None
    keep = next((p for p in ATTENTION_PAIRS if set(p) <= set(suffixes)), ())
    if not keep or len(suffixes) <= max(len(keep), 2):
        return None
    spared = {i for i, s in case.numbered_sites if s.path.rsplit(".", 1)[-1] not in keep}
    select = both(modules(case, lambda m: m.site in spared), roles(*ADAPTER_ROLES))
    return Seen(
        evidence=[
            evidence("adapted layers", len(case.sites), "layers"),
            evidence("layers that stay adapted", len(case.sites) - len(spared), "layers"),
            evidence("share of all launches that the adapters issue", case.adapter.launches / launches, "share"),
            evidence("time of the adapters that would go", total_ns(case, select), "ns"),
        ],
        saved=worth(case, select),
        remedies=(remedies.FEWER_TARGETS if len(keep) > 1 else replace(remedies.FEWER_TARGETS, arm=None),),
        values={"keep": repr(list(keep))},
    )


def _widens(record: Record) -> bool:
    return record.conversion is not None and record.conversion[0] in HALF_INPUTS


def _sharable(case: Case) -> tuple[set[int], list[tuple[str, ...]]]:
    """Adapted layers that read an input which another one reads already, and the groups that share one."""
    parents: dict[str, dict[str, int]] = {}
    for i, s in case.numbered_sites:
        parent, _, name = s.path.rpartition(".")
        parents.setdefault(parent, {})[name] = i
    whole = [(g, names) for g in SHARED_INPUT for names in parents.values() if set(g) <= names.keys()]
    return {names[name] for g, names in whole for name in g[1:]}, list(dict.fromkeys(g for g, _ in whole))


COSTS = (
    Rule(
        "L1",
        ADAPTER,
        elementwise,
        (remedies.FUSED, remedies.COMPILE, remedies.NO_DROPOUT_EITHER),
        thresholds={"share": ELEMENTWISE_SHARE, "streaming": STREAMING},
    ),
    Rule("L2", ADAPTER, fp32_adapters, (remedies.HALF_ADAPTERS, remedies.AUTOCAST, remedies.TENSOR_FLOAT)),
    Rule("L3", ADAPTER, undone_casts, (remedies.ONE_CAST, remedies.HALF_ADAPTERS)),
    Rule("L4", ADAPTER, dropout, (remedies.NO_DROPOUT,)),
    Rule(
        "L5",
        ADAPTER,
        bandwidth_bound,
        (remedies.SHARED_A, remedies.SHARED_INPUT, remedies.KEEP_RANK),
        thresholds={"share": GEMM_SHARE, "streaming": STREAMING, "ridge": RIDGE_SHARE},
        probe="rank",
    ),
    Rule("L6", ADAPTER, too_many_targets, (remedies.FEWER_TARGETS,), thresholds={"launches": LAUNCH_SHARE}),
)
