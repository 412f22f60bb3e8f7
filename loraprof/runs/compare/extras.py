"""Speed is never shown without its price: the loss after a short training run, and the batch that memory allows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean

from msgspec.structs import replace

from loraprof import units
from loraprof.analysis.statistics import median_interval
from loraprof.capture.device.kinds import measured
from loraprof.capture.device.memory import is_out_of_memory
from loraprof.comparison.recommendation import at_equal_memory, learning, recommend
from loraprof.model.compare import Comparison
from loraprof.model.workload import WorkloadSpec
from loraprof.runs.compare.iso_memory import largest_batch
from loraprof.runs.compare.job import Job, Outcome
from loraprof.runs.compare.measure import SHARE
from loraprof.runs.compare.workers import run_job
from loraprof.workloads.models import torch_device
from loraprof.workloads.quality import train

SEEDS = (0, 1, 2)
ISO_STEPS = 5  # timed at each batch that is tried
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Extras:
    """``--quality`` and ``--iso-memory``."""

    quality_steps: int | None = None
    iso_bytes: int | None = None


def with_quality(found: Comparison, spec: WorkloadSpec, steps: int, say: Say) -> Comparison:
    """Adds the loss at both ends of ``steps`` steps on a learnable task, one per seed, and recommends with it."""
    arms, notes = dict(found.arms), list(found.notes)
    diverged: list[str] = []
    for name, arm in found.arms.items():
        if arm.status != "ok":
            continue
        say(f"training arm {name} for {steps} steps, {len(SEEDS)} seeds")
        try:
            losses = [train(spec, name, steps, seed) for seed in SEEDS]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            notes.append(f"arm {name} ran out of memory in its training run: what it learns is not known")
            continue
        broken = [str(seed) for seed, run in zip(SEEDS, losses, strict=True) if not all(map(isfinite, run))]
        if broken:
            diverged.append(f"{name} (seed {', '.join(broken)})")
        arms[name] = replace(arm, **dict(zip(("initial_loss", "final_loss"), _first_and_last(losses), strict=True)))
    if diverged:
        notes.append(f"training diverges, its loss is not finite: {', '.join(diverged)}")
    if learning(arms).too_short:
        notes.append(f"in {steps} steps no arm loses half of its first loss: too few to tell what the arms learn")
    ratios = found.ratios
    recommended = recommend(ratios, ratios[0].to, arms) if ratios else None
    return replace(found, arms=arms, notes=notes, quality_steps=steps, recommendation=recommended)


def _first_and_last(losses: Sequence[Sequence[float]]) -> tuple[list[float | None], list[float | None]]:
    """First loss, and mean of the last tenth of the steps, of each run; None where any of them is not finite."""
    first = [run[0] if isfinite(run[0]) else None for run in losses]
    last = [fmean(run[-max(1, len(run) // 10) :]) if all(map(isfinite, run)) else None for run in losses]
    return first, last


def with_iso_memory(found: Comparison, spec: WorkloadSpec, limit_bytes: int, say: Say) -> Comparison:
    """Adds each arm's largest batch within ``limit_bytes``, measured, and its tokens/s there."""
    free = measured(torch_device(spec)).available_bytes()
    notes = list(found.notes)
    if free is not None and limit_bytes > SHARE * free:
        notes.append(f"memory limit lowered to {units.nbytes(SHARE * free)}: more is not free here")
        limit_bytes = int(SHARE * free)
    arms, unfit, open_end = dict(found.arms), [], []
    for name, arm in found.arms.items():
        if arm.status == "refused":
            continue
        say(f"arm {name}: the largest batch within {units.nbytes(limit_bytes)}")
        fit = largest_batch(_probe(spec, name), limit_bytes)
        if fit is None:
            unfit.append(name)
            continue
        if not fit.exact:
            open_end.append(name)
        arms[name] = replace(arm, iso_batch=fit.batch, iso_peak_bytes=fit.outcome.peak_bytes, **_speed(fit.outcome))
    if unfit:
        notes.append(f"not even a batch of 1 fits into {units.nbytes(limit_bytes)}: {', '.join(unfit)}")
    if open_end:
        notes.append(f"the search for the largest batch ended early, a larger one may fit: {', '.join(open_end)}")
    reference = found.ratios[0].to if found.ratios else None
    sentences = [found.recommendation, at_equal_memory(arms, reference, limit_bytes)]
    together = " ".join(text for text in sentences if text) or None
    return replace(found, arms=arms, notes=notes, iso_limit_bytes=limit_bytes, recommendation=together)


def _speed(outcome: Outcome) -> dict[str, float]:
    """Tokens/s of the median step, and of both ends of its interval."""
    tokens = outcome.tokens_per_step
    if not tokens:
        return {}
    middle, low, high = median_interval(outcome.times_ns)
    names = ("iso_tokens_per_s", "iso_low", "iso_high")
    return {name: tokens / ns * 1e9 for name, ns in zip(names, (middle, high, low), strict=True)}


def _probe(spec: WorkloadSpec, arm: str) -> Callable[[int], Outcome]:
    return lambda batch: run_job(Job(arm=arm, spec=replace(spec, batch=batch), steps=ISO_STEPS))
