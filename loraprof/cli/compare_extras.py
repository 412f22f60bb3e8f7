"""Speed is never shown without its price: the loss after a short training run, and the batch that memory allows."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from statistics import median

from msgspec.structs import replace

from loraprof import units
from loraprof.capture.comparison import SHARE
from loraprof.capture.iso_memory import largest_batch
from loraprof.capture.job import Job
from loraprof.capture.memory import available_bytes
from loraprof.capture.workers import run_job
from loraprof.model.compare import ArmResult, Comparison
from loraprof.model.workload import WorkloadSpec
from loraprof.workloads.models import torch_device
from loraprof.workloads.quality import train

SEEDS = (0, 1, 2)
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Extras:
    """``--quality`` and ``--iso-memory``."""

    quality_steps: int | None = None
    iso_bytes: int | None = None


def with_quality(found: Comparison, spec: WorkloadSpec, steps: int, say: Say) -> Comparison:
    """Adds the first and last loss of ``steps`` steps on a learnable task, one per seed."""
    arms, notes = dict(found.arms), list(found.notes)
    for name, arm in found.arms.items():
        if arm.status != "ok":
            continue
        say(f"training arm {name} for {steps} steps, {len(SEEDS)} seeds")
        losses = [train(spec, name, steps, seed) for seed in SEEDS]
        arms[name] = replace(arm, initial_loss=[run[0] for run in losses], final_loss=[run[-1] for run in losses])
        broken = [seed for seed, run in zip(SEEDS, losses, strict=True) if not all(map(isfinite, run))]
        if broken:
            notes.append(f"arm {name} diverges: its loss is not finite with seed {', '.join(map(str, broken))}")
    notes.append(
        f"losses: {steps} steps on a synthetic task, seeds {', '.join(map(str, SEEDS))}; nothing more than that"
    )
    return replace(found, arms=arms, notes=notes)


def with_iso_memory(found: Comparison, spec: WorkloadSpec, limit_bytes: int, say: Say) -> Comparison:
    """Adds each arm's largest batch within ``limit_bytes``, measured, and its tokens/s there."""
    free = available_bytes(torch_device(spec))
    notes = list(found.notes)
    if free is not None and limit_bytes > SHARE * free:
        notes.append(f"memory limit lowered to {units.nbytes(SHARE * free)}: more is not free here")
        limit_bytes = int(SHARE * free)
    arms = {name: _largest(name, arm, spec, limit_bytes, say, notes) for name, arm in found.arms.items()}
    sentence = _at_equal_memory(arms, limit_bytes)
    said = " ".join(text for text in (found.recommendation, sentence) if text) or None
    return replace(found, arms=arms, notes=notes, recommendation=said)


def _largest(name: str, arm: ArmResult, spec: WorkloadSpec, limit_bytes: int, say: Say, notes: list[str]) -> ArmResult:
    if arm.status == "refused":
        return arm
    say(f"largest batch of arm {name} within {units.nbytes(limit_bytes)}")
    fit = largest_batch(lambda batch: run_job(Job(arm=name, spec=replace(spec, batch=batch), steps=3)), limit_bytes)
    if fit is None:
        notes.append(f"arm {name}: not even a batch of 1 fits into {units.nbytes(limit_bytes)}")
        return arm
    if not fit.exact:
        notes.append(f"arm {name}: the search ended at batch {fit.batch}, a larger one may fit")
    tokens = fit.outcome.tokens_per_step
    speed = tokens / median(fit.outcome.times_ns) * 1e9 if tokens else None
    return replace(arm, iso_batch=fit.batch, iso_tokens_per_s=speed)


def _at_equal_memory(arms: dict[str, ArmResult], limit_bytes: int) -> str | None:
    """What memory decides, in numbers: every arm at the batch it can afford."""
    known = [(name, a.iso_batch, a.iso_tokens_per_s) for name, a in arms.items() if a.iso_batch and a.iso_tokens_per_s]
    if len(known) < 2:
        return None
    parts = [
        f"{name} takes batch {units.count(b)} and {units.count(round(speed))} tokens/s" for name, b, speed in known
    ]
    return f"Within {units.nbytes(limit_bytes)} {', '.join(parts)}."
