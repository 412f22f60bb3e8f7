"""Turns an unmodified script into another arm: applied after its first step, when model and optimizer have met.

The model is the module with most parameters among those that ran in that step; the optimizer the one that ended it.
"""

from typing import Any, Self

from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim import Optimizer

from loraprof.capture.passes.boundary import StepBoundary
from loraprof.errors import MeasurementError, UsageError
from loraprof.workloads.apply import apply_arm


class ScriptArm:
    """A context manager around everything else that watches steps; it acts once.

    ``refusal`` is why the arm cannot be applied; it is raised from the script's optimizer step as well.
    """

    def __init__(self, arm: str) -> None:
        self.arm = arm
        self.applied = False
        self.refusal: UsageError | MeasurementError | None = None
        self._seen: dict[int, nn.Module] = {}
        self._boundary = StepBoundary(self._apply)
        self._forward: Any = None

    def __enter__(self) -> Self:
        self._forward = register_module_forward_pre_hook(self._see)
        self._boundary.install()
        return self

    def __exit__(self, *_: object) -> None:
        self._boundary.remove()
        self._look_away()

    def _look_away(self) -> None:
        self._seen = {}
        if self._forward is not None:
            self._forward.remove()
            self._forward = None

    def _see(self, module: nn.Module, args: Any) -> None:
        self._seen.setdefault(id(module), module)

    def _apply(self, optimizer: Optimizer) -> None:
        if self.applied or self.refusal:
            return  # the step hooks cannot be taken away while they run
        model = max(self._seen.values(), key=_size, default=None)
        try:
            if model is None:
                raise MeasurementError("the optimizer stepped before any module ran")
            apply_arm(model, optimizer, self.arm)
        except (UsageError, MeasurementError) as refusal:
            self.refusal = refusal
            raise
        finally:
            self._look_away()
        self.applied = True


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
