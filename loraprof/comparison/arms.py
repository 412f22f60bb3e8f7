"""What do two profiled arms say beyond their times? The waterfall, the findings on the pair, the prediction's error.

error = predicted (full - lora) / lora - measured (full - lora) / lora: judged on the difference, since the error of
the full step alone would look small for any constant guess.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Final

from msgspec.structs import replace

from loraprof import units
from loraprof.comparison import compiling
from loraprof.comparison.differences import Profiled, different
from loraprof.comparison.ratios import Timed, arm_result, estimate, ideal, ratios_of
from loraprof.comparison.recommendation import recommend
from loraprof.comparison.waterfall import Side, joint_means, waterfall
from loraprof.diagnosis.findings.comparability import OPTIMIZER_DECIDES, OPTIMIZER_SHARE
from loraprof.diagnosis.judge import rule_of
from loraprof.model.compare import ArmResult, Comparison, PredictedRatio, Waterfall
from loraprof.model.finding import Evidence, Finding, Severity

DISTURBED: Final = 0.10  # that a profile pass may differ from the timed steps
SEVERITIES: Final[tuple[Severity, ...]] = ("info", "minor", "major", "blocker")


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


def pair_findings(profiled: Mapping[str, Profiled], differing: Sequence[Finding]) -> list[Finding]:
    """``apart``: how the arms differ. With the G findings of their own reports, and what only both together show.

    Those that forbid the comparison come first; one that several arms share is shown once, at its gravest.
    """
    found: dict[str, list[tuple[str, Finding]]] = {}
    for name, one in profiled.items():
        for finding in one.report.findings:
            if rule_of(finding).family.gate:
                found.setdefault(finding.id, []).append((name, finding))
    shared = [_shared(same) for same in found.values()]
    full = profiled["full"].report.step() if "full" in profiled else None
    if full is not None and full.wall_ns:
        share = full.ns(phase="optimizer") / full.wall_ns
        if share > OPTIMIZER_SHARE:
            seen = Evidence(what="optimizer share of the full step", value=round(share, 3), unit="share")
            rest = [f for f in shared if rule_of(f) is not OPTIMIZER_DECIDES]
            shared = [OPTIMIZER_DECIDES.stated("minor", [seen]), *rest]
    return sorted([*differing, *shared], key=lambda f: (f.severity != "blocker", f.id))


def _shared(same: Sequence[tuple[str, Finding]]) -> Finding:
    worst = max((finding for _, finding in same), key=lambda f: SEVERITIES.index(f.severity))
    where = Evidence(what="in", value=", ".join(name for name, _ in same), unit="")
    return replace(worst, evidence=[where, *worst.evidence])


def predicted(profiled: Mapping[str, Profiled], arms: Mapping[str, ArmResult], timed: Timed) -> PredictedRatio | None:
    """What the LoRA recording alone says about full / lora; ``error`` where both were measured, in pairs."""
    lora = profiled["lora"].report.verdict if "lora" in profiled else None
    if lora is None or lora.basis != "predicted" or lora.speedup_vs_full is None:
        return None
    ratio = lora.speedup_vs_full
    both = {"full", "lora"} <= timed.series.keys()
    seen = estimate(timed.series["full"], timed.series["lora"]).ratio if both else None
    return PredictedRatio(
        full_over_lora=ratio,
        low=lora.speedup_low,
        high=lora.speedup_high,
        error=ratio - seen if seen is not None else None,
        disturbed="lora" in disturbed(profiled, arms),
    )


def disturbed(profiled: Mapping[str, Profiled], arms: Mapping[str, ArmResult]) -> dict[str, float]:
    """Arms whose profile pass ran at another speed than the timed steps, and its time over theirs, unprofiled.

    Something else was going on meanwhile.
    """
    timed_ns = {name: arms[name].median_ns for name in profiled}
    shares = {name: median(one.samples_ns) / (timed_ns[name] or math.nan) for name, one in profiled.items()}
    return {name: share for name, share in shares.items() if abs(math.log(share)) > math.log1p(DISTURBED)}


def _disturbed(shares: Mapping[str, float]) -> list[str]:
    if not shares:
        return []
    seen = ", ".join(f"{name} {units.ratio(share)}" for name, share in shares.items())
    return [f"disturbed profile pass, the same steps took another time in it: {seen}; read the bars with care"]


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
    arms = {name: _arm(name, timed, facts[name], tokens.get(name), profiled) for name in facts}
    ratios, floor = ratios_of(timed)
    pair = pair_of([name for name in facts if name in timed.series])
    both = [(name, profiled[name]) for name in pair or () if name in profiled]
    differing = different(*both[0], *both[1]) if len(both) == 2 else None
    times = {name: series.samples() for name, series in timed.series.items()}
    lines = [f"stopped because {timed.stopped}", *_warm_up(timed), *timed.notes, *_diverged(arms)]
    paid = compiling.measured(timed, arms)
    lines += [paid] if paid else []
    if timed.rejected:
        lines.append(f"{timed.rejected} blocks were redone: throttling, or clocks that differed by more than 2 %")
    return Comparison(
        workload=workload,
        device_name=device_name,
        arms=arms,
        ratios=ratios,
        noise_floor=floor,
        waterfall=way(*pair, times, profiled, paired=True) if pair else None,
        findings=pair_findings(profiled, [differing] if differing else []),
        predicted=predicted(profiled, arms, timed),
        ideal=ideal(timed),
        recommendation=recommend(ratios, timed.reference, arms),
        notes=[*lines, *_disturbed(disturbed(profiled, arms)), *notes],
    )


def _warm_up(timed: Timed) -> list[str]:
    if not timed.dropped:
        return []
    dropped = ", ".join(f"{name} {count}" for name, count in timed.dropped.items())
    return [f"warm-up steps that were dropped: {dropped}"]


def _diverged(arms: Mapping[str, ArmResult]) -> list[str]:
    names = [name for name, arm in arms.items() if arm.loss_finite is False]
    return [f"not finite is the loss of {', '.join(names)}: the time of such a step says nothing"] if names else []


def _arm(name: str, timed: Timed, facts: ArmResult, tokens: int | None, profiled: Mapping[str, Profiled]) -> ArmResult:
    nvml = profiled[name].report.nvml if name in profiled else None
    finite = False if name in timed.diverged else facts.loss_finite
    facts = replace(facts, energy_j_per_step=nvml.energy_j_per_step if nvml else None, loss_finite=finite)
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
