"""What an adapted layer is made of, and the sizes of its modules: what every way of finding one shares."""

from dataclasses import dataclass, field

import torch
from torch import nn

from loraprof.model.recording import AdapterSite


@dataclass(frozen=True, slots=True)
class Found:
    """A site, the part each of its modules plays ("wrapper", "base", "down", "up", "elementwise", "fused"), and the
    part of each parameter (by ``id``) whose module holds more than that one."""

    site: AdapterSite
    parts: dict[nn.Module, str]
    weights: dict[int, str] = field(default_factory=dict)


def features(module: nn.Module) -> tuple[int, int] | None:
    """(in, out) of a linear-like module: Linear, Conv1D (transposed), convolutions, quantised linears."""
    if type(module).__name__ == "Conv1D" and isinstance(getattr(module, "weight", None), torch.Tensor):
        return int(module.weight.shape[0]), int(module.weight.shape[1])  # type: ignore[index]
    for a, b in (("in_features", "out_features"), ("in_channels", "out_channels")):
        if isinstance(getattr(module, a, None), int) and isinstance(getattr(module, b, None), int):
            return int(getattr(module, a)), int(getattr(module, b))
    return None


def dtype_name(tensor: torch.Tensor | None) -> str:
    """ "float32"; "unknown" where there is none."""
    return "unknown" if tensor is None else str(tensor.dtype).removeprefix("torch.")


def module_dtype(module: nn.Module) -> str:
    """That of a module's own weight, else of its first parameter."""
    weight = getattr(module, "weight", None)
    return dtype_name(weight if isinstance(weight, torch.Tensor) else next(iter(module.parameters()), None))
