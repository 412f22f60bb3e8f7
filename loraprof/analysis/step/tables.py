"""The report's tables of the reported step: kernels, modules, the adapter, memory, clocks."""

from collections import defaultdict

import numpy as np

from loraprof.analysis.analyse import Analysis
from loraprof.analysis.costmodel.variants import detect_variant
from loraprof.analysis.partition.ledger import Ledger
from loraprof.analysis.step.best_times import Limits
from loraprof.analysis.step.busy import Busy
from loraprof.model.recording import AdapterSite, Nvml, Recording
from loraprof.model.report import Adapter, AdapterLayer, Kernel, MemoryReport, ModuleRow, NvmlReport, Savings
from loraprof.model.trace import NONE
from loraprof.model.vocabulary import ADAPTER_ROLES, PHASES, ROLES


def kernels(analysis: Analysis, ledger: Ledger, busy: Busy, limits: Limits) -> list[Kernel]:
    """By (name, role, phase, module), longest first."""
    groups: dict[tuple[int, int, int, int], list[int]] = defaultdict(list)
    key = zip(*(c[busy.rows].tolist() for c in (ledger.name, ledger.role, ledger.phase, ledger.module)), strict=True)
    for i, k in enumerate(key):
        groups[k].append(i)
    took_ns: list[int] = busy.ns.tolist()
    out = []
    for (name, role, phase, module), members in groups.items():
        known = [w for w in (busy.work[i] for i in members) if w is not None]
        total_ns = sum(took_ns[i] for i in members)
        roof_ns, bound, note, l2_bytes = limits.over(members, total_ns)
        out.append(
            Kernel(
                name=analysis.trace.names[name],
                role=ROLES[role],
                phase=PHASES[phase],
                module=analysis.attribution.paths[module] if module != NONE else None,
                count=len(members),
                total_ns=total_ns,
                flops=sum(w.flops for w in known) if known else None,
                min_bytes=sum(w.min_bytes for w in known) if known else None,
                roof_ns=roof_ns,
                bound=bound,
                note=note,
                l2_bytes=l2_bytes,
                op=busy.op[members[0]],
            )
        )
    return sorted(out, key=lambda k: (-k.total_ns, k.name, k.role, k.phase, k.module or ""))


def modules(analysis: Analysis, ledger: Ledger, busy: Busy) -> list[ModuleRow]:
    """Own time by (module, role), busiest first. ``launches`` counts device records, on CPU leaf ops."""
    busy_ns: dict[tuple[int, int], int] = defaultdict(int)
    idle_ns: dict[tuple[int, int], int] = defaultdict(int)
    launches: dict[tuple[int, int], int] = defaultdict(int)
    columns = zip(ledger.module.tolist(), ledger.role.tolist(), ledger.busy.tolist(), ledger.ns.tolist(), strict=True)
    for module, role, is_busy, ns in columns:
        (busy_ns if is_busy else idle_ns)[module, role] += ns
    for i in busy.rows.tolist():
        launches[int(ledger.module[i]), int(ledger.role[i])] += 1
    rows = [
        ModuleRow(
            path=analysis.attribution.paths[m],
            role=ROLES[r],
            busy_ns=busy_ns[m, r],
            idle_ns=idle_ns[m, r],
            launches=launches[m, r],
        )
        for m, r in {*busy_ns, *idle_ns}
        if m != NONE
    ]
    return sorted(rows, key=lambda r: (-r.busy_ns - r.idle_ns, r.path, r.role))


def adapter(analysis: Analysis, ledger: Ledger, table: list[Kernel], busy: Busy) -> Adapter | None:
    """The adapter path of the reported step. None: no adapted layer is known, or not what it ran."""
    recording = analysis.recording
    sites = [s for s in analysis.attribution.sites if s.active]
    roles = [ROLES.index(r) for r in ADAPTER_ROLES]
    of_adapter = np.isin(ledger.role, roles)
    if not analysis.attribution.marked or (not sites and not of_adapter.any()):
        return None
    ranks = {s.rank for s in sites}
    dtypes, base_dtypes = {s.dtype for s in sites}, {s.base_dtype for s in sites}
    own = [k for k in table if k.role in ADAPTER_ROLES]
    flops = [k.flops for k in own if k.flops is not None]
    moved = [k.min_bytes for k in own if k.min_bytes is not None]
    counts: dict[str, int] = defaultdict(int)
    for s in sites:
        counts[str(s.rank)] += 1
    return Adapter(
        modules=len(sites),
        rank=next(iter(ranks)) if len(ranks) == 1 else None,
        ranks=dict(counts) if len(ranks) > 1 else None,
        dtype=next(iter(dtypes)) if len(dtypes) == 1 else None,
        base_dtype=next(iter(base_dtypes)) if len(base_dtypes) == 1 else None,
        busy_ns=int(ledger.ns[of_adapter & ledger.busy].sum()),
        idle_ns=int(ledger.ns[of_adapter & ~ledger.busy].sum()),
        launches=int(np.isin(ledger.role[busy.rows], roles).sum()),
        min_bytes=sum(moved) if moved else None,
        flops=sum(flops) if flops else None,
        savings=Savings(),
        predicted_full_ns=None,
        predicted_frozen_ns=None,
        sites=[AdapterLayer(path=s.path, kind=s.kind, rank=s.rank, how=s.how) for s in sites],
        variant=_variant(sites, recording),
    )


def _variant(sites: list[AdapterSite], recording: Recording | None) -> str | None:
    """None without a recording, where layers differ, or run a graph of their own; under autocast too, which may be
    told not to cast the input (V3b): what is installed does not say."""
    if recording is None:
        return None
    autocast = recording.workload.autocast
    found = {detect_variant(s.dtype, s.base_dtype, autocast, s.dropout) if s.kind == "lora" else None for s in sites}
    return next(iter(found)) if len(found) == 1 and found <= {"V1", "V2", "V5", "V6"} else None


def memory(recording: Recording | None) -> MemoryReport | None:
    m = recording.memory if recording else None
    if m is None:
        return None
    return MemoryReport(
        peak_bytes=m.peak_bytes,
        reserved_bytes=m.reserved_bytes,
        allocator_retries=m.allocator_retries,
        weights_bytes=m.weights_bytes,
        gradients_bytes=m.gradients_bytes,
        optimizer_bytes=m.optimizer_bytes,
        activations_bytes=m.activations_bytes,
    )


REASONS = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal",
    0x40: "hardware thermal",
    0x80: "power brake",
}


def nvml(sampled: Nvml | None, step_ns: int | None = None) -> NvmlReport | None:
    """Means over the loop; a reason counts when it shows in at least two samples.

    Energy per step is the loop's mean power times ``step_ns``, the timed step: the loop's own steps may take longer.
    """
    if sampled is None:
        return None

    def mean(field: str, scale: float = 1.0) -> float | None:
        values = [getattr(s, field) for s in sampled.samples if getattr(s, field) is not None]
        return sum(values) / len(values) * scale if values else None

    bits = [s.reasons for s in sampled.samples if s.reasons is not None]
    throttle = [text for bit, text in REASONS.items() if sum(bool(b & bit) for b in bits) >= 2]
    energy, took = sampled.energy_mj, sampled.loop_ns / sampled.steps if sampled.steps else None
    scale = step_ns / took if step_ns and took else 1.0
    return NvmlReport(
        samples=len(sampled.samples),
        energy_j_per_step=scale * energy / 1000 / sampled.steps if energy is not None and sampled.steps else None,
        sampled_step_ns=round(took) if took else None,
        power_w=mean("power_mw", 1e-3),
        power_limit_w=sampled.power_limit_mw / 1000 if sampled.power_limit_mw is not None else None,
        sm_clock_mhz=mean("sm_clock_mhz"),
        sm_clock_max_mhz=sampled.sm_clock_max_mhz,
        utilization=mean("utilization", 0.01),
        throttle=throttle if bits else None,
        tensor_active=sampled.tensor_active,
        dram_active=sampled.dram_active,
    )
