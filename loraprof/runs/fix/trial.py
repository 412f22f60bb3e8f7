"""One run of the program in this process: watched for two steps, changed, warmed up, timed, stopped.

Hooks are torch's global ones on optimizers; losses are the scalars that a backward starts from, read after the run.
"""

import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from loraprof.capture.device.kinds import measured
from loraprof.capture.device.protocol import Device
from loraprof.capture.passes.boundary import StepBoundary
from loraprof.errors import LoraprofError
from loraprof.remedies.catalogue import REMEDIES
from loraprof.remedies.program import Program
from loraprof.remedies.remedy import LiveRemedy, Undo
from loraprof.remedies.watch import Watch
from loraprof.runs.fix.job import WATCHED, Command, Found, Trial
from loraprof.runs.profile.run_script import run_script, stop_script
from loraprof.workloads.build import build

LEAST_SURVEYED: Final = 8  # timed steps of a survey
MOST_SURVEYED: Final = 64  # steps, in search of inputs that come again
SURVEY_NS: Final = 20_000_000_000
HEAVY: Final = ("transformers", "peft", "accelerate", "datasets", "trl", "lightning", "torchvision", "numpy")


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


class Refused(Exception):
    """A remedy does not fit here."""


class Run:
    """What happens after each step of the program."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.watch, self.losses = Watch(), Losses()
        self.remedies = [REMEDIES[name] for name in trial.remedies]
        self.boundary = StepBoundary(self._after)
        self.seen = 0
        self.began_ns = time.perf_counter_ns()
        self.done = False
        self.marks: list[Any] = []
        self.undos: list[Undo] = []
        self.refusal: str | None = None
        self.optimizer: Optimizer | None = None
        self.unfit: dict[str, str] = {}
        self.period: int | None = None
        self.gradients: list[float] = []
        self._reader: Any = None

    def install(self) -> None:
        self.watch.install()
        self.losses.install()
        self.boundary.install()
        self._reader = register_optimizer_step_pre_hook(self._before)
        self.undos += [remedy.early() for remedy in self.remedies if remedy.early is not None]

    def remove(self) -> None:
        """Everything attached or applied is taken back."""
        self.boundary.remove()
        if self._reader is not None:
            self._reader.remove()
        self.losses.remove()
        self.watch.remove()
        while self.undos:
            self.undos.pop()()

    @property
    def last_warm(self) -> int:
        return WATCHED + self.trial.warmup

    def _enough(self) -> bool:
        if not self.trial.survey:
            return len(self.marks) > self.trial.steps
        searching = self.watch.repeats.searching and self.seen < MOST_SURVEYED
        late = time.perf_counter_ns() - self.began_ns > SURVEY_NS
        return len(self.marks) > LEAST_SURVEYED and (late or not searching)

    @property
    def device(self) -> Device:
        groups = self.optimizer.param_groups if self.optimizer else []
        return measured(next((p.device for group in groups for p in group["params"]), torch.device("cpu")))

    def _before(self, optimizer: Optimizer, *_: Any) -> None:
        if self.seen == self.last_warm - 1 and optimizer is self.optimizer:
            self.gradients = _norms(optimizer)

    def _after(self, optimizer: Optimizer) -> None:
        if self.done:
            return
        self.optimizer = optimizer
        self.seen += 1
        self.losses.on_step()
        if self.trial.survey or self.seen <= WATCHED:
            self.watch.on_step(optimizer)
        if self.seen == WATCHED and not self.trial.survey:
            self._change(optimizer)
        if self.seen >= self.last_warm:
            self.marks.append(self.device.mark())
        self.done = self._enough()
        if self.done:
            if self.trial.survey:
                self._ask(optimizer)
            stop_script()

    def _change(self, optimizer: Optimizer) -> None:
        program = self.watch.program(optimizer)
        self.watch.remove()
        if not self.remedies:
            return
        try:
            if program is None:
                raise Refused("no module ran before the optimizer's second step")
            for remedy in self.remedies:
                self._apply(remedy, program)
        except Refused as refused:
            self.refusal = str(refused)
            stop_script()

    def _apply(self, remedy: LiveRemedy, program: Program) -> None:
        """What only a longer look can tell was asked in the survey."""
        if remedy.early is None and remedy.name != "cached-outputs" and (reason := remedy.fits(program)):
            raise Refused(reason)
        self.undos.append(remedy.apply(program))

    def _ask(self, optimizer: Optimizer) -> None:
        program = self.watch.program(optimizer)
        if program is None:
            self.unfit = dict.fromkeys(REMEDIES, "no module ran in its steps")
            return
        self.period = program.period
        found = {name: remedy.fits(program) for name, remedy in REMEDIES.items()}
        self.unfit = {name: reason for name, reason in found.items() if reason}

    def times_ns(self) -> list[int]:
        return [max(1, ns) for ns in self.device.between_ns(self.marks)]


def _norms(optimizer: Optimizer) -> list[float]:
    """Of every parameter's gradient, 0 where it has none."""
    owned = [p for group in optimizer.param_groups for p in group["params"]]
    return [0.0 if p.grad is None else float(p.grad.float().norm()) for p in owned]


def try_out(command: Command, trial: Trial) -> Found:
    """Runs the program once. What goes wrong in it is told in the answer; a bug of the tool's own is raised."""
    began, run = time.perf_counter_ns(), Run(trial)
    code, reason = 0, None
    try:
        run.install()
        code = _program(command, run)
    except LoraprofError as error:
        return Found(status="refused", reason=error.message, exit_code=error.exit_code)
    except SystemExit:
        pass
    except (Exception, KeyboardInterrupt) as error:
        traceback.print_exc()
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    short = None if run.done or (trial.survey and run.seen > WATCHED) else f"it ended after {run.seen} optimizer steps"
    if trial.survey and not run.done and run.optimizer is not None:
        run._ask(run.optimizer)
    device = run.device
    found = Found(
        status="refused" if run.refusal else "failed" if reason or code or short else "ok",
        reason=run.refusal or reason or (f"the program exited with code {code}" if code else short),
        times_ns=run.times_ns(),
        clock=device.clock,
        losses=run.losses.values(),
        gradients=run.gradients,
        peak_bytes=device.peak_bytes(),
        device_name=device.info().name,
        steps_seen=run.seen,
        wall_ns=time.perf_counter_ns() - began,
        exit_code=code,
        unfit=run.unfit,
        preload=[name for name in HEAVY if name in sys.modules],
        period=run.period,
    )
    run.remove()
    return found


def _program(command: Command, run: Run) -> int:
    """Its exit code. A built-in workload steps until the run stops it."""
    if command.spec is None:
        return run_script(command.target, command.module)
    step: Callable[[], Tensor] = build(command.spec, "lora").step
    while not run.done:
        step()
    return 0
