"""Which layers are adapted, and which module of each is the base, A, B? Found by structure, without a flag.

A PEFT layer has ``base_layer`` with ``lora_A`` and ``lora_B``. A hand-written LoRA is any module with two children
(or two parameters) whose shapes form in → r → out around a linear layer in → out, r smaller than both.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from loraprof.capture.markers import named_modules
from loraprof.model.recording import AdapterSite


@dataclass(frozen=True, slots=True)
class Found:
    """A site and the part each of its modules plays ("wrapper", "base", "down", "up", "elementwise", …)."""

    site: AdapterSite
    parts: dict[nn.Module, str]


def find_sites(root: nn.Module) -> list[Found]:
    """Adapted layers of a model, in module order; nested modules belong to one site only."""
    taken: set[nn.Module] = set()
    out: list[Found] = []
    names = dict(named_modules(root))
    for path, module in names.items():
        found = _peft(path, module) or _handwritten(path, module, names)
        if found and not taken & set(found.parts):
            taken |= set(found.parts)
            out.append(found)
    return out


def features(module: nn.Module) -> tuple[int, int] | None:
    """(in, out) of a linear-like module: Linear, Conv1D (transposed), convolutions, quantised linears."""
    if type(module).__name__ == "Conv1D" and isinstance(getattr(module, "weight", None), torch.Tensor):
        return int(module.weight.shape[0]), int(module.weight.shape[1])  # type: ignore[index]
    for a, b in (("in_features", "out_features"), ("in_channels", "out_channels")):
        if isinstance(getattr(module, a, None), int) and isinstance(getattr(module, b, None), int):
            return int(getattr(module, a)), int(getattr(module, b))
    return None


def _dtype(module: nn.Module) -> str:
    weight = next(iter(module.parameters()), None)
    return "unknown" if weight is None else str(weight.dtype).removeprefix("torch.")


def _peft(path: str, module: nn.Module) -> Found | None:
    base: Any = getattr(module, "base_layer", None)
    downs: Any = getattr(module, "lora_A", None)
    ups: Any = getattr(module, "lora_B", None)
    if base is None or not isinstance(downs, nn.ModuleDict) or not isinstance(ups, nn.ModuleDict):
        return None
    names = [n for n in downs if n in ups]
    if not names:
        return None
    active = [n for n in getattr(module, "active_adapters", names) if n in names] or names
    name = active[0]
    shape = features(base)
    if shape is None:
        return None
    parts: dict[nn.Module, str] = {module: "wrapper"}
    parts |= {m: "elementwise" for m in module.modules() if m is not module}
    parts |= dict.fromkeys(base.modules(), "base")
    for n in names:
        parts |= dict.fromkeys(downs[n].modules(), "down")
        parts |= dict.fromkeys(ups[n].modules(), "up")
    dropout = getattr(module, "lora_dropout", {})
    kernel = getattr(base, "kernel_size", ())
    magnitude = getattr(module, "lora_magnitude_vector", None)
    kind = "dora" if magnitude is not None and len(magnitude) else "conv-lora" if kernel else "lora"
    site = AdapterSite(
        path=path,
        kind=kind,
        rank=int(getattr(module, "r", {}).get(name, 0)) or None,
        in_features=shape[0],
        out_features=shape[1],
        dtype=_dtype(downs[name]),
        base_dtype=_dtype(base),
        scaling=float(getattr(module, "scaling", {}).get(name, 1.0)),
        dropout=float(getattr(dropout[name], "p", 0.0)) if name in dropout else 0.0,
        kernel=tuple(kernel) if isinstance(kernel, tuple) else (),
        active=not getattr(module, "disable_adapters", False) and not getattr(module, "merged", False),
    )
    return Found(site, parts)


def _pairs(module: nn.Module) -> Iterator[tuple[nn.Module, nn.Module, int, int, int]]:
    """Two children that form in → r → out: (A, B, in, r, out)."""
    shaped = [(child, features(child)) for child in module.children()]
    linear = [(child, f) for child, f in shaped if f is not None]
    for down, (k, r) in linear:
        for up, (r2, n) in linear:
            if down is not up and r == r2 and r < min(k, n):
                yield down, up, k, r, n


def _handwritten(path: str, module: nn.Module, names: dict[str, nn.Module]) -> Found | None:
    for down, up, k, r, n in _pairs(module):
        base_path, base = _base(path, module, names, k, n)
        if base is None:
            continue
        inside = base is not module and base in set(module.children())
        owner_path, owner = (path, module) if inside else (base_path, base)
        parts: dict[nn.Module, str] = dict.fromkeys(module.modules(), "elementwise")
        parts[owner] = "wrapper" if inside else "fused"
        if inside:
            parts |= dict.fromkeys(base.modules(), "base")
        parts |= {down: "down", up: "up"}
        return Found(_site(owner_path, "handwritten", r, k, n, _dtype(down), _own_dtype(base), module), parts)
    return _parameters(path, module)


def _base(
    path: str, module: nn.Module, names: dict[str, nn.Module], k: int, n: int
) -> tuple[str, nn.Module | None]:
    """The frozen in → out layer: a sibling child, or the linear layer the pair hangs on."""
    for name, child in module.named_children():
        if features(child) == (k, n):
            return f"{path}.{name}", child
    parent = path.rpartition(".")[0]
    if parent in names and features(names[parent]) == (k, n):
        return parent, names[parent]
    return path, None


def _parameters(path: str, module: nn.Module) -> Found | None:
    """A, B and the base weight as parameters of one module (or of it and a child linear)."""
    own = [p for p in module.parameters(recurse=False) if p.dim() == 2]
    small = [p for p in own if p.requires_grad]
    for a in small:
        for b in small:
            ranks = set(a.shape) & set(b.shape)
            for r in sorted(ranks):
                k, n = a.numel() // r, b.numel() // r
                if a is b or not r < min(k, n) or {r, k} != set(a.shape) or {r, n} != set(b.shape):
                    continue
                whole = [p for p in own if set(p.shape) == {k, n} and not p.requires_grad]
                child = next((c for c in module.children() if features(c) == (k, n)), None)
                if whole or child is not None:
                    parts: dict[nn.Module, str] = {module: "fused"}
                    if child is not None:
                        parts[child] = "base"
                    base_dtype = str((whole[0] if whole else next(child.parameters())).dtype)  # type: ignore[union-attr]
                    dtype = str(a.dtype).removeprefix("torch.")
                    base_dtype = base_dtype.removeprefix("torch.")
                    return Found(_site(path, "handwritten", r, k, n, dtype, base_dtype, module), parts)
    return None


def _own_dtype(module: nn.Module) -> str:
    weight = getattr(module, "weight", None)
    return str(weight.dtype).removeprefix("torch.") if isinstance(weight, torch.Tensor) else _dtype(module)


def _site(path: str, kind: str, r: int, k: int, n: int, dtype: str, base_dtype: str, module: nn.Module) -> AdapterSite:
    drop = next((float(m.p) for m in module.modules() if isinstance(m, nn.Dropout)), 0.0)
    return AdapterSite(
        path=path, kind=kind, rank=r, in_features=k, out_features=n, dtype=dtype, base_dtype=base_dtype, dropout=drop
    )
