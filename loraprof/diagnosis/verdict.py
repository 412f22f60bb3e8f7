"""One sentence on top: what LoRA gains over full fine-tuning here, and where this step's time goes."""

from msgspec.structs import replace

from loraprof import units
from loraprof.analysis.prediction.counterfactual import Counterfactual
from loraprof.model.finding import Finding
from loraprof.model.fix import Fix
from loraprof.model.report import Adapter, Proven, Step, TimingReport, Verdict
from loraprof.model.vocabulary import ADAPTER_ROLES, Role

SURE = 1.005  # low end of a speed-up that is one
TOO_WIDE = 2.5  # high / low of a predicted speed-up that says nothing, unless all of it lies on one side of 1
_HOST = ("Python between the ops", "a device that waits for the host")
_WAIT = ("waiting for data or other ranks", "waiting for data or a synchronisation")
_QUEUE = ("gaps without a known cause", "gaps between queued kernels")
_UNKNOWN = ("gaps without a known cause", "gaps without a known cause")
GROUPS: dict[str, tuple[Role, ...]] = {
    "attention": ("attention", "position"),
    "norms, activations and additions": ("norm", "activation", "residual", "dropout", "pooling"),
    "embedding, head and loss": ("embedding", "head", "loss"),
    "the optimizer and clipping": ("optimizer", "grad_clip"),
    "communication": ("comm",),
    "expanding quantised weights": ("dequant",),
    "copies": ("copy",),
    "work of unknown role": ("other",),
}
IDLE = {  # idle cause: words on a CPU, on a GPU
    **dict.fromkeys(("python", "framework", "launch_api", "launch_latency"), _HOST),
    **dict.fromkeys(("sync", "data", "allocator"), _WAIT),
    **dict.fromkeys(("turnaround", "queued"), _QUEUE),
    **dict.fromkeys(("profiler", "unknown"), _UNKNOWN),
}


def _where(step: Step | None, adapter: Adapter | None, timing: TimingReport, unprofiled: bool) -> str:
    """Shares of the step: as it runs without the profiler where ``unprofiled``."""
    if step is None or not step.wall_ns:
        return "The trace holds no step to explain."
    linears = "the frozen linear layers" if adapter is not None else "the linear layers"
    parts: dict[str, float] = {linears: step.ns(kind="busy", role="base.linear")}
    for group, roles in GROUPS.items():
        parts[group] = sum(step.ns(kind="busy", role=role) for role in roles)
    adapted = sum(step.ns(kind="busy", role=r) for r in ADAPTER_ROLES)
    if adapter is not None:
        parts["the adapter path"] = adapted
    parts["everything else"] = step.ns(kind="busy") - sum(parts.values())
    for p in step.partition:
        if p.kind == "idle":
            name = IDLE[p.cause or "unknown"][step.launches is not None]
            parts[name] = parts.get(name, 0) + p.ns
    for name, sign in ((_HOST[1], -1), (_QUEUE[1], 1)) if step.held_ns else ():
        parts[name] = parts.get(name, 0) + sign * step.held_ns
    ranked = sorted(((ns, name) for name, ns in parts.items() if ns), reverse=True)[:3]
    shares = [f"{units.percent(ns / step.wall_ns)} to {name}" for ns, name in ranked]
    sentence = ", ".join(shares).replace(" to ", " goes to ", 1)
    extra = ""
    if adapter is not None and parts[linears]:
        times = adapted / parts[linears]
        extra = f" The adapters take {units.ratio(times, 2 if times < 10 else 0)} the frozen layers' own time."
    return f"Of {_which_step(timing, unprofiled)}, {sentence}.{extra}"


def _which_step(timing: TimingReport, unprofiled: bool) -> str:
    """Which step the shares are of: a reader takes them for those of the step that runs without a profiler."""
    if unprofiled:
        return "this step without the profiler"
    if timing.inflation is None:
        return "this step"
    return f"this step under the profiler, which takes {units.ratio(timing.inflation)} the time it does without"


def limiting(found: list[Finding]) -> str | None:
    """The first cause, by gain, whose remedy gains something at the low end of its interval too; else the first.

    None where there are several and no gain is known: they stand in no order then. A minor cause of unknown gain limits
    nothing.
    """
    causes = [f for f in found if f.is_cause and (f.gain is not None or f.severity != "minor")]
    if len(causes) > 1 and all(f.gain is None for f in causes):
        return None
    sure = (f.id for f in causes if f.gain is not None and f.gain.low > SURE)
    return next(sure, causes[0].id if causes else None)


def advice(found: list[Finding]) -> str | None:
    """What limits the step, and the change that surely gains most: one that changes what is trained only where no other
    does."""
    cause = limiting(found)
    if cause is None:
        return None
    text = f"Limited by: {next(f.title for f in found if f.id == cause)} ({cause})."
    sure = [(f.id, r, r.gain) for f in found if f.is_cause for r in f.remedies if r.gain and r.gain.low > SURE]
    keeping = [one for one in sure if one[1].kind != "other_training"]
    best = max(keeping or sure, key=lambda one: one[2].low, default=None)
    if best is None:
        return text
    id, remedy, gain = best
    how = "Without changing what is trained" if keeping else "Changing what is trained"
    worth = units.gain_interval(gain.speedup, gain.low, gain.high)
    return f"{text} {how}, most is gained by: {remedy.text} ({id}, {worth}, {gain.basis})."


def verdict(
    step: Step | None,
    adapter: Adapter | None,
    timing: TimingReport,
    predicted: Counterfactual | None,
    found: list[Finding],
    unclear: str | None = None,
    uncounted_bytes: int | None = None,
    unprofiled: bool = False,
) -> Verdict:
    """The predicted speed-up with its interval where the recording allows one; never a number without it.

    ``unprofiled``: ``step`` is the one that runs without the profiler. ``uncounted_bytes``: gradients that full
    fine-tuning would also reduce, in a time that is not known.
    """
    cause = limiting(found)
    where = " ".join(filter(None, (_where(step, adapter, timing, unprofiled), advice(found))))
    plain = Verdict(sentence=where, limiting_cause=cause, unclear=unclear)
    if predicted is None or timing.unprofiled is None:
        return plain
    now = timing.unprofiled.median_ns
    speedup, low, high = predicted.full_ns / now, predicted.full.low / now, predicted.full.high / now
    ideal = predicted.full_ns / max(min(predicted.frozen_ns, now), 1)  # a free adapter makes no step longer
    if low <= 0 or (high > TOO_WIDE * low and low <= 1 <= high):
        text = "The full step is predicted too widely to say which is faster: measure both (loraprof compare)."
        return replace(plain, sentence=f"{plain.sentence} {text}", ideal_speedup=ideal)
    word = "faster than" if low > 1 else "slower than" if high < 1 else "not clearly different from"
    decimals = units.interval_decimals(low, high, least=1, most=2)
    text = (
        f"LoRA is predicted {word} full fine-tuning here: {units.ratio(speedup, decimals)} "
        f"[{units.ratio(low, decimals)}, {units.ratio(high, decimals)}] its speed, at most "
        f"{units.ratio(ideal, decimals)} if the adapters were free{_uncounted(uncounted_bytes)}. {plain.sentence}"
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


def proven(found: Fix) -> Proven | None:
    """The fastest of what helped and kept the loss; None where nothing did."""
    kept = [([t.arm], t.measured) for t in found.remedies if t.status == "kept" and t.measured]
    if found.together:
        kept.append((list(found.together.arms), found.together.measured))
    if not kept:
        return None
    arms, m = min(kept, key=lambda pair: pair[1].ratio)
    return Proven(arms=arms, speedup=1 / m.ratio, low=1 / m.high, high=1 / m.low)


def with_proof(verdict: Verdict, best: Proven) -> Verdict:
    speed = units.ratio_interval(best.speedup, best.low, best.high, most=2)
    measured = f"Measured by loraprof fix: {speed} the speed with {' and '.join(best.arms)}."
    return replace(verdict, sentence=f"{verdict.sentence} {measured}", proven=best)


def _uncounted(uncounted_bytes: int | None) -> str:
    if not uncounted_bytes:
        return ""
    return f"; the {units.nbytes(uncounted_bytes)} of gradients that full fine-tuning also reduces are not counted"
