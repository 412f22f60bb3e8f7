"""The LoRA layers of a model whose forward an arm may replace: plain LoRA on linear layers, without dropout."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from loraprof.errors import UsageError
from loraprof.workloads.adapters import is_conv1d
from loraprof.workloads.handwritten import LoRA


@dataclass(frozen=True)
class Site:
    """One adapted layer: ``module`` is called with x and computes W x + bias + scaling B A x."""

    module: nn.Module
    base: Any
    down: nn.Linear
    up: nn.Linear
    scaling: float

    @property
    def weight(self) -> Tensor:
        return weight_of(self.base)


def weight_of(linear: Any) -> Tensor:
    """The weight as (out_features, in_features); for Conv1D a transposed view."""
    weight: Tensor = linear.weight
    return weight.t() if is_conv1d(linear) else weight


def lora_sites(model: nn.Module, arm: str) -> Iterator[Site]:
    """Raises UsageError, naming ``arm``, for a layer that is more than plain LoRA on a linear layer."""
    for name, module in list(model.named_modules()):
        site = _site(module)
        if site is None:
            continue
        if not (isinstance(site.base, nn.Linear) or is_conv1d(site.base)):
            raise UsageError(f"arm {arm} handles linear layers only, {name} is {type(site.base).__name__}")
        dropout, variant = _extras(module)
        if dropout:
            raise UsageError(f"arm {arm} has no dropout, {name} has {dropout}", "--dropout 0")
        if variant:
            raise UsageError(f"arm {arm} is plain LoRA, {name} is {variant}")
        yield site


def _site(module: nn.Module) -> Site | None:
    layer: Any = module
    if isinstance(getattr(module, "lora", None), LoRA):
        return Site(module, module, layer.lora.A, layer.lora.B, layer.lora.scaling)
    if not hasattr(module, "lora_A") or not len(layer.lora_A):
        return None
    key = layer.active_adapters[0]
    return Site(module, layer.get_base_layer(), layer.lora_A[key], layer.lora_B[key], layer.scaling[key])


def _extras(module: nn.Module) -> tuple[float, str | None]:
    """The adapter's dropout probability, and the name of the variant it is."""
    layer: Any = module
    if isinstance(getattr(module, "lora", None), LoRA):
        return getattr(layer.lora.dropout, "p", 0.0), None
    key = layer.active_adapters[0]
    variant = getattr(layer, "lora_variant", {}).get(key)
    return getattr(layer.lora_dropout[key], "p", 0.0), variant and type(variant).__name__
