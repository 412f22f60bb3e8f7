"""What would the optimizer, clipping and accumulation cost on the frozen weights? Measured on copies of their shapes.

A data sheet or a bandwidth says little about an eager optimizer (a dozen passes, cached or not, a square root each);
so the profiled script's own optimizer class, with its own settings, steps over random tensors of the frozen
parameters' shapes, a sample of them where they are many.
"""

import inspect
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from loraprof.model.recording import TrainingCost

SAMPLE_BYTES = 128 << 20  # of weights; gradients and state come on top
REPEATS = 5


def training_cost(frozen: Sequence[torch.Tensor], optimizer: Optimizer) -> TrainingCost | None:
    """Times for all of ``frozen``, scaled up from the sample; None when there is nothing frozen or it cannot be run."""
    sample = _sample(frozen)
    if not sample:
        return None
    scale = sum(t.numel() for t in frozen) / sum(t.numel() for t in sample)
    device = sample[0].device
    state = torch.random.get_rng_state()
    try:
        parameters = [nn.Parameter(torch.randn(t.shape, device=device).to(t.dtype)) for t in sample]
        for p in parameters:
            p.grad = torch.randn(p.shape, device=device).to(p.dtype)
        twin = _twin(optimizer, parameters)
        gradients = [p.grad for p in parameters if p.grad is not None]
        return TrainingCost(
            parameters=sum(t.numel() for t in frozen),
            sampled=sum(t.numel() for t in sample),
            optimizer_ns=round(scale * _median_ns(twin.step, device)),
            clip_ns=round(scale * _median_ns(lambda: nn.utils.clip_grad_norm_(parameters, 1e9), device)),
            accumulate_ns=round(scale * _median_ns(lambda: torch._foreach_add_(gradients, gradients), device)),
        )
    except (RuntimeError, TypeError, ValueError):
        return None
    finally:
        torch.random.set_rng_state(state)


def _twin(optimizer: Optimizer, parameters: list[nn.Parameter]) -> Optimizer:
    """The same class with the same settings; ``defaults`` also holds keys that constructors do not take."""
    accepted = inspect.signature(type(optimizer)).parameters
    settings = {k: v for k, v in optimizer.defaults.items() if k in accepted}
    make: Any = type(optimizer)
    made: Optimizer = make(parameters, **settings)
    return made


def _sample(frozen: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Every n-th floating-point tensor, so that the sample fits and keeps the mix of shapes."""
    floats = [t for t in frozen if t.is_floating_point()]
    total = sum(t.numel() * t.element_size() for t in floats)
    every = max(1, -(-total // SAMPLE_BYTES))
    return floats[::every]


def _median_ns(run: Callable[[], object], device: torch.device) -> float:
    def once() -> int:
        begin = time.perf_counter_ns()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter_ns() - begin

    once()
    return statistics.median(once() for _ in range(REPEATS))
