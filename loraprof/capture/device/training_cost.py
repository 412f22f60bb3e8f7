"""What would the optimizer, clipping and accumulation cost on the frozen weights? Measured on copies of their shapes.

A data sheet or a bandwidth says little about an eager optimizer (a dozen passes, cached or not, a square root each);
so the profiled script's own optimizer class, with its own settings, steps over random tensors of the frozen
parameters' shapes, a sample of them where they are many. As in a step, gradients are new each time and something else
went through the caches before. On a GPU it is device time: what its launches cost the host does not grow with the
parameters. A looked-up table has a gradient in the rows it was asked for, zeros elsewhere: a square
root of zero costs a CPU five times that of a normal number.
"""

import inspect
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from loraprof.capture.device.kinds import measured
from loraprof.capture.device.stopwatch import undisturbed
from loraprof.capture.modules.markers import Markers
from loraprof.capture.modules.shards import local
from loraprof.model.recording import REPLACED, TrainingCost

T = TypeVar("T")
SAMPLE_BYTES: Final = 128 << 20  # of weights; gradients and state come on top
FLUSH_BYTES: Final = 512 << 20
REPEATS: Final = (3, 9)  # at least, at most
BUDGET_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Frozen:
    """A parameter full fine-tuning would train; ``rows``: those with a gradient, None for all."""

    tensor: Tensor
    rows: int | None = None


def frozen_parameters(markers: Markers) -> list[Frozen]:
    """What full fine-tuning trains besides. A table that a head shares has a gradient everywhere.

    Left out is what has a trained copy in its place, what no step used, and networks that hold no trained parameter.
    """
    root, trained = markers.root_of(), {markers.roots.index(top) for top in markers.trained()}
    used = markers.used()
    replaced = {module for path, module in markers.paths().items() if REPLACED in f"{path}."}
    owners: dict[int, list[nn.Module]] = {}
    for module in markers.ids:
        for p in module._parameters.values():
            if p is not None:
                owners.setdefault(id(p), []).append(module)
    out = []
    for module, _, p in markers.parameters:
        counts = root.get(module, 0) in trained and (used is None or id(p) in used)
        if counts and not p.requires_grad and p.is_floating_point() and module not in replaced:
            called, only = markers.called.get(module), len(owners.get(id(p), ())) == 1
            looked_up = isinstance(module, nn.Embedding) and only and called is not None
            held = local(p)
            out.append(Frozen(held, min(called.shape.numel(), held.shape[0]) if looked_up and called else None))
    return out


def training_cost(frozen: Sequence[Frozen], optimizer: Optimizer) -> TrainingCost | None:
    """Times for all of ``frozen``, scaled up from the sample; None when there is nothing frozen or it cannot be run."""
    sample = _sample(frozen)
    if not sample:
        return None
    total, sampled = (sum(f.tensor.numel() for f in part) for part in (frozen, sample))
    device = sample[0].tensor.device
    try:
        with measured(device).kept_rng():
            bench = _Bench(sample, optimizer, device)
            times = _repeated(bench.step)
    except (RuntimeError, TypeError, ValueError):
        return None
    accumulate, clip, optimize, reread = (undisturbed(part) for part in zip(*times, strict=True))
    scale = total / sampled
    return TrainingCost(
        parameters=total,
        sampled=sampled,
        optimizer_ns=round(scale * optimize),
        clip_ns=round(scale * clip),
        accumulate_ns=round(scale * accumulate),
        reread_ns=max(0, round(reread)),  # of the sample: no cache holds more
    )


def _repeated(step: Callable[[], T]) -> list[T]:
    """REPEATS of a step after one that warms up, as many as fit into BUDGET_NS."""
    step()
    least, most = REPEATS
    until, out = time.perf_counter_ns() + BUDGET_NS, list[T]()
    while len(out) < least or (len(out) < most and time.perf_counter_ns() < until):
        out.append(step())
    return out


class _Bench:
    """The end of a step on stand-ins of ``sample``."""

    def __init__(self, sample: Sequence[Frozen], optimizer: Optimizer, device: torch.device) -> None:
        self.device = device
        self.parameters = [nn.Parameter(_random(f.tensor)) for f in sample]
        self.gradients = [_gradient(f) for f in sample]
        self.twin = _twin(optimizer, self.parameters)
        self.source = torch.ones(FLUSH_BYTES // 8, device=device)
        self.target = torch.empty_like(self.source)

    def step(self) -> tuple[int, int, int, int]:
        """ns of accumulating once more, of clipping, of the optimizer's step, of reading the weights after it."""
        for p, gradient in zip(self.parameters, self.gradients, strict=True):
            p.grad = gradient.clone()
        fresh = [p.grad for p in self.parameters if p.grad is not None]
        self._flush()
        accumulate_ns = self._ns(lambda: [a.add_(b) for a, b in zip(fresh, self.gradients, strict=True)])
        self._flush()
        clip_ns = self._ns(lambda: nn.utils.clip_grad_norm_(self.parameters, 1e9))
        optimizer_ns = self._ns(self.twin.step)
        self._flush()
        cold_ns = self._ns(self._read)
        return accumulate_ns, clip_ns, optimizer_ns, cold_ns - self._ns(self._read)

    def _read(self) -> None:
        for p in self.parameters:
            p.detach().sum()

    def _flush(self) -> None:
        self.target.copy_(self.source)

    def _ns(self, run: Callable[[], object]) -> int:
        return round(measured(self.device).time_ns(run, 1))


def _random(like: Tensor) -> Tensor:
    return torch.randn(like.shape, device=like.device).to(like.dtype)


def _gradient(one: Frozen) -> Tensor:
    gradient = _random(one.tensor)
    if one.rows is not None:
        gradient[one.rows :] = 0
    return gradient


def _twin(optimizer: Optimizer, parameters: list[nn.Parameter]) -> Optimizer:
    """The same class with the same settings; ``defaults`` also holds keys that constructors do not take."""
    accepted = inspect.signature(type(optimizer)).parameters
    settings = {k: v for k, v in optimizer.defaults.items() if k in accepted}
    make: Any = type(optimizer)
    twin: Optimizer = make(parameters, **settings)
    return twin


def _sample(frozen: Iterable[Frozen]) -> list[Frozen]:
    """Every n-th parameter, so that the sample fits and keeps the mix of shapes."""
    listed = list(frozen)
    total = sum(f.tensor.numel() * f.tensor.element_size() for f in listed)
    every = max(1, -(-total // SAMPLE_BYTES))
    return listed[::every]
