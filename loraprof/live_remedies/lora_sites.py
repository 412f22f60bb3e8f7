"""Which layers compute W x + bias + s B A x, whatever their class? Found by structure, then proven by numbers.

B is set to random values for a moment and the layer is called on random rows: what it adds to the base must be s B A x
for one s. Dropout, DoRA, several adapters at once or anything else in the forward fails that, and is refused.
"""

from dataclasses import dataclass, replace
from itertools import product
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loraprof.capture.adapters.sites import Found, features
from loraprof.live_remedies.structure import candidates
from loraprof.workloads.adapters import is_conv1d

ROWS: Final = 8
TOLERANCE: Final = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}


@dataclass(frozen=True, slots=True)
class LoraSite:
    """``module`` is called with x. ``transposed``: whether ``down`` is held as (in, r), and ``up`` as (r, out)."""

    path: str
    module: nn.Module
    base: nn.Module
    down: nn.Parameter
    up: nn.Parameter
    transposed: tuple[bool, bool]
    scaling: float

    @property
    def weight(self) -> Tensor:
        """(out, in)."""
        weight: Tensor = self.base.weight  # type: ignore[assignment]
        return weight.t() if is_conv1d(self.base) else weight

    @property
    def bias(self) -> Tensor | None:
        bias: Tensor | None = getattr(self.base, "bias", None)
        return bias

    @property
    def low(self) -> Tensor:
        """A as (r, in), a view."""
        return self.down.t() if self.transposed[0] else self.down

    @property
    def high(self) -> Tensor:
        """B as (out, r), a view."""
        return self.up.t() if self.transposed[1] else self.up


def adapted(model: nn.Module) -> list[tuple[nn.Module, Found]]:
    """Adapted layers of a model: the module that is called, and what was found of it."""
    named = dict(model.named_modules())
    return [(named[found.site.path], found) for found in candidates(named)]


def lora_sites(model: nn.Module) -> list[LoraSite] | str:
    """Those that are plain LoRA on a linear layer; where none is, the reason why the first is not."""
    asked = [(found.site.path, _site(module, found)) for module, found in adapted(model)]
    sites = [site for _, site in asked if isinstance(site, LoraSite)]
    return sites or next((f"{path}: {site}" for path, site in asked), "there is no adapted layer")


def _site(module: nn.Module, found: Found) -> LoraSite | str:
    downs, ups = _sides(found, "down"), _sides(found, "up")
    if len(downs) != 1 or len(ups) != 1:
        return "more than one adapter, or none with an A and a B"
    base = _base(module, found)
    if base is None:
        return "its frozen layer is not linear"
    if module._compiled_call_impl is not None:
        return "it is compiled"
    widths = features(base)
    assert widths is not None
    (k, n), down, up = widths, downs[0], ups[0]
    sides = _transposed(down, up, k, n)
    if sides is None:
        return "A and B do not lead from its input to its output"
    site = LoraSite(found.site.path, module, base, down, up, sides, 1.0)
    scaling = _proven(site, k)
    if scaling is None:
        return "its forward is not W x + s B A x (dropout, DoRA or more)"
    return replace(site, scaling=scaling)


def _sides(found: Found, side: str) -> list[nn.Parameter]:
    held = {id(p): p for m in found.parts for p in m.parameters(recurse=False)}
    own = [p for m, part in found.parts.items() if part == side for p in m.parameters(recurse=False) if p.dim() == 2]
    listed = [held[key] for key, part in found.weights.items() if part == side and key in held]
    return list({id(p): p for p in [*own, *listed]}.values())


def _base(module: nn.Module, found: Found) -> nn.Module | None:
    owners = [m for m, part in found.parts.items() if part == "base"] or [module]
    linear = [m for m in owners if isinstance(m, nn.Linear) or is_conv1d(m)]
    if len(linear) != 1:
        return None
    weight = getattr(linear[0], "weight", None)
    return linear[0] if isinstance(weight, Tensor) and weight.is_floating_point() and weight.dim() == 2 else None


def _transposed(down: Tensor, up: Tensor, k: int, n: int) -> tuple[bool, bool] | None:
    for a, b in product((False, True), repeat=2):
        (r, k2), (n2, r2) = (down.t() if a else down).shape, (up.t() if b else up).shape
        if (k2, n2) == (k, n) and r == r2 and r < min(k, n):
            return a, b
    return None


def _proven(site: LoraSite, k: int) -> float | None:
    """s, None where the layer does not compute that."""
    up_before, weight = site.up.detach().clone(), site.weight
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, k, generator=draw).to(weight)
    devices = [weight.device] if weight.is_cuda else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices):
            site.up.copy_(torch.randn(site.up.shape, generator=draw).to(site.up))
            added = site.module(x).double() - F.linear(x, weight, site.bias).double()
            expected = x.double() @ site.low.double().t() @ site.high.double().t()
    except (RuntimeError, TypeError, ValueError, AttributeError):
        return None
    finally:
        with torch.no_grad():
            site.up.copy_(up_before)
    scaling = float((added * expected).sum() / expected.square().sum().clamp_min(1e-30))
    error = (added - scaling * expected).norm() / added.norm().clamp_min(1e-30)
    return scaling if scaling and float(error) <= TOLERANCE.get(weight.dtype, 1e-2) else None
