"""Turn a LoRA script's own model and optimizer into another arm, in place, between two of its steps.

full:   adapters bypassed, every base parameter trained, put into the first parameter group in place.
frozen: adapters bypassed, nothing trained, the embedding's output requires a gradient.
lora:   the script as it is.
"""

import gc
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from loraprof.errors import UsageError
from loraprof.workloads.models import output_requires_grad

SCRIPT_ARMS = ("full", "frozen", "lora")


def apply_arm(model: nn.Module, optimizer: torch.optim.Optimizer, arm: str) -> None:
    """Make ``model`` and ``optimizer`` train as ``arm``. Raises UsageError with the reason where that is impossible;
    nothing has been changed then."""
    if arm not in SCRIPT_ARMS:
        raise UsageError(f"arm {arm} is for built-in workloads; a script has " + ", ".join(SCRIPT_ARMS))
    adapters: list[Any] = [module for module in model.modules() if _is_adapted(module)]
    if problem := _problem(model, optimizer, adapters, arm):
        raise UsageError(f"arm {arm} cannot be applied to this script: {problem}")
    if arm == "lora" or (arm == "full" and not adapters):
        return
    own = {id(p) for layer in adapters for p in _adapter_parameters(layer)}
    for layer in adapters:
        layer.enable_adapters(False)
    base = [p for p in model.parameters() if id(p) not in own]
    for parameter in base:
        parameter.requires_grad_(arm == "full")
    if arm == "full":
        _hand_over(optimizer, base)
    elif (first := _first_layer(model)) is not None:
        output_requires_grad(first)


def _hand_over(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    """Give the optimizer other parameters. In place: schedulers and wrappers hold on to its groups."""
    optimizer.zero_grad(set_to_none=True)
    optimizer.state.clear()
    for group in optimizer.param_groups:
        group["params"].clear()
    optimizer.param_groups[0]["params"].extend(parameters)


def _problem(model: nn.Module, optimizer: torch.optim.Optimizer, adapters: list[Any], arm: str) -> str | None:
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    trains_all = not adapters and all(id(p) in owned for p in model.parameters())
    if arm == "lora":
        return "it trains every parameter, there is no adapter" if trains_all else None
    if any(isinstance(m, DistributedDataParallel) for m in model.modules()):
        return "DistributedDataParallel fixed what is trained when it was built"
    if any(_is_fsdp(m) for m in model.modules()):
        return "FSDP sharded the parameters by what was trained when it was built"
    if not adapters and not trains_all:
        return "it has no PEFT layer whose adapter could be bypassed"
    if arm == "full" and not all(p.is_floating_point() for p in model.parameters()):
        return "the base weights are quantized and cannot be trained"
    if arm == "frozen" and _first_layer(model) is None:
        return "no first layer was found for the gradient to flow back to"
    return _scaler_problem(model, arm)


def _scaler_problem(model: nn.Module, arm: str) -> str | None:
    """A GradScaler that does anything may be alive; optimizers do not know theirs."""
    if not any(isinstance(o, torch.amp.GradScaler) and o.is_enabled() for o in gc.get_objects()):
        return None
    if arm == "frozen":
        return "GradScaler refuses a step without gradients"
    half = any(p.dtype == torch.float16 for p in model.parameters())
    return "GradScaler cannot unscale the gradients of float16 weights" if half else None


def _first_layer(model: nn.Module) -> nn.Module | None:
    """The embedding, or the lowest layer with weights of a model that has none."""
    for kinds in (nn.Embedding, nn.Linear | nn.modules.conv._ConvNd):
        for module in model.modules():
            if isinstance(module, kinds):
                return module
    return None


def _is_adapted(module: nn.Module) -> bool:
    """PEFT's adapted layers, and its wrappers that train a copy of a module."""
    return hasattr(module, "enable_adapters") and hasattr(module, "adapter_layer_names")


def _adapter_parameters(layer: Any) -> Iterator[nn.Parameter]:
    for name in layer.adapter_layer_names:
        yield from attrgetter(name)(layer).parameters()


def _is_fsdp(module: nn.Module) -> bool:
    return any(cls.__name__ in ("FullyShardedDataParallel", "FSDPModule") for cls in type(module).__mro__)
