"""Where does one training step end? At the post-hook of the optimizer that owns most trainable parameters.

The global optimizer hooks see every optimizer of an unmodified script. Gradient accumulation, several micro-batches
and further optimizers lie inside a step; a step that GradScaler skips has no post-hook and merges with the next.
"""

import time
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle


class StepBoundary:
    """Calls ``on_step(optimizer)`` once per step; ``cost_ns`` and ``calls`` say what the hook itself took."""

    def __init__(self, on_step: Callable[[Optimizer], None]) -> None:
        self._on_step = on_step
        self._owner: int | None = None
        self._largest = -1
        self._handle: RemovableHandle | None = None
        self.cost_ns = 0
        self.calls = 0

    def install(self) -> None:
        self._handle = register_optimizer_step_post_hook(self._after)

    def remove(self) -> None:
        """Safe to call more than once."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _owns(self, optimizer: Optimizer) -> bool:
        if id(optimizer) != self._owner:
            size = sum(p.numel() for g in optimizer.param_groups for p in g["params"] if p.requires_grad)
            if size > self._largest:
                self._owner, self._largest = id(optimizer), size
        return id(optimizer) == self._owner

    def _after(self, optimizer: Optimizer, *_: Any) -> None:
        begin = time.perf_counter_ns()
        mine = self._owns(optimizer)
        self.calls += 1
        self.cost_ns += time.perf_counter_ns() - begin
        if mine:
            self._on_step(optimizer)
