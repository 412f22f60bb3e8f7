"""LoRA as one autograd function per layer: how fast is the adapter when no pass over memory is wasted?

fused:  H = X A^T;  Y = X W^T + b, then Y += s H B^T in place.  Saved: X and H.
merged: Y = X (W + s B A)^T + b, the merged weight built by one addmm (RunLoRA, arXiv 2312.03415).  Saved: X.
Both:   dH = s dY B;  dA = dH^T X;  dB = s dY^T H;  dX = dY W, then dX += dH A in place.
No dense gradient of W is ever formed, and scaling and sums ride in the GEMMs.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from loraprof.model.workload import WorkloadSpec
from loraprof.workloads.adapters import compute_dtype
from loraprof.workloads.arms.lora import lora
from loraprof.workloads.arms.sites import Site, lora_sites


class LowRankLinear(torch.autograd.Function):
    """Computes in ``dtype`` whatever the adapter's own dtype: fp32 adapters are master weights here."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scaling: float,
        dtype: torch.dtype,
        merge: bool,
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1]).to(dtype)
        w, a, b = weight.to(dtype), down.to(dtype), up.to(dtype)
        low_bias = None if bias is None else bias.to(dtype)
        if merge:
            h = None
            y = F.linear(flat, torch.addmm(w, b, a, alpha=scaling), low_bias)
        else:
            h = flat @ a.t()
            y = F.linear(flat, w, low_bias).addmm_(h, b.t(), alpha=scaling)
        ctx.save_for_backward(flat, h, weight, down, up)
        ctx.scaling, ctx.shape, ctx.dtype_in = scaling, x.shape, x.dtype
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        flat, h, weight, down, up = ctx.saved_tensors
        dtype = flat.dtype
        a, dy = down.to(dtype), grad.reshape(-1, grad.shape[-1]).to(dtype)
        dh = scaled_mm(dy, up.to(dtype), ctx.scaling)
        da = dh.t() @ flat
        db = scaled_mm(dy.t(), flat @ a.t() if h is None else h, ctx.scaling)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (dy @ weight.to(dtype)).addmm_(dh, a).view(ctx.shape).to(ctx.dtype_in)
        return dx, None, None, da.to(down.dtype), db.to(up.dtype), None, None, None


def scaled_mm(left: Tensor, right: Tensor, scaling: float) -> Tensor:
    """scaling (left @ right) in one kernel: with beta 0 addmm never reads what it adds to."""
    return left.new_empty(left.shape[0], right.shape[1]).addmm_(left, right, beta=0, alpha=scaling)


def lora_fused(base: nn.Module, spec: WorkloadSpec, k: int) -> nn.Module:
    return _replace(lora(base, spec, k), "lora-fused", merge=False)


def lora_merged(base: nn.Module, spec: WorkloadSpec, k: int) -> nn.Module:
    return _replace(lora(base, spec, k), "lora-merged", merge=True)


def _replace(model: nn.Module, arm: str, merge: bool) -> nn.Module:
    for site in lora_sites(model, arm):
        site.module.forward = partial(_forward, site, merge)
    return model


def _forward(site: Site, merge: bool, x: Tensor) -> Tensor:
    bias, a, b = site.base.bias, site.down.weight, site.up.weight
    out: Tensor = LowRankLinear.apply(x, site.weight, bias, a, b, site.scaling, compute_dtype(x), merge)  # type: ignore[no-untyped-call]
    return out
