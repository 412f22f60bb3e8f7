"""Which layers of a model that does not run may be adapted? By structure; the caller proves each by numbers.

PEFT's say so themselves. Else any two weights that lead in → r → out beside a linear layer in → out: A and B may be
modules (children of a wrapper, of the linear itself, or hung on it from outside) or parameters of one module; the base
may be a sibling, the module itself, or what encloses it (parametrization). B may have groups, as where one A of rank
g·r serves g of the outputs of a fused projection.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import nn

from loraprof.capture.adapters.peft import peft_layer
from loraprof.capture.adapters.sites import Found, dtype_name, features, module_dtype
from loraprof.model.recording import AdapterSite

_ENCLOSING = 3  # levels between a parametrization and the layer whose weight it computes


@dataclass(frozen=True, slots=True)
class Modules:
    """Modules by path, and what lies one level below each path."""

    named: Mapping[str, nn.Module]
    below: Mapping[str, Mapping[str, nn.Module]]


def candidates(named: Mapping[str, nn.Module]) -> list[Found]:
    """Adapted layers among modules by path, in their order; a module belongs to one site only, to PEFT's first."""
    below: dict[str, dict[str, nn.Module]] = {path: {} for path in named}
    for path, module in named.items():
        if path:
            below.setdefault(path.rpartition(".")[0], {})[path] = module
    declared: dict[str, Found] = {}
    taken: set[nn.Module] = set()
    for path, module in named.items():
        if module not in taken and (layer := peft_layer(path, module)):
            declared[path] = layer
            taken |= layer.parts.keys()
    out: list[Found] = []
    for path, module in named.items():
        if path in declared:
            out.append(declared[path])
            continue
        found = None if module in taken else handwritten(path, module, Modules(named, below))
        if found is not None and taken.isdisjoint(found.parts):  # else a layer that is adapted already, seen otherwise
            taken |= found.parts.keys()
            out.append(found)
    return out


def handwritten(path: str, module: nn.Module, modules: Modules) -> Found | None:
    """The site that starts at ``module``: its A and B are among its children or parameters. None: there is none."""
    return _of_children(path, module, modules) or _of_parameters(path, module, modules)


def _of_children(path: str, module: nn.Module, modules: Modules) -> Found | None:
    below = modules.below.get(path, {})
    for (a, down), (b, up) in permutations(below.items(), 2):
        shapes = features(down), features(up)
        if shapes[0] is None or shapes[1] is None:
            continue
        (k, r), (r2, n) = shapes[0], shapes[1]
        if r != r2 or r >= min(k, n):
            continue
        where = _base(path, module, modules, below, k, n)
        if where is None or not (_trains((down, up), where[1]) or "lora" in f"{path}.{a}.{b}".lower()):
            continue
        owner, base = where
        inside = owner != path and base is not module and base in below.values()
        parts: dict[nn.Module, str] = dict.fromkeys(module.modules(), "elementwise")
        parts |= dict.fromkeys((m for child in below.values() for m in child.modules()), "elementwise")
        parts[module if inside else base] = "wrapper" if inside else "fused"
        if inside:
            parts |= dict.fromkeys(base.modules(), "base")
        parts |= {down: "down", up: "up"}
        dtypes = module_dtype(down), module_dtype(base)
        return Found(_site(path if inside else owner, r, k, n, dtypes, parts), parts)
    return None


def _base(
    path: str, module: nn.Module, modules: Modules, below: Mapping[str, nn.Module], k: int, n: int
) -> tuple[str, nn.Module] | None:
    """The in → out layer: a sibling child, the module itself, or the linear that the pair's module hangs on."""
    for name, child in below.items():
        if features(child) == (k, n):
            return name, child
    parent = path.rpartition(".")[0]
    for name, candidate in ((path, module), (parent, modules.named.get(parent))):
        if candidate is not None and features(candidate) == (k, n):
            return name, candidate
    return None


def _of_parameters(path: str, module: nn.Module, modules: Modules) -> Found | None:
    """A and B as parameters of one module."""
    own = {name: p for name, p in module.named_parameters(recurse=False) if p.dim() == 2}
    for (a, down), (b, up) in permutations(own.items(), 2):
        if not (down.requires_grad or up.requires_grad):
            continue
        for owner, base, weight, (k, n) in _weights(path, module, modules, own):
            ranks = _ranks(down, up, k, n)
            named = "lora" in f"{path}.{a}.{b}.{type(module).__name__}".lower()
            if ranks is None or (weight.requires_grad and not named):
                continue
            parts: dict[nn.Module, str] = dict.fromkeys(module.modules(), "elementwise")
            parts[module] = "fused"
            if base is not module and base in parts:
                parts |= dict.fromkeys(base.modules(), "base")
            elif base is not module:  # the module computes another's weight
                parts = dict.fromkeys(base.modules(), "base") | {module: "elementwise"}
            dtypes = dtype_name(down), dtype_name(weight)
            found = _site(path if base in module.modules() else owner, ranks, k, n, dtypes, parts)
            return Found(found, parts, {id(down): "down", id(up): "up"})
    return None


def _weights(
    path: str, module: nn.Module, modules: Modules, own: Mapping[str, nn.Parameter]
) -> Iterator[tuple[str, nn.Module, torch.Tensor, tuple[int, int]]]:
    """(path, module, weight, (in, out)) of every layer that A and B of ``module`` could stand beside."""
    shape = features(module)
    for p in own.values():
        yield path, module, p, shape if shape and set(shape) == set(p.shape) else (int(p.shape[1]), int(p.shape[0]))
    near = list(modules.below.get(path, {}).items())
    above = path
    for _ in range(_ENCLOSING):
        above = above.rpartition(".")[0]
        near += [(above, modules.named[above])] if above in modules.named else []
    for name, candidate in near:
        computed = getattr(getattr(candidate, "parametrizations", None), "weight", None)
        weight = getattr(candidate, "weight", None) if computed is None else computed.original
        widths = features(candidate)
        if widths is not None and isinstance(weight, torch.Tensor):
            yield name, candidate, weight, widths


def _ranks(down: torch.Tensor, up: torch.Tensor, k: int, n: int) -> int | None:
    """r when ``down`` leads k → r and ``up`` leads r → n, or r / g → a part of n in g groups.

    A square layer's A and B have the same shapes: the one that comes first is A.
    """
    for r, r_up in ((r, s) for r in _other_side(down, k) for s in up.shape):
        out = up.numel() // r_up
        if r >= min(k, n) or r % r_up or out > n or (r_up == r and out != n):
            continue
        if r_up == r or out % (r // r_up) == 0:
            return int(r)
    return None


def _other_side(p: torch.Tensor, width: int) -> list[int]:
    """The other side of a matrix that has ``width`` on one."""
    return [int(p.numel() // width)] if width in p.shape else []


def _trains(pair: tuple[nn.Module, nn.Module], base: nn.Module) -> bool:
    weight = getattr(base, "weight", None)
    frozen = not (isinstance(weight, torch.Tensor) and weight.requires_grad)
    return frozen and any(p.requires_grad for module in pair for p in module.parameters())


def _site(path: str, r: int, k: int, n: int, dtypes: tuple[str, str], parts: Mapping[nn.Module, str]) -> AdapterSite:
    drop = next((float(m.p) for m in parts if isinstance(m, nn.Dropout)), 0.0)
    return AdapterSite(
        path=path,
        kind="handwritten",
        rank=r,
        in_features=k,
        out_features=n,
        dtype=dtypes[0],
        base_dtype=dtypes[1],
        dropout=drop,
    )
