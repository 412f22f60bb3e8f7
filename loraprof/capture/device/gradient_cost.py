"""What would the backward pass add if a frozen module were trained? Measured on the module itself, after the step.

    weight_ns   autograd.grad(module(x), its frozen parameters): what only full fine-tuning runs
    input_ns    autograd.grad(module(x), x): what the LoRA step runs too, so that the trace tells how the same work
                goes inside a step

x has the shape, dtype and autocast of the call that was counted, and random values. On a CPU the cost of calling the
engine from Python is taken off. As in a step, the upstream gradient is fresh in the caches, what came before is not,
and weight gradients stay while an input's is soon freed. On a GPU the flushing also keeps the device busy while the
host submits. Weights are used where they lie and never written.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from loraprof.capture.device.kinds import measured
from loraprof.capture.device.stopwatch import LEAST, MOST, undisturbed
from loraprof.capture.modules.markers import Called
from loraprof.model.recording import GradientCost

BUDGET_NS: Final = 2_000_000_000
KEPT_BYTES: Final = 64 << 20  # of weight gradients, which stay until the optimizer has run


def gradient_costs(
    called: Mapping[nn.Module, Called], number: Callable[[nn.Module], int], device: torch.device
) -> list[GradientCost]:
    """One per frozen module that was called and could be measured; equal modules share a measurement.

    What does not fit into BUDGET_NS, or cannot run alone, is left out.
    """
    keys = {module: _key(module, one) for module, one in called.items() if frozen_of(module)}
    firsts = {key: module for module, key in reversed(keys.items())}
    known: dict[object, tuple[int, int | None] | None] = {}
    on = measured(device)
    flush = torch.empty(on.sizes.flushing_bytes, dtype=torch.uint8, device=device)
    until = time.perf_counter_ns() + BUDGET_NS
    with on.kept_rng():
        floor_ns = 0.0 if on.asynchronous else _floor_ns(flush)
        for key, module in firsts.items():
            share_ns = (until - time.perf_counter_ns()) / (len(firsts) - len(known))
            known[key] = _Bench(called[module], flush, floor_ns, share_ns).cost(module)
    return [
        GradientCost(module=number(module), calls=called[module].calls, weight_ns=found[0], input_ns=found[1])
        for module, key in keys.items()
        if (found := known[key]) is not None
    ]


def frozen_of(module: nn.Module) -> dict[str, nn.Parameter]:
    """The module's own floating-point parameters that are not trained; sharded ones would talk to other ranks."""
    own = ((name, p) for name, p in module._parameters.items() if type(p) is nn.Parameter)
    return {name: p for name, p in own if p.is_floating_point() and not p.requires_grad}


def _key(module: nn.Module, one: Called) -> object:
    own = tuple((name, p.shape, p.dtype) for name, p in frozen_of(module).items())
    return type(module), repr(module), own, one.shape, one.dtype, one.autocast


@dataclass(frozen=True, slots=True)
class _Bench:
    """Measures one module within ``budget_ns``."""

    called: Called
    flush: Tensor
    floor_ns: float
    budget_ns: float

    def cost(self, module: nn.Module) -> tuple[int, int | None] | None:
        """(weight_ns, input_ns); input_ns is None for inputs without gradient, such as indices."""
        try:
            x = _example(module, self.called, self.flush.device)
            own = {name: p.detach().requires_grad_() for name, p in frozen_of(module).items()}
            weight_ns = self._median(self._output(module, own, x), list(own.values()), KEPT_BYTES)
            input_ns = None
            if weight_ns is not None and x.is_floating_point():
                leaf = x.requires_grad_()
                input_ns = self._median(self._output(module, {}, leaf), [leaf], 0)
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):
            return None
        return None if weight_ns is None else (weight_ns, input_ns)

    def _output(self, module: nn.Module, own: dict[str, Tensor], x: Tensor) -> Tensor:
        kind = self.called.autocast
        with torch.enable_grad(), torch.autocast(self.flush.device.type, kind, kind is not None):
            out: Any = functional_call(module, own, (x,))
        found = next((t for t in (out if isinstance(out, tuple) else (out,)) if isinstance(t, Tensor)), None)
        if found is None:
            raise TypeError("no tensor comes out")
        return found

    def _median(self, out: Tensor, leaves: list[Tensor], kept_bytes: int) -> int | None:
        times = _times(out, leaves, kept_bytes, self.flush, self.budget_ns / 2)
        return max(1, round(undisturbed(times) - self.floor_ns)) if times else None


def _times(out: Tensor, leaves: list[Tensor], kept_bytes: int, flush: Tensor, budget_ns: float) -> list[float]:
    """LEAST to MOST runs of the engine from ``out`` to ``leaves``, ns; nothing where LEAST exceed the budget."""
    upstream, clock = torch.randn_like(out), measured(flush.device).time_ns
    gradients: deque[object] = deque(maxlen=kept_bytes // max(sum(t.nbytes for t in leaves), 1))

    def run() -> None:
        gradients.append(torch.autograd.grad(out, leaves, upstream, retain_graph=True))

    times: list[float] = []
    until = time.perf_counter_ns() + budget_ns
    run()
    while len(times) < LEAST or (len(times) < MOST and time.perf_counter_ns() < until):
        flush.zero_()
        upstream.neg_()
        times.append(clock(run, 1))
        if sum(times) > budget_ns:
            return []
    return times


def _example(module: nn.Module, called: Called, device: torch.device) -> Tensor:
    """Random values; indices of a table where the module has one."""
    if called.dtype.is_floating_point:
        return torch.randn(called.shape, device=device).to(called.dtype)
    rows = min((p.shape[0] for p in module.parameters(recurse=False)), default=1)
    return torch.randint(rows, called.shape, device=device, dtype=called.dtype)


def _floor_ns(flush: Tensor) -> float:
    """Host time of the smallest call of the engine, under the same conditions."""
    leaf = torch.zeros(1, requires_grad=True, device=flush.device)
    return undisturbed(_times(leaf.view(1), [leaf], 0, flush, BUDGET_NS / 4))
