"""Applies remedies to a program, after two of its steps have shown what it is made of; takes them back at the end."""

from collections.abc import Sequence
from typing import Self

from torch.optim import Optimizer

from loraprof.capture.passes.boundary import StepBoundary
from loraprof.errors import MeasurementError, UsageError
from loraprof.live_remedies.catalogue import is_remedy, remedy_named
from loraprof.live_remedies.remedy import Undo
from loraprof.live_remedies.watch import Watch
from loraprof.runs.profile.script_arm import ScriptArm
from loraprof.workloads.apply import SCRIPT_ARMS

WATCHED = 2  # steps


class RemedyArm:
    """A context manager around everything else that watches steps. It acts once.

    ``refusal`` is why one cannot be applied; it is raised from the program's optimizer step as well.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.remedies = [remedy_named(name) for name in names]
        self.refusal: UsageError | MeasurementError | None = None
        self._watch = Watch()
        self._boundary = StepBoundary(self._after)
        self._steps = 0
        self._undos: list[Undo] = []

    def __enter__(self) -> Self:
        self._watch.install()
        self._boundary.install()
        self._undos += [remedy.early() for remedy in self.remedies if remedy.early is not None]
        return self

    def __exit__(self, *_: object) -> None:
        self._boundary.remove()
        self._watch.remove()
        while self._undos:
            self._undos.pop()()

    def _after(self, optimizer: Optimizer) -> None:
        self._steps += 1
        if self._steps <= WATCHED:
            self._watch.on_step(optimizer)
        if self._steps != WATCHED:
            return
        program = self._watch.program(optimizer)
        self._watch.remove()
        if program is None:
            self._refuse(MeasurementError("the optimizer stepped before any module ran"))
            return
        for remedy in self.remedies:
            reason = None if remedy.lasting or remedy.early else remedy.fits(program)
            if reason is not None:
                self._refuse(UsageError(f"remedy {remedy.name} cannot be applied to this program: {reason}"))
            self._undos.append(remedy.apply(program))

    def _refuse(self, refusal: UsageError | MeasurementError) -> None:
        self.refusal = refusal
        raise refusal


def arm_of(name: str) -> ScriptArm | RemedyArm:
    """What makes a program train as ``name``: an arm, or remedies joined by a plus sign."""
    return RemedyArm(name.split("+")) if name not in SCRIPT_ARMS and is_remedy(name) else ScriptArm(name)
