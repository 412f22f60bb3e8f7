"""What do two profiled arms say beyond their times? The waterfall, the findings on the pair, the prediction's error.

error = predicted (full - lora) / lora - measured (full - lora) / lora: judged on the difference, since the error of
the full step alone would look small for any constant guess.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from loraprof import units
from loraprof.analysis.comparison import (
    Timed,
    arm_result,
    ratios_of,
    recommend,
    recorded_ratio,
    steps_to_pay,
    with_ideal,
)
from loraprof.analysis.waterfall import Side, joint_means, waterfall
from loraprof.diagnosis.catalogue import entry
from loraprof.model.compare import ArmResult, Comparison, PredictedRatio, Ratio, Waterfall
from loraprof.model.report import Evidence, Finding, Report, Severity

OPTIMIZER_SHARE = 0.25  # of the full step, as G2 states it


@dataclass(frozen=True, slots=True)
class Profiled:
    """An arm's profile pass, and the steps that the same process timed without a profiler."""

    report: Report
    samples_ns: tuple[int, ...]


def pair_of(arms: Sequence[str]) -> tuple[str, str] | None:
    """From which arm to which the waterfall leads: full to LoRA where both are there, else first to last."""
    if len(arms) < 2:
        return None
    if "full" in arms and "lora" in arms:
        return "full", "lora"
    return arms[0], arms[-1]


def way(
    before: str,
    after: str,
    times: Mapping[str, Sequence[int]],
    profiled: Mapping[str, Profiled],
    paired: bool,
) -> Waterfall | None:
    """The waterfall between two arms, ``None`` where one has no profiled step."""
    if before not in profiled or after not in profiled:
        return None
    first, last = profiled[before], profiled[after]
    steps = first.report.step(), last.report.step()
    if steps[0] is None or steps[1] is None:
        return None
    means = joint_means(times[before], times[after], paired)
    own: tuple[int | None, int | None] = (None, None)
    if first.samples_ns and last.samples_ns:
        own = joint_means(first.samples_ns, last.samples_ns, False)
    return waterfall(Side(before, steps[0], means[0], own[0]), Side(after, steps[1], means[1], own[1]))


def pair_findings(profiled: Mapping[str, Profiled]) -> list[Finding]:
    """G findings of the arms' own reports, and what only the arms side by side show."""
    found = {f.id: f for p in profiled.values() for f in p.report.findings if f.id[0] == "G"}
    full = profiled["full"].report.step() if "full" in profiled else None
    if full is not None and full.wall_ns:
        share = full.ns(phase="optimizer") / full.wall_ns
        if share > OPTIMIZER_SHARE:
            seen = Evidence(what="optimizer share of the full step", value=round(share, 3), unit="share")
            found["G2"] = known("G2", "minor", [seen])
    return [found[key] for key in sorted(found)]


def known(id: str, severity: Severity, seen: list[Evidence]) -> Finding:
    """A finding with the catalogue's own words."""
    text = entry(id)
    return Finding(id=id, severity=severity, title=text.title, evidence=seen, remedy=text.remedy)


def predicted(profiled: Mapping[str, Profiled], arms: Mapping[str, ArmResult]) -> PredictedRatio | None:
    """What the LoRA recording alone says about full / lora; ``error`` where both were measured."""
    lora = profiled["lora"].report if "lora" in profiled else None
    if lora is None or lora.verdict.basis != "predicted" or lora.verdict.speedup_vs_full is None:
        return None
    ratio = lora.verdict.speedup_vs_full
    full_ns, lora_ns = (arms[name].median_ns if name in arms else None for name in ("full", "lora"))
    return PredictedRatio(full_over_lora=ratio, error=ratio - full_ns / lora_ns if full_ns and lora_ns else None)


def measured(
    workload: str,
    device_name: str,
    timed: Timed,
    facts: Mapping[str, ArmResult],
    tokens: Mapping[str, int | None],
    profiled: Mapping[str, Profiled],
    notes: Iterable[str],
) -> Comparison:
    """The comparison of arms that were timed in turn. ``facts`` hold what is known of an arm beside its times."""
    arms = with_ideal({name: _arm(name, timed, facts[name], tokens.get(name), profiled) for name in facts})
    ratios, floor = ratios_of(timed)
    pair = pair_of([name for name in facts if name in timed.series])
    times = {name: series.samples() for name, series in timed.series.items()}
    said = [f"stopped because {timed.stopped}", *_warm_up(timed), *timed.notes]
    compiling = _compiling(timed, arms)
    said += [compiling] if compiling else []
    if timed.rejected:
        said.append(f"{timed.rejected} blocks were redone: throttling, or clocks that differed by more than 2 %")
    return Comparison(
        workload=workload,
        device_name=device_name,
        arms=arms,
        ratios=ratios,
        noise_floor=floor,
        waterfall=way(*pair, times, profiled, paired=True) if pair else None,
        findings=pair_findings(profiled),
        predicted=predicted(profiled, arms),
        recommendation=recommend(ratios, timed.reference),
        notes=[*said, *notes],
    )


def _warm_up(timed: Timed) -> list[str]:
    if not timed.dropped:
        return []
    dropped = ", ".join(f"{name} {count}" for name, count in timed.dropped.items())
    return [f"warm-up steps that were dropped: {dropped}"]


def _compiling(timed: Timed, arms: Mapping[str, ArmResult]) -> str | None:
    """What the compiled arm's first steps took beyond its others: with warm caches, it was compiled before."""
    compiled, eager = arms.get("lora-compile"), arms.get("lora")
    spent_ns = timed.warm_up_ns.get("lora-compile")
    if spent_ns is None or compiled is None or eager is None or compiled.median_ns is None:
        return None
    cost_ns = spent_ns - timed.dropped["lora-compile"] * compiled.median_ns
    ratio = recorded_ratio("lora-compile", "lora", *(timed.series[arm].samples() for arm in ("lora-compile", "lora")))
    return paid_back(ratio, max(cost_ns, 0), eager.median_ns or 0, compiled.median_ns)


def paid_back(ratio: Ratio, cost_ns: int, eager_ns: int, compiled_ns: int) -> str:
    """When compiling pays, in words: ``ratio`` is that of the compiled arm to the other."""
    steps = steps_to_pay(cost_ns, eager_ns, compiled_ns)
    won = "may pay or not: the steps are not surely faster"
    if ratio.verdict == "slower":
        won = "never pays: the steps are slower"
    elif ratio.verdict == "faster" and steps is not None:
        won = f"pays after {units.count(steps)} steps"
    return f"{ratio.of} compiled for {units.ns(cost_ns)}; against {ratio.to} that {won}"


def _arm(name: str, timed: Timed, facts: ArmResult, tokens: int | None, profiled: Mapping[str, Profiled]) -> ArmResult:
    nvml = profiled[name].report.nvml if name in profiled else None
    facts = replace(facts, energy_j_per_step=nvml.energy_j_per_step if nvml else None)
    if name in timed.failed:
        failure = timed.failed[name]
        return replace(facts, status="oom", reason=failure.reason, peak_bytes=failure.peak_bytes or facts.peak_bytes)
    if name not in timed.series:
        return facts
    series = timed.series[name]
    times = arm_result(series.samples(), series.labels(), tokens)
    return replace(
        facts,
        median_ns=times.median_ns,
        mean_ns=times.mean_ns,
        low_ns=times.low_ns,
        high_ns=times.high_ns,
        steps=times.steps,
        tokens_per_s=times.tokens_per_s,
    )
