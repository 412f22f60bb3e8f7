"""Where does one training step end? At the post-hook of the optimizer that owns most trainable parameters.

The global optimizer hooks see every optimizer of an unmodified script. Gradient accumulation, several micro-batches
and further optimizers lie inside a step; a step that GradScaler skips has no post-hook and merges with the next. Where
optimizers step inside the backward pass, the step ends with the next call of a module: autograd keeps dispatch modes
and ranges of its own while it runs, so that nothing may be attached or taken off before.
"""

import time
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

_HOOKS: Final[Any] = torch.nn.modules.module._global_forward_pre_hooks


class StepBoundary:
    """Calls ``on_step(optimizer)`` once per step; ``cost_ns`` and ``calls`` say what the hook itself took.

    ``stepping``: the optimizer's own range is still open when ``on_step`` is called.
    """

    def __init__(self, on_step: Callable[[Optimizer], None]) -> None:
        self._on_step = on_step
        self._owner: int | None = None
        self._largest = -1
        self._handle: RemovableHandle | None = None
        self._waiting: tuple[Optimizer, RemovableHandle] | None = None
        self.stepping = False
        self.cost_ns = 0
        self.calls = 0

    def install(self) -> None:
        self._handle = register_optimizer_step_post_hook(self._after)

    def remove(self) -> None:
        """Safe to call more than once."""
        for handle in (self._handle, self._waiting and self._waiting[1]):
            if handle is not None:
                handle.remove()
        self._handle = self._waiting = None

    def _owns(self, optimizer: Optimizer) -> bool:
        if id(optimizer) != self._owner:
            size = sum(p.numel() for g in optimizer.param_groups for p in g["params"] if p.requires_grad)
            if size > self._largest:
                self._owner, self._largest = id(optimizer), size
        return id(optimizer) == self._owner

    def _after(self, optimizer: Optimizer, *_: Any) -> None:
        begin = time.perf_counter_ns()
        owns = self._owns(optimizer)
        self.calls += 1
        self.cost_ns += time.perf_counter_ns() - begin
        if not owns:
            return
        if torch._C._current_graph_task_id() < 0:
            self.stepping = True
            try:
                self._on_step(optimizer)
            finally:
                self.stepping = False
        elif self._waiting is None:
            uncompiled: Any = torch.compiler.disable
            handle = register_module_forward_pre_hook(uncompiled(self._called))
            _HOOKS.move_to_end(handle.id, last=False)  # what it starts or stops holds for all the others
            self._waiting = optimizer, handle

    def _called(self, module: nn.Module, args: Any) -> None:
        if self._waiting is None or torch._C._current_graph_task_id() >= 0:  # a recomputation
            return
        before = set(_HOOKS)
        self.flush()
        for hook in [hook for number, hook in _HOOKS.items() if number not in before]:
            hook(module, args)  # of this call torch has gathered the hooks already

    def flush(self) -> None:
        """Ends a step whose optimizer stepped inside a backward pass that is over."""
        if self._waiting is not None:
            (optimizer, handle), self._waiting = self._waiting, None
            handle.remove()
            self._on_step(optimizer)
