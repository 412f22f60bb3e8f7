"""A layer that PEFT adapted: its own attributes say which module is the base and which adapters are in use.

Every tuner of PEFT wraps a ``base_layer`` and lists its containers in ``adapter_layer_names``. LoRA keeps A and B
apart; other methods (LoHa, OFT, IA3, …) have no A and B, their modules are all of them the adapter's.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from loraprof.capture.adapters.sites import Found, dtype_name, features, module_dtype
from loraprof.model.recording import AdapterSite

BLOCKS = ("oft", "shira")  # whose r counts blocks, or what is left of a weight
_SIDES = {"lora_A": "down", "lora_embedding_A": "down", "lora_B": "up", "lora_embedding_B": "up"}


def peft_layer(path: str, module: nn.Module) -> Found | None:
    """None: not a layer of PEFT's, or one whose widths are unknown."""
    layer: Any = module
    base = getattr(layer, "base_layer", None)
    listed = getattr(type(layer), "adapter_layer_names", None)
    if not isinstance(base, nn.Module) or not isinstance(listed, tuple):
        return None
    base = _innermost(base)
    present = sorted({name for where in listed for name in _keys(getattr(layer, where, None))})
    wanted = getattr(layer, "active_adapters", present)
    active = [name for name in wanted if name in present]
    shape = _widths(base, layer)
    if not present or shape is None:
        return None
    parts, weights = _parts(layer, base, listed)
    named = active or present
    downs = [t for side in ("lora_A", "lora_embedding_A") for t in _tensors(getattr(layer, side, None), named)]
    own = downs or [t for where in listed for t in _tensors(getattr(layer, where, None), named)]
    kernel = getattr(base, "kernel_size", ())
    dropout: Any = getattr(layer, "lora_dropout", {})
    site = AdapterSite(
        path=path,
        kind=_kind(layer, base, named, kernel),
        rank=_rank(getattr(layer, "r", None), named) if _method(layer) not in BLOCKS else None,
        in_features=shape[0],
        out_features=shape[1],
        dtype=dtype_name(next(iter(own), None)),
        base_dtype=module_dtype(base),
        scaling=_first(getattr(layer, "scaling", None), named),
        dropout=max((float(getattr(dropout[name], "p", 0.0)) for name in named if name in dropout), default=0.0),
        kernel=tuple(kernel) if isinstance(kernel, tuple) else (),
        active=bool(active) and not getattr(layer, "disable_adapters", False) and not getattr(layer, "merged", False),
        how="declared",
    )
    return Found(site, parts, weights)


def _innermost(base: Any) -> nn.Module:
    """What is adapted, below wrappers inside wrappers."""
    while isinstance(getattr(base, "base_layer", None), nn.Module):
        base = base.base_layer
    out: nn.Module = base
    return out


def _parts(layer: nn.Module, base: nn.Module, listed: Iterable[str]) -> tuple[dict[nn.Module, str], dict[int, str]]:
    """Of modules, and of parameters that are held in a ParameterDict."""
    inner = {m for other in layer.modules() if other is not layer and hasattr(other, "base_layer")
             for m in other.modules()}  # fmt: skip
    parts: dict[nn.Module, str] = {layer: "wrapper"}
    parts |= {m: "elementwise" for m in layer.modules() if m is not layer and m not in inner}
    weights: dict[int, str] = {}
    for where in listed:
        held, side = getattr(layer, where, None), _SIDES.get(where)
        if side is None or not isinstance(held, nn.Module):
            continue
        if isinstance(held, nn.ModuleDict):
            parts |= dict.fromkeys((m for child in held.values() for m in child.modules()), side)
        weights |= {id(p): side for p in held.parameters()}
    parts |= dict.fromkeys(base.modules(), "base")
    return parts, weights


def _keys(held: Any) -> list[str]:
    return list(held.keys()) if isinstance(held, (nn.ModuleDict, nn.ParameterDict, dict)) else []


def _tensors(held: Any, names: list[str]) -> list[torch.Tensor]:
    """Weights that a container keeps under these adapter names."""
    found = [held[name] for name in names if name in _keys(held)]
    return [t for x in found for t in (x.parameters() if isinstance(x, nn.Module) else [x]) if torch.is_tensor(t)]


def _widths(base: nn.Module, layer: nn.Module) -> tuple[int, int] | None:
    if isinstance(base, nn.Embedding):
        return base.num_embeddings, base.embedding_dim
    return features(base) or features(layer)


def _kind(layer: Any, base: nn.Module, names: list[str], kernel: Any) -> str:
    """The tuner's name as PEFT's package has it; for LoRA also what is adapted."""
    method = _method(layer)
    if method != "lora":
        return method
    if any(name in _keys(getattr(layer, "lora_magnitude_vector", None)) for name in names):
        return "dora"
    if isinstance(base, nn.Embedding):
        return "embedding-lora"
    if features(base) is None:  # adapts parameters of a module that is no layer itself
        return "expert-lora"
    return "conv-lora" if kernel else "lora"


def _method(layer: Any) -> str:
    origin = type(layer).__module__.split(".")
    return origin[origin.index("tuners") + 1] if "tuners" in origin[:-1] else "lora"


def _rank(ranks: Any, names: list[str]) -> int | None:
    """That of the adapters together; None for a method that has none."""
    known = [ranks[name] for name in names if name in ranks] if isinstance(ranks, dict) else []
    return sum(known) or None if all(isinstance(r, int) for r in known) else None


def _first(scaling: Any, names: list[str]) -> float | None:
    value = scaling.get(names[0]) if isinstance(scaling, dict) else None
    return float(value) if isinstance(value, (int, float)) else None
