"""One sentence on top: what LoRA gains over full fine-tuning here, and where this step's time goes."""

from msgspec.structs import replace

from loraprof import units
from loraprof.diagnosis.counterfactual import Counterfactual
from loraprof.model.report import Adapter, Finding, Step, TimingReport, Verdict
from loraprof.model.vocabulary import ADAPTER_ROLES

TOO_WIDE = 2.5  # high / low of a predicted speed-up that says nothing


def _where(step: Step | None, adapter: Adapter | None) -> str:
    """From the reported step alone; shares are of its profiled window."""
    if step is None or not step.wall_ns:
        return "The trace holds no step to explain."
    wall = step.wall_ns
    idle = step.ns(kind="idle")
    linears = "the frozen linear layers" if adapter is not None else "the linear layers"
    parts = {linears: step.ns(kind="busy", role="base.linear")}
    parts["attention"] = step.ns(kind="busy", role="attention")
    parts["the optimizer and clipping"] = step.ns(kind="busy", phase="optimizer")
    parts["waiting"] = idle
    if adapter is not None:
        parts["the adapter path"] = sum(step.ns(kind="busy", role=r) for r in ADAPTER_ROLES)
    parts["other work"] = wall - sum(parts.values())
    ranked = sorted(((ns, name) for name, ns in parts.items() if ns), reverse=True)[:3]
    shares = ", ".join(f"{units.percent(ns / wall)} to {name}" for ns, name in ranked)
    base = parts[linears]
    extra = ""
    if adapter is not None and base:
        extra = f" The adapter adds {units.percent(adapter.busy_ns / base)} on top of the frozen layers' own work."
    return f"Of this step, {shares}.{extra}"


def verdict(
    step: Step | None,
    adapter: Adapter | None,
    timing: TimingReport,
    other: Counterfactual | None,
    found: list[Finding],
    unclear: str | None = None,
) -> Verdict:
    """The predicted speed-up with its interval where the recording allows one; never a number without it."""
    cause = next((f.id for f in found if f.id[0] != "G" and f.severity != "info"), None)
    plain = Verdict(sentence=_where(step, adapter), limiting_cause=cause, unclear=unclear)
    if other is None or timing.unprofiled is None:
        return plain
    now = timing.unprofiled.median_ns
    speedup, low, high = other.full_ns / now, other.full.low / now, other.full.high / now
    ideal = other.full_ns / max(other.frozen_ns, 1)
    if low <= 0 or high > TOO_WIDE * low:
        text = "The unprofiled steps vary too much to predict the full step: time more of them (--timed)."
        return replace(plain, sentence=f"{plain.sentence} {text}", ideal_speedup=ideal)
    word = "faster than" if low > 1 else "slower than" if high < 1 else "not clearly different from"
    decimals = units.interval_decimals(low, high, least=1, most=2)
    text = (
        f"LoRA is predicted {word} full fine-tuning here: {units.ratio(speedup, decimals)} "
        f"[{units.ratio(low, decimals)}, {units.ratio(high, decimals)}] its speed, at most "
        f"{units.ratio(ideal, decimals)} if the adapters were free. {plain.sentence}"
    )
    return replace(
        plain,
        sentence=text,
        speedup_vs_full=speedup,
        speedup_low=low,
        speedup_high=high,
        basis="predicted",
        ideal_speedup=ideal,
    )
