"""Which step is a page of? The one that runs without the profiler, where it is known: every time on the page is its.

The report keeps the profiled step; here its reported step gives way to the unprofiled one, and what is known of its
kernels, modules and bytes is scaled role by role to that step's partition, so that tables add up to what bars show. On
a GPU, whose kernels take as long either way, that changes idle time alone.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from typing import TypeVar

from msgspec.structs import replace

from loraprof.model.report import Adapter, Kernel, ModuleRow, Part, Report, Step, Traffic
from loraprof.model.vocabulary import ADAPTER_ROLES

Key = TypeVar("Key", bound=Hashable)


def as_profiled(report: Report) -> Report:
    """The report whose page is of the profiled step."""
    return replace(report, unprofiled=None)


def as_it_runs(report: Report) -> Report:
    """The report with the unprofiled step in the reported one's place; itself where that is not known."""
    profiled, plain = report.step(), report.plain_step()
    if profiled is None or plain is None:
        return report
    busy = _ratios(*(_sums(step, "busy", lambda p: (p.phase, p.role)) for step in (profiled, plain)))
    by_role, waits = (
        _ratios(*(_sums(step, kind, lambda p: p.role) for step in (profiled, plain))) for kind in ("busy", "idle")
    )
    return replace(
        report,
        steps=[plain if step.name == plain.name else step for step in report.steps],
        kernels=[_kernel(k, busy.get((k.phase, k.role), 1.0)) for k in report.kernels],
        modules=[_module(m, by_role.get(m.role, 1.0), waits.get(m.role, 1.0)) for m in report.modules],
        adapter=_adapter(report.adapter, plain) if report.adapter else None,
        traffic=[_traffic(t, by_role.get(t.role, 1.0)) for t in report.traffic] if report.traffic else report.traffic,
    )


def _sums(step: Step, kind: str, key: Callable[[Part], Key]) -> Counter[Key]:
    """Time of the parts of a kind, ns by ``key``."""
    sums = Counter[Key]()
    for part in step.partition:
        if part.kind == kind:
            sums[key(part)] += part.ns
    return sums


def _ratios(before: Counter[Key], after: Counter[Key]) -> dict[Key, float]:
    return {key: after[key] / ns for key, ns in before.items() if ns}


def _kernel(k: Kernel, ratio: float) -> Kernel:
    """What share of its roof it reached is known of the profiled time alone, and stays."""
    if ratio == 1.0:
        return k
    roof = None if k.roof_ns is None else round(k.roof_ns * ratio)
    return replace(k, total_ns=round(k.total_ns * ratio), roof_ns=roof)


def _module(m: ModuleRow, busy: float, idle: float) -> ModuleRow:
    return replace(m, busy_ns=round(m.busy_ns * busy), idle_ns=round(m.idle_ns * idle))


def _traffic(t: Traffic, ratio: float) -> Traffic:
    return replace(t, busy_ns=round(t.busy_ns * ratio), covered_ns=round(t.covered_ns * ratio))


def _adapter(a: Adapter, plain: Step) -> Adapter:
    busy, idle = (sum(plain.ns(kind=kind, role=role) for role in ADAPTER_ROLES) for kind in ("busy", "idle"))
    return replace(a, busy_ns=busy, idle_ns=idle)
