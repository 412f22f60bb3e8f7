"""One run of the program in this process: watched for two steps, changed, warmed up, timed, stopped.

Hooks are torch's global ones on optimizers; losses are the scalars that a backward starts from, read after the run.
"""

import time
import traceback
from collections.abc import Callable
from statistics import fmean
from typing import Any, Final, Self

import torch
from torch import Tensor
from torch.optim import Optimizer

from loraprof.capture.device.kinds import measured
from loraprof.capture.device.protocol import Device
from loraprof.capture.passes.boundary import StepBoundary
from loraprof.errors import LoraprofError
from loraprof.live_remedies.catalogue import REMEDIES
from loraprof.live_remedies.program import Program
from loraprof.live_remedies.remedy import LiveRemedy
from loraprof.live_remedies.watch import Watch
from loraprof.model.fix import Reached
from loraprof.runs.fix.job import Command, Found, Trial
from loraprof.runs.profile.remedy_arm import WATCHED, RemedyArm
from loraprof.runs.profile.run_script import run_script, stop_script
from loraprof.workloads.build import build

LAST: Final = 5  # steps whose mean loss is a training's
LEAST_SURVEYED: Final = 8  # timed steps of a survey
MOST_SURVEYED: Final = 64  # steps, in search of inputs that come again
SURVEY_NS: Final = 20_000_000_000


class Losses:
    """The loss of each step: the sum of the scalars from which a backward started in it."""

    def __init__(self) -> None:
        self._plain: Any = torch.autograd.backward
        self._step: list[Tensor] = []
        self._all: list[list[Tensor]] = []

    def install(self) -> None:
        plain = self._plain

        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            roots = [tensors] if isinstance(tensors, Tensor) else tensors
            self._step += [root.detach().clone() for root in roots if isinstance(root, Tensor) and root.numel() == 1]
            return plain(tensors, *args, **kwargs)

        torch.autograd.backward = backward

    def remove(self) -> None:
        torch.autograd.backward = self._plain

    def on_step(self) -> None:
        self._all.append(self._step)
        self._step = []

    def recent(self, steps: int) -> float | None:
        """Mean of the last steps that had a loss; waits for the device."""
        last = [sum(map(float, step)) for step in self._all[-steps:] if step]
        return fmean(last) if last else None

    def values(self) -> list[float]:
        """Empty where a step had none."""
        return [sum(map(float, step)) for step in self._all] if all(self._all) else []


class Run:
    """What happens after each step of the program: its loss is kept, its gradients once, the time between steps."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.losses = Losses()
        self.seen = 0
        self.done = False
        self.optimizer: Optimizer | None = None
        self.gradients: list[float] = []
        self._marks: list[Any] = []
        self._last_warm = WATCHED + trial.warmup
        self._boundary = StepBoundary(self._after)

    def __enter__(self) -> Self:
        self.losses.install()
        self._boundary.install()
        return self

    def __exit__(self, *_: object) -> None:
        self._boundary.remove()
        self.losses.remove()

    @property
    def device(self) -> Device:
        groups = self.optimizer.param_groups if self.optimizer else []
        return measured(next((p.device for group in groups for p in group["params"]), torch.device("cpu")))

    @property
    def timed(self) -> int:
        """Steps."""
        return max(0, len(self._marks) - 1)

    def times_ns(self) -> list[int]:
        return [max(1, ns) for ns in self.device.between_ns(self._marks)]

    def enough(self, optimizer: Optimizer) -> bool:
        return self.timed >= self.trial.steps and bool(self._marks)

    def _after(self, optimizer: Optimizer) -> None:
        if self.done:
            return
        self.optimizer = optimizer
        self.seen += 1
        self.losses.on_step()
        if self.seen == self._last_warm:
            self.gradients = _norms(optimizer)
        if self.seen >= self._last_warm:
            self._marks.append(self.device.mark())
        self.done = self.enough(optimizer)
        if self.done:
            stop_script()


class Training(Run):
    """Steps until the time is over or the loss is low enough."""

    def __init__(self, trial: Trial) -> None:
        super().__init__(trial)
        self._began_ns = 0
        self._ended_ns = 0

    def enough(self, optimizer: Optimizer) -> bool:
        if self.seen < WATCHED:
            return False
        if self.seen == WATCHED:
            self.device.synchronise()
            self._began_ns = time.perf_counter_ns()
            return False
        loss = self.losses.recent(LAST) if self.trial.until_loss is not None else None
        self._ended_ns = time.perf_counter_ns()
        if self.trial.seconds is not None and self._ended_ns - self._began_ns >= self.trial.seconds * 1e9:
            return True
        return loss is not None and self.trial.until_loss is not None and loss <= self.trial.until_loss

    def reached(self) -> Reached:
        steps = max(0, self.seen - WATCHED)
        self.device.synchronise()
        ended = None if self.done else f"the program ended after {steps} steps"
        return Reached(
            steps=steps, ns=max(0, self._ended_ns - self._began_ns), loss=self.losses.recent(LAST), reason=ended
        )


class Survey(Run):
    """The unchanged program, watched until it is known whether the inputs of its frozen networks come again."""

    def __init__(self, trial: Trial) -> None:
        super().__init__(trial)
        self.watch = Watch()
        self._began_ns = time.perf_counter_ns()

    def __enter__(self) -> Self:
        self.watch.install()
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.watch.remove()

    def enough(self, optimizer: Optimizer) -> bool:
        self.watch.on_step(optimizer)
        searching = self.watch.repeats.searching and self.seen < MOST_SURVEYED
        late = time.perf_counter_ns() - self._began_ns > SURVEY_NS
        return self.timed >= LEAST_SURVEYED and (late or not searching)

    def unfit(self) -> dict[str, str]:
        """The reason by remedy that does not fit."""
        program = self.watch.program(self.optimizer) if self.optimizer else None
        if program is None:
            return dict.fromkeys(REMEDIES, "no module ran in its steps")
        found = {name: _unfit(remedy, program) for name, remedy in REMEDIES.items()}
        return {name: reason for name, reason in found.items() if reason}


def _unfit(remedy: LiveRemedy, program: Program) -> str | None:
    """A model may be anything: one that a remedy cannot even be asked about does without it."""
    try:
        return remedy.fits(program)
    except Exception as error:
        return f"whether it fits cannot be told: {type(error).__name__}: {error}".splitlines()[0]


def _norms(optimizer: Optimizer) -> list[float]:
    """Of every parameter's gradient, 0 where it has none."""
    owned = [p for group in optimizer.param_groups for p in group["params"]]
    return [0.0 if p.grad is None else float(p.grad.float().norm()) for p in owned]


def try_out(command: Command, trial: Trial) -> Found:
    """Runs the program once. What goes wrong in it is told in the answer; a bug of the tool's own is raised."""
    began_ns = time.perf_counter_ns()
    goal = trial.seconds is not None or trial.until_loss is not None
    run = Survey(trial) if trial.survey else Training(trial) if goal else Run(trial)
    arm = RemedyArm(trial.remedies)
    code, reason, status = 0, None, "ok"
    with arm, run:
        try:
            code = _program(command, run)
        except LoraprofError as error:
            status, reason, code = "refused", error.message, error.exit_code
        except SystemExit:
            pass
        except Exception as error:
            traceback.print_exc()
            message = str(error).strip().splitlines()
            status, reason = "failed", f"{type(error).__name__}: {message[0] if message else ''}"
        unfit = run.unfit() if isinstance(run, Survey) else {}
        period = run.watch.repeats.period if isinstance(run, Survey) else None
        reached = run.reached() if isinstance(run, Training) and status == "ok" else None
    if status == "ok" and code:
        status, reason = "failed", f"the program exited with code {code}"
    elif status == "ok" and not run.done and not (trial.survey and run.seen > WATCHED):
        status, reason = "failed", f"it ended after {run.seen} optimizer steps"
    return Found(
        status=status,  # type: ignore[arg-type]
        reason=reason,
        times_ns=run.times_ns(),
        clock=run.device.clock,
        losses=run.losses.values(),
        gradients=run.gradients,
        peak_bytes=run.device.peak_bytes(),
        device_name=run.device.info().name,
        steps_seen=run.seen,
        wall_ns=time.perf_counter_ns() - began_ns,
        exit_code=code,
        unfit=unfit,
        period=period,
        reached=reached,
    )


def _program(command: Command, run: Run) -> int:
    """Its exit code. A built-in workload steps until the run stops it."""
    if command.spec is None:
        return run_script(command.target, command.module, keep=command.ranks > 1)
    step: Callable[[], Tensor] = build(command.spec, "lora").step
    while not run.done:
        step()
    return 0
