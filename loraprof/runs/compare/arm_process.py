"""Runs one arm in a process of its own: ``python -m loraprof.runs.compare.arm_process JOB.json OUTCOME.json``.

For its peak memory, where several arms do not fit side by side, and for scripts.
"""

from math import isfinite

import torch

from loraprof.capture.device.kinds import measured
from loraprof.capture.device.memory import is_out_of_memory
from loraprof.capture.passes.plan import Plan
from loraprof.capture.passes.session import Session
from loraprof.errors import LoraprofError
from loraprof.runs.compare.interleave import StepTimer
from loraprof.runs.compare.job import Job, Outcome
from loraprof.runs.profile.run_script import stop_script
from loraprof.runs.profile.script import run_watched
from loraprof.runs.worker import answer
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
        return Outcome(status="oom", reason=reason, peak_bytes=measured(device).peak_bytes(), exit_code=4)


def _builtin(job: Job) -> Outcome:
    assert job.spec is not None
    built = build(job.spec, job.arm)
    device = measured(built.device)
    timer = StepTimer(device)
    timer.visit(built.step, job.warmup)
    times, loss = timer.visit(built.step, job.steps)
    return Outcome(
        times_ns=times,
        clock=timer.name,
        peak_bytes=device.peak_bytes(),
        trainable=built.trainable,
        tokens_per_step=built.tokens_per_step,
        device=str(built.device),
        device_name=device.info().name,
        loss_finite=isfinite(float(loss)),
    )


def _script(job: Job) -> Outcome:
    session = Session(Plan.timing(job.warmup + 1, job.steps), stop_script)  # the arm is applied in the first step
    code = run_watched(session, job.target, job.module, job.arm)
    device, timing = session.device, session.timing
    if timing is None:
        reason = f"the script exited with code {code}" if code else "the script ended"
        reason += f" after {session.steps} optimizer steps; {session.needed} are needed"
        return Outcome(status="refused", reason=reason, exit_code=code or 4, failed=code != 0)
    groups = session.optimizer.param_groups if session.optimizer is not None else []
    trained = [p for group in groups for p in group["params"] if p.requires_grad]
    return Outcome(
        times_ns=timing.samples_ns,
        clock=timing.clock,
        peak_bytes=device.peak_bytes(),
        trainable=sum(p.numel() for p in trained),
        device=str(device.place),
        device_name=device.info().name,
        loss_finite=all(bool(torch.isfinite(p).all()) for p in trained) if trained else None,  # NaN spreads to them
    )


if __name__ == "__main__":
    answer(Job, measure)
