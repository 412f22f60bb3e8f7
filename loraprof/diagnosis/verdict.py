"""One sentence that answers: where does this LoRA step's time go?"""

from loraprof import units
from loraprof.model.report import Adapter, Step, TimingReport
from loraprof.model.vocabulary import ADAPTER_ROLES


def sentence(step: Step | None, adapter: Adapter | None, timing: TimingReport) -> str:
    """From the reported step alone; shares are of its profiled window."""
    if step is None or not step.wall_ns:
        return "The trace holds no step to explain."
    wall = step.wall_ns
    idle = step.ns(kind="idle")
    parts = {"the frozen linear layers": step.ns(kind="busy", role="base.linear")}
    parts["attention"] = step.ns(kind="busy", role="attention")
    parts["the optimizer and clipping"] = step.ns(kind="busy", phase="optimizer")
    parts["waiting"] = idle
    if adapter is not None:
        parts["the adapter path"] = sum(step.ns(kind="busy", role=r) for r in ADAPTER_ROLES)
    ranked = sorted(((ns, name) for name, ns in parts.items() if ns), reverse=True)[:3]
    shares = ", ".join(f"{units.percent(ns / wall)} to {name}" for ns, name in ranked)
    base = parts["the frozen linear layers"]
    extra = ""
    if adapter is not None and base:
        extra = f" The adapter adds {units.percent(adapter.busy_ns / base)} on top of the frozen layers' own work."
    return f"Of this step, {shares}.{extra}"
