"""Times the arms of a built-in workload: each alone for its memory, then interleaved, or alternating processes.

Side by side in one process if the sum of the arms' peaks fits into SHARE of the free memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from loraprof import units
from loraprof.capture.device.kinds import measured
from loraprof.comparison.ratios import Timed
from loraprof.errors import LoraprofError, MeasurementError, UsageError
from loraprof.model.compare import ArmResult
from loraprof.model.workload import WorkloadSpec
from loraprof.runs.compare.alternate import STEPS, WARM_UP, alternate
from loraprof.runs.compare.interleave import StepTimer, interleave
from loraprof.runs.compare.job import Job, Outcome
from loraprof.runs.compare.workers import run_job
from loraprof.workloads.build import build
from loraprof.workloads.models import torch_device

SHARE: Final = 0.8
PEAK_OF_PROCESS: Final = "peak memory on a CPU is that of a process of the arm's own, Python and torch included"

Run = Callable[[Job], Outcome]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Measured:
    """Times, and what else is known of each arm; ``outcomes`` in the order of the arms."""

    timed: Timed
    outcomes: dict[str, Outcome]
    notes: list[str]

    @property
    def facts(self) -> dict[str, ArmResult]:
        """The arms without their times."""
        return {
            name: ArmResult(
                peak_bytes=o.peak_bytes,
                trainable=o.trainable,
                status=o.status,
                reason=o.reason,
                loss_finite=o.loss_finite,
            )
            for name, o in self.outcomes.items()
        }

    @property
    def tokens(self) -> dict[str, int | None]:
        return {name: o.tokens_per_step for name, o in self.outcomes.items()}


def measure_arms(spec: WorkloadSpec, arms: Sequence[str], budget_ns: int, say: Say, run: Run = run_job) -> Measured:
    """Every arm of ``spec``. An arm that cannot run is reported and left out.

    Raises UsageError or MeasurementError when none can.
    """
    device = measured(torch_device(spec))
    outcomes = {}
    for arm in arms:
        say(f"arm {arm} in a process of its own: memory and first steps")
        outcomes[arm] = run(Job(arm=arm, spec=spec))
    live = [arm for arm in arms if outcomes[arm].status == "ok"]
    if not live:
        raise nothing_runs(outcomes)
    notes = [PEAK_OF_PROCESS] if device.allocator() is None else []
    peaks, free = [outcomes[arm].peak_bytes or 0 for arm in live], device.available_bytes()
    if free is not None and sum(peaks) > SHARE * free:
        notes.append("the arms do not fit side by side: timed in alternating processes")

        def start(arm: str) -> Outcome:
            return run(Job(arm=arm, spec=spec, warmup=WARM_UP, steps=STEPS))

        timed, last = alternate(live, start, budget_ns, progress=say)
        peaked = {arm: replace(last[arm], trainable=outcomes[arm].trainable) for arm in live}
        return Measured(timed, {**outcomes, **peaked}, notes)
    return Measured(side_by_side(spec, live, budget_ns, say), outcomes, notes)


def side_by_side(spec: WorkloadSpec, arms: Sequence[str], budget_ns: int, say: Say) -> Timed:
    """The arms built in this process and interleaved."""
    device = measured(torch_device(spec))
    say(f"building {', '.join(arms)} side by side")
    built = {arm: build(spec, arm) for arm in arms}
    say(f"timing in interleaved blocks for at most {units.ns(budget_ns)}")
    return interleave(
        {arm: one.step for arm, one in built.items()},
        StepTimer(device),
        budget_ns,
        state=device.state,
        peak=lambda: device.peak_bytes() if device.allocator() is not None else None,
    )


def nothing_runs(outcomes: dict[str, Outcome]) -> LoraprofError:
    """Why there is nothing to compare: the arms' own reasons."""
    same: dict[str | None, list[str]] = {}
    for arm, outcome in outcomes.items():
        same.setdefault(outcome.reason, []).append(arm)
    reasons = "; ".join(f"{', '.join(arms)}: {reason}" for reason, arms in same.items())
    if all(o.exit_code == UsageError.exit_code for o in outcomes.values()):
        return UsageError(f"no arm can be run: {reasons}")
    hint = "try a smaller batch" if any(o.status == "oom" for o in outcomes.values()) else None
    return MeasurementError(f"no arm can be run: {reasons}", hint)
