"""Arms of one workload measured in turn, and what the recording of its LoRA arm alone predicts of them.

The arms run side by side in this process where memory allows, else in alternating processes, as ``compare`` does it;
then ``loraprof profile`` records the LoRA arm. Nothing of the measurement reaches the prediction.
"""

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch

import loraprof
from benchmarks.gpu.recorded import recorded
from benchmarks.gpu.results import Arm, Model, Options
from benchmarks.gpu.workload import spec_of, words_of
from loraprof.capture.device.kinds import measured
from loraprof.comparison.ratios import Timed, arm_result, ratios_of
from loraprof.errors import LoraprofError, MeasurementError
from loraprof.model.workload import WorkloadSpec
from loraprof.runs.compare.alternate import STEPS, WARM_UP, alternate
from loraprof.runs.compare.interleave import StepTimer, interleave, is_out_of_memory
from loraprof.runs.compare.job import Job, Outcome
from loraprof.runs.compare.workers import profile_pass, run_job
from loraprof.workloads.batches import tokens_per_step
from loraprof.workloads.build import build
from loraprof.workloads.models import torch_device

THREE: Final = ("full", "frozen", "lora")
CASES: Final[dict[str, tuple[str, dict[str, str], tuple[str, ...]]]] = {
    "gpt2-xl-512": ("gpt2-xl", {"batch": "4", "seq": "512"}, THREE),
    "gpt2-xl-1024": ("gpt2-xl", {"batch": "4", "seq": "1024"}, THREE),
    "tinyllama-512": ("tinyllama-1.1b", {"batch": "4", "seq": "512"}, THREE),
    "tinyllama-1024": ("tinyllama-1.1b", {"batch": "4", "seq": "1024"}, THREE),
    "llama-3.2-1b": ("llama-3.2-1b", {}, THREE),
    # Fused AdamW: the unfused one needs a copy of all parameters, which 80 GB do not hold beside the full arm.
    "llama-3-8b": ("llama-3-8b", {"checkpointing": "none", "optimizer": "adamw-fused"}, THREE),
    "llama-3-8b-checkpointing": (
        "llama-3-8b",
        {"checkpointing": "non-reentrant", "optimizer": "adamw-fused"},
        THREE,
    ),
    "remedies": (
        "tinyllama-1.1b",
        {"batch": "4", "seq": "512"},
        ("lora", "lora-bf16", "lora-qv", "lora-fused", "lora-merged"),
    ),
    "remedies-dropout": (
        "tinyllama-1.1b",
        {"batch": "4", "seq": "512", "dropout": "0.1"},
        ("lora", "lora-nodropout"),
    ),
    "remedies-compile": ("tinyllama-1.1b", {"batch": "4", "seq": "512"}, ("lora", "lora-compile")),
}
MANY_LAYERS: Final = ("gpt2-xl", "llama-3-8b")  # one recorded step of them is large enough


def run(options: Options, case: str) -> Model:
    workload, changes, arms = CASES[case]
    spec = spec_of(options, workload, changes)
    timed, reasons = timed_arms(spec, arms, options.pick(4, 15, 40) * 10**9)
    _, floor = ratios_of(timed)
    place = options.out / "raw" / f"{case}.loraprof"
    problem = _record(spec, place, options)
    return Model(
        workload=workload,
        options=changes,
        tokens_per_step=tokens_per_step(spec),
        arms={name: _arm(name, timed, reasons) for name in arms},
        noise=max(floor.high - 1, 1 - floor.low) if floor else None,
        notes=[f"stopped because {timed.stopped}", *timed.notes],
        recorded=None if problem else recorded(place, loraprof.diagnose(place), options),
        problem=problem,
    )


def timed_arms(spec: WorkloadSpec, arms: Sequence[str], budget_ns: int) -> tuple[Timed, dict[str, str]]:
    """Interleaved times, and why an arm has none."""
    timed = None
    try:
        timed, refused = _side_by_side(spec, arms, budget_ns)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    _free()
    if timed is not None and not timed.failed:
        return timed, refused
    print("the arms do not fit side by side: alternating processes")

    def start(arm: str) -> Outcome:
        return run_job(Job(arm=arm, spec=spec, warmup=WARM_UP, steps=STEPS))

    timed, last = alternate(arms, start, budget_ns, progress=print)
    return timed, {name: o.reason or o.status for name, o in last.items() if o.status != "ok"}


def _free() -> None:
    """Gives the arms' memory back: others follow, in processes of their own."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _side_by_side(spec: WorkloadSpec, arms: Sequence[str], budget_ns: int) -> tuple[Timed, dict[str, str]]:
    """The arms built in this process; one that refuses the workload is left out with its reason."""
    device, steps, refused = torch_device(spec), {}, {}
    for arm in arms:
        try:
            steps[arm] = build(spec, arm).step
        except LoraprofError as error:
            refused[arm] = error.message
    if not steps:
        raise MeasurementError("; ".join(f"{arm}: {reason}" for arm, reason in refused.items()))
    return interleave(steps, StepTimer(measured(device)), budget_ns, state=measured(device).state), refused


def _arm(name: str, timed: Timed, reasons: dict[str, str]) -> Arm:
    series = timed.series.get(name)
    if series is None:
        return Arm(reason=reasons.get(name, "it was not measured"))
    found = arm_result(series.samples(), series.labels(), None)
    return Arm(median_ns=found.median_ns, low_ns=found.low_ns, high_ns=found.high_ns, steps=found.steps)


def _record(spec: WorkloadSpec, place: Path, options: Options) -> str | None:
    """Records the LoRA arm; returns what went wrong."""
    place.parent.mkdir(exist_ok=True)
    timed, steps = str(options.pick(10, 20, 40)), "1" if spec.name in MANY_LAYERS else "2"
    return profile_pass(["--force", "--timed", timed, "--steps", steps, *words_of(spec)], place)
