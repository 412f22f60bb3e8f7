"""Runs one arm in a process of its own: ``python -m loraprof.runs.compare.arm_process JOB.json OUTCOME.json``.

For its peak memory, where several arms do not fit side by side, and for scripts. The outcome appears complete or
not at all: it is renamed into place.
"""

import sys
import time
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch.optim import Optimizer

from loraprof.capture.device.environment import device_info
from loraprof.capture.device.memory import is_out_of_memory, peak_bytes
from loraprof.capture.device.stopwatch import timing_event
from loraprof.capture.passes.boundary import StepBoundary
from loraprof.errors import LoraprofError
from loraprof.runs.compare.interleave import CudaTimer, HostTimer, Timer
from loraprof.runs.compare.job import Job, Outcome
from loraprof.runs.profile.run_script import run_script, stop_script
from loraprof.runs.profile.script_arm import ScriptArm
from loraprof.store.writing import write
from loraprof.workloads.build import build
from loraprof.workloads.models import torch_device


def measure(job: Job) -> Outcome:
    """Runs the job; what goes wrong is told in the outcome, except a bug."""
    device = torch_device(job.spec) if job.spec is not None else torch.device("cpu")
    try:
        return _builtin(job) if job.spec is not None else _script(job)
    except LoraprofError as error:
        return Outcome(status="refused", reason=error.message, exit_code=error.exit_code)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else "out of memory"
        return Outcome(status="oom", reason=reason, peak_bytes=peak_bytes(device), exit_code=4)


def timer_of(device: torch.device) -> Timer:
    """The timer for steps on ``device``."""
    return CudaTimer(device) if device.type == "cuda" else HostTimer()


def _builtin(job: Job) -> Outcome:
    assert job.spec is not None
    built = build(job.spec, job.arm)
    timer = timer_of(built.device)
    timer.visit(built.step, job.warmup)
    times, loss = timer.visit(built.step, job.steps)
    return Outcome(
        times_ns=times,
        clock=timer.name,
        peak_bytes=peak_bytes(built.device),
        trainable=built.trainable,
        tokens_per_step=built.tokens_per_step,
        device=str(built.device),
        device_name=device_info(built.device).name,
        loss_finite=isfinite(float(loss)),
    )


class StepTimes:
    """Times ``steps`` steps of a script after ``skip`` others, then stops it cleanly."""

    def __init__(self, skip: int, steps: int) -> None:
        self.skip, self.steps, self.seen = skip, steps, 0
        self.optimizer: Any = None
        self.marks: list[Any] = []

    def on_step(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.seen += 1
        if self.seen < self.skip or self.done:
            return
        self.marks.append(self._mark())
        if self.done:
            stop_script()

    @property
    def done(self) -> bool:
        return len(self.marks) > self.steps

    @property
    def parameters(self) -> list[torch.Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]] if self.optimizer else []

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.parameters), torch.device("cpu"))

    def _mark(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter_ns()
        event = timing_event()
        event.record()
        return event

    def times_ns(self) -> list[int]:
        if self.device.type != "cuda":
            return [b - a for a, b in pairwise(self.marks)]
        torch.cuda.synchronize(self.device)
        return [max(1, round(a.elapsed_time(b) * 1e6)) for a, b in pairwise(self.marks)]


def _script(job: Job) -> Outcome:
    arm, times = ScriptArm(job.arm), StepTimes(job.warmup + 1, job.steps)  # the arm is applied in the first step
    boundary = StepBoundary(times.on_step)
    arm.install()
    boundary.install()
    try:
        code = run_script(job.target, job.module)
    finally:
        boundary.remove()
        arm.remove()
    if arm.refusal is not None:
        raise arm.refusal
    if not times.done:
        needed = job.warmup + job.steps + 1
        reason = f"the script exited with code {code}" if code else "the script ended"
        reason += f" after {times.seen} optimizer steps; {needed} are needed"
        return Outcome(status="refused", reason=reason, exit_code=code or 4, failed=code != 0)
    trained = [p for p in times.parameters if p.requires_grad]
    return Outcome(
        times_ns=times.times_ns(),
        clock="cuda_event" if times.device.type == "cuda" else "perf_counter_ns",
        peak_bytes=peak_bytes(times.device),
        trainable=sum(p.numel() for p in trained),
        device=str(times.device),
        device_name=device_info(times.device).name,
        loss_finite=all(bool(torch.isfinite(p).all()) for p in trained) if trained else None,  # NaN spreads to them
    )


def main(job_file: str, outcome_file: str) -> None:
    job = msgspec.json.decode(Path(job_file).read_bytes(), type=Job)
    write(Path(outcome_file), msgspec.json.encode(measure(job)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
