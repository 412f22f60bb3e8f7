"""The arms of a workload or script: measured in turn, then profiled, each in a process of its own."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from loraprof import units
from loraprof.comparison.arms import measured, pair_of
from loraprof.comparison.differences import Profiled
from loraprof.comparison.recordings import load_recorded
from loraprof.errors import LoraprofError, UsageError
from loraprof.live_remedies.catalogue import REMEDIES, is_remedy
from loraprof.model.compare import Comparison
from loraprof.model.workload import WorkloadSpec
from loraprof.runs.compare.alternate import STEPS, WARM_UP, alternate
from loraprof.runs.compare.extras import Extras, with_iso_memory, with_quality
from loraprof.runs.compare.job import Job, Outcome
from loraprof.runs.compare.measure import PEAK_OF_PROCESS, Measured, measure_arms, nothing_runs
from loraprof.runs.compare.workers import profile_pass, run_job, settings
from loraprof.store.leftovers import scratch
from loraprof.store.specs import did_you_mean, workload_names
from loraprof.workloads.apply import SCRIPT_ARMS
from loraprof.workloads.arms import ARMS, resolve_arm

TIMED = 20  # unprofiled steps of a built-in workload's profile pass
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Target:
    """What ``profile`` is called with for an arm: options, then the target."""

    name: str
    options: tuple[str, ...]
    words: tuple[str, ...]


def arm_names(text: str | None, default: Sequence[str], script: bool) -> list[str]:
    """``--arms``, checked before anything runs. Raises UsageError that names the closest arm."""
    names = [name.strip() for name in text.split(",")] if text else list(default)
    for name in names:
        if script and name not in SCRIPT_ARMS and not is_remedy(name):
            if name.partition(":")[0] in ARMS:
                raise UsageError(f"arm {name} is for built-in workloads", f"a script has {', '.join(SCRIPT_ARMS)}")
            raise UsageError(f"no arm {name!r}", did_you_mean(name, (*SCRIPT_ARMS, *REMEDIES)))
        if not script:
            resolve_arm(name)
        if names.count(name) > 1:
            raise UsageError(f"arm {name} is named twice", "the first arm is run against itself in every comparison")
    if len(names) < 2:
        raise UsageError(f"one arm, {names[0]}, cannot be compared", "name two: --arms full,lora")
    return names


def compare_builtin(
    spec: WorkloadSpec, arms: Sequence[str], overrides: dict[str, Any], budget_ns: int, extras: Extras, say: Say
) -> Comparison:
    """Arms of a built-in workload."""
    say(
        f"plan: {', '.join(arms)} of {spec.name}: each alone for its memory, together in turn for at most "
        f"{units.ns(budget_ns)}, then a profile pass of each that the waterfall needs"
    )
    found = measure_arms(spec, arms, budget_ns, say)
    result = _compared(found, Target(spec.name, ("--timed", str(TIMED), *settings(overrides)), (spec.name,)), say)
    if extras.quality_steps:
        result = with_quality(result, spec, extras.quality_steps, say)
    if extras.iso_bytes:
        result = with_iso_memory(result, spec, extras.iso_bytes, say)
    return result


def compare_script(target: list[str], module: bool, arms: Sequence[str], budget_ns: int, say: Say) -> Comparison:
    """Arms of an unmodified script: processes of its own for every round."""
    if not module and not Path(target[0]).is_file():
        raise UsageError(f"{target[0]}: no such script or workload", did_you_mean(target[0], workload_names()))
    say(
        f"plan: {', '.join(arms)} of {target[0]}: processes of {WARM_UP + STEPS + 1} steps in alternating order for "
        f"{units.ns(budget_ns)}, at least two of each, then a profile pass of each that the waterfall needs"
    )

    def start(arm: str) -> Outcome:
        return run_job(Job(arm=arm, target=target, module=module, warmup=WARM_UP, steps=STEPS))

    timed, last = alternate(arms, start, budget_ns, progress=say)
    if not timed.series:
        _raise_nothing(last)
    on_cpu = all(outcome.device == "cpu" for outcome in last.values())
    found = Measured(timed, {arm: last[arm] for arm in arms}, [PEAK_OF_PROCESS] if on_cpu else [])
    return _compared(found, Target(Path(target[0]).name, ("-m",) if module else (), tuple(target)), say)


def _raise_nothing(outcomes: dict[str, Outcome]) -> None:
    """A script that fails by itself keeps its own exit code."""
    error = nothing_runs(outcomes)
    failed = [o.exit_code for o in outcomes.values() if o.failed]
    if not failed:
        raise error
    typer.echo(f"loraprof: {error.message}", err=True)
    raise typer.Exit(failed[0])


def _compared(found: Measured, target: Target, say: Say) -> Comparison:
    live = [name for name in found.outcomes if name in found.timed.series]
    first = found.outcomes[live[0]]
    on_gpu = first.device != "cpu"  # energy is measured in the profile pass
    wanted = live if on_gpu else [*(pair_of(live) or ())]
    profiled, problems = _profile(wanted, target, say)
    tokens = {
        name: found.tokens[name] or (profiled[name].report.timing.tokens_per_step if name in profiled else None)
        for name in found.outcomes
    }
    known = next((count for count in tokens.values() if count), None)  # every arm sees the same batch
    return measured(
        workload=target.name,
        device_name=first.device_name,
        timed=found.timed,
        facts=found.facts,
        tokens={name: count or known for name, count in tokens.items()},
        profiled=profiled,
        notes=[*found.notes, *problems],
    )


def _profile(arms: Iterable[str], target: Target, say: Say) -> tuple[dict[str, Profiled], list[str]]:
    """Profile passes, one process each; a failed one is a note."""
    profiled: dict[str, Profiled] = {}
    failed: dict[str, list[str]] = {}
    with scratch() as folder:
        for index, arm in enumerate(arms):
            say(f"profile pass of arm {arm}")
            place = folder / f"{index}.loraprof"
            problem = profile_pass(["--arm", arm, *target.options, *target.words], place)
            try:
                if problem is None:
                    profiled[arm] = load_recorded(place)
            except LoraprofError as error:
                problem = error.message
            if problem is not None:
                failed.setdefault(problem.removeprefix("loraprof: "), []).append(arm)
    return profiled, [f"the profile pass of {', '.join(names)} failed: {why}" for why, names in failed.items()]
