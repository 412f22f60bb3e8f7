"""Remedies of the adapters' path: one autograd function per layer, one A product for several, the base's dtype."""

import gc
from functools import partial
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loraprof.live_remedies.lora_sites import LoraSite, adapted, lora_sites
from loraprof.live_remedies.program import Program
from loraprof.live_remedies.remedy import LiveRemedy, Undo, all_of, nothing, swap
from loraprof.workloads.adapters import compute_dtype
from loraprof.workloads.arms.lowrank import LowRankLinear


def _no_fusing(program: Program) -> str | None:
    sites = lora_sites(program.model)
    return sites if isinstance(sites, str) else None


def _fuse(program: Program) -> Undo:
    sites = lora_sites(program.model)
    if isinstance(sites, str):
        return nothing
    return all_of([swap(site.module, "forward", partial(fused_forward, site)) for site in sites])


def fused_forward(site: LoraSite, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """(…, in) to (…, out): the frozen product, A and B in one autograd function."""
    out: Tensor = LowRankLinear.apply(  # type: ignore[no-untyped-call]
        x, site.weight, site.bias, site.low, site.high, site.scaling, compute_dtype(x), False
    )
    return out


FUSED = LiveRemedy(
    name="lora-fused",
    kind="same_training",
    text="one autograd function per adapted layer: y = W x + b, then y += s B (A x) in place; only x and A x are saved",
    fits=_no_fusing,
    apply=_fuse,
    findings=("L1", "L10"),
)


def _wide_adapters(program: Program) -> list[tuple[nn.Parameter, torch.dtype]]:
    """Adapters in fp32 on a half-precision base, and that base's dtype."""
    out: dict[int, tuple[nn.Parameter, torch.dtype]] = {}
    for _, found in adapted(program.model):
        dtype = getattr(torch, found.site.base_dtype, None)
        if dtype not in (torch.bfloat16, torch.float16) or found.site.dtype != "float32":
            continue
        for module, part in found.parts.items():
            if part in ("down", "up"):
                out |= {id(p): (p, dtype) for p in module.parameters() if p.dtype == torch.float32}
    return list(out.values())


def _no_narrowing(program: Program) -> str | None:
    if not (wide := _wide_adapters(program)):
        return "the adapters already have the base's dtype"
    scaled = any(isinstance(o, torch.amp.GradScaler) and o.is_enabled() for o in gc.get_objects())
    if scaled and any(dtype == torch.float16 for _, dtype in wide):
        return "GradScaler cannot unscale the gradients of float16 weights"
    return None


def _narrow(program: Program) -> Undo:
    wide = _wide_adapters(program)
    for parameter, dtype in wide:
        _cast(program, parameter, dtype)

    def undo() -> None:
        for parameter, _ in wide:
            _cast(program, parameter, torch.float32)

    return undo


def _cast(program: Program, parameter: nn.Parameter, dtype: torch.dtype) -> None:
    """With its gradient and the optimizer's state of it."""
    before, parameter.grad = parameter.dtype, None
    parameter.data = parameter.data.to(dtype)
    state = program.optimizer.state.get(parameter, {})
    for key, value in state.items():
        if isinstance(value, Tensor) and value.dtype == before and value.shape == parameter.shape:
            state[key] = value.to(dtype)


HALF = LiveRemedy(
    name="lora-bf16",
    kind="numerics",
    text="keep the adapters in the base's dtype: get_peft_model(model, config, autocast_adapter_dtype=False)",
    fits=_no_narrowing,
    apply=_narrow,
    findings=("L2", "L3"),
)


SHARING: Final = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("to_q", "to_k", "to_v"),
    ("q_lin", "k_lin", "v_lin"),
    ("wq", "wk", "wv"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
)


def _groups(program: Program) -> list[list[LoraSite]]:
    """Neighbours that are called with the same input, as their names say; each call checks that it is the same."""
    found = lora_sites(program.model)
    near: dict[tuple[str, int], list[LoraSite]] = {}
    for site in [] if isinstance(found, str) else found:
        parent, _, name = site.path.rpartition(".")
        group = next((i for i, names in enumerate(SHARING) if name in names), None)
        if group is not None:
            near.setdefault((parent, group), []).append(site)
    alike = [[s for s in group if s.low.dtype == group[0].low.dtype] for group in near.values()]
    return [group for group in alike if len(group) > 1]


class SharedProduct:
    """A x of several layers as one product: [A1; A2; ...] x reads x once, forward and backward."""

    def __init__(self, sites: list[LoraSite]) -> None:
        self.sites = sites
        self._of: tuple[Any, ...] = ()  # the input, and how it was computed with
        self._parts: dict[int, Tensor] = {}  # what is still to be fetched, by layer

    def forward(self, at: int, x: Tensor, *_: Any, **__: Any) -> Tensor:
        site = self.sites[at]
        base = F.linear(x, site.weight.to(x.dtype), site.bias)
        added = F.linear(self._low(at, x), site.high)
        return (base + site.scaling * added).to(base.dtype)

    def _low(self, at: int, x: Tensor) -> Tensor:
        now = (x, x._version, torch.is_grad_enabled(), compute_dtype(x))
        same = len(self._of) == len(now) and self._of[0] is x and self._of[1:] == now[1:]
        if not same or at not in self._parts:
            stacked = torch.cat([site.low for site in self.sites])
            products = F.linear(x.to(stacked.dtype), stacked)
            parts = torch.split(products, [len(site.low) for site in self.sites], dim=-1)
            self._of, self._parts = now, dict(enumerate(parts))
        out = self._parts.pop(at)
        if not self._parts:
            self._of = ()
        return out


def _share(program: Program) -> Undo:
    shared = [SharedProduct(sites) for sites in _groups(program)]
    return all_of([
        swap(site.module, "forward", partial(one.forward, at)) for one in shared for at, site in enumerate(one.sites)
    ])  # fmt: skip


SHARED = LiveRemedy(
    name="shared-a",
    kind="same_training",
    text="one product for the A of layers that read the same input: torch.cat((A_q, A_k, A_v)) @ x, then split",
    fits=lambda p: _no_fusing(p) or (None if _groups(p) else "no two adapted layers read the same input"),
    apply=_share,
    findings=("L5",),
)
