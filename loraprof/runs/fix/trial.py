"""One run of the program in this process: watched for two steps, changed, warmed up, timed, stopped.

Hooks are torch's global ones on optimizers; losses are the scalars that a backward starts from, read after the run.
"""

import time
import traceback
from collections.abc import Callable
from typing import Any, Final, Self

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from loraprof.capture.device.kinds import measured
from loraprof.capture.device.protocol import Device
from loraprof.capture.passes.boundary import StepBoundary
from loraprof.errors import LoraprofError
from loraprof.remedies.catalogue import REMEDIES
from loraprof.remedies.watch import Watch
from loraprof.runs.fix.job import Command, Found, Trial
from loraprof.runs.profile.remedy_arm import WATCHED, RemedyArm
from loraprof.runs.profile.run_script import run_script, stop_script
from loraprof.workloads.build import build

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
        self._reader: Any = None

    def __enter__(self) -> Self:
        self.losses.install()
        self._boundary.install()
        self._reader = register_optimizer_step_pre_hook(self._before)
        return self

    def __exit__(self, *_: object) -> None:
        self._boundary.remove()
        self._reader.remove()
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

    def _before(self, optimizer: Optimizer, *_: Any) -> None:
        if self.seen == self._last_warm - 1 and optimizer is self.optimizer:
            self.gradients = _norms(optimizer)

    def _after(self, optimizer: Optimizer) -> None:
        if self.done:
            return
        self.optimizer = optimizer
        self.seen += 1
        self.losses.on_step()
        if self.seen >= self._last_warm:
            self._marks.append(self.device.mark())
        self.done = self.enough(optimizer)
        if self.done:
            stop_script()


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
        found = {name: remedy.fits(program) for name, remedy in REMEDIES.items()}
        return {name: reason for name, reason in found.items() if reason}


def _norms(optimizer: Optimizer) -> list[float]:
    """Of every parameter's gradient, 0 where it has none."""
    owned = [p for group in optimizer.param_groups for p in group["params"]]
    return [0.0 if p.grad is None else float(p.grad.float().norm()) for p in owned]


def try_out(command: Command, trial: Trial) -> Found:
    """Runs the program once. What goes wrong in it is told in the answer; a bug of the tool's own is raised."""
    began_ns = time.perf_counter_ns()
    run = Survey(trial) if trial.survey else Run(trial)
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
            said = str(error).strip().splitlines()
            status, reason = "failed", f"{type(error).__name__}: {said[0] if said else ''}"
        unfit = run.unfit() if isinstance(run, Survey) else {}
        period = run.watch.repeats.period if isinstance(run, Survey) else None
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
    )


def _program(command: Command, run: Run) -> int:
    """Its exit code. A built-in workload steps until the run stops it."""
    if command.spec is None:
        return run_script(command.target, command.module)
    step: Callable[[], Tensor] = build(command.spec, "lora").step
    while not run.done:
        step()
    return 0
