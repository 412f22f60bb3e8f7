"""When does compiling pay? Its cost, spent once, against what every step gains."""

from collections.abc import Mapping, Sequence

from loraprof import units
from loraprof.analysis.statistics import median_interval
from loraprof.comparison.differences import Profiled
from loraprof.comparison.ratios import Timed, recorded_ratio, steps_to_pay
from loraprof.model.compare import ArmResult, Ratio


def measured(timed: Timed, arms: Mapping[str, ArmResult]) -> str | None:
    """What the compiled arm's first steps took beyond its others: with warm caches, it was compiled before."""
    compiled, eager = arms.get("lora-compile"), arms.get("lora")
    spent_ns = timed.warm_up_ns.get("lora-compile")
    if spent_ns is None or compiled is None or eager is None or compiled.median_ns is None:
        return None
    cost_ns = spent_ns - timed.dropped["lora-compile"] * compiled.median_ns
    ratio = recorded_ratio("lora-compile", "lora", *(timed.series[arm].samples() for arm in ("lora-compile", "lora")))
    return paid_back(ratio, max(cost_ns, 0), eager.median_ns or 0, compiled.median_ns)


def recorded(loaded: Sequence[tuple[str, Profiled]]) -> list[str]:
    """Every compiled recording against the first that is not."""
    eager = next(((name, one) for name, one in loaded if one.recording.compilation is None), None)
    notes = []
    for name, one in loaded if eager is not None else ():
        found = one.recording.compilation
        if found is not None and eager is not None:
            times, base = one.samples_ns, eager[1].samples_ns
            cost_ns = sum(p.compile_ns for p in found.passes)
            ratio = recorded_ratio(name, eager[0], times, base)
            notes.append(paid_back(ratio, cost_ns, median_interval(base)[0], median_interval(times)[0]))
    return notes


def paid_back(ratio: Ratio, cost_ns: int, eager_ns: int, compiled_ns: int) -> str:
    """In words: ``ratio`` is that of the compiled arm to the other."""
    steps = steps_to_pay(cost_ns, eager_ns, compiled_ns)
    won = "may pay or not: the steps are not surely faster"
    if ratio.verdict == "slower":
        won = "never pays: the steps are slower"
    elif ratio.verdict == "faster" and steps is not None:
        won = f"pays after {units.count(steps)} steps"
    return f"{ratio.of} compiled for {units.ns(cost_ns)}; against {ratio.to} that {won}"
