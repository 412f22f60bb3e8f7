"""PaCA: train a random subset of each weight's input columns (arXiv 2503.01905), so no adapter kernel exists.

Forward: the trained columns P are written into W, then Y = X W^T + b.  Saved: X[:, columns], T r numbers.
Backward: dP = dY^T X[:, columns];  dX = dY W.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from loraprof.errors import UsageError
from loraprof.model.workload import WorkloadSpec
from loraprof.workloads.adapters import compute_dtype, is_conv1d, targets_of
from loraprof.workloads.arms.partial import train_head
from loraprof.workloads.arms.sites import weight_of


class PartialLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        columns: Tensor,
        index: Tensor,
        dtype: torch.dtype,
    ) -> Tensor:
        weight.index_copy_(1, index, columns)
        flat = x.reshape(-1, x.shape[-1]).to(dtype)
        y = F.linear(flat, weight.to(dtype), None if bias is None else bias.to(dtype))
        ctx.save_for_backward(flat[:, index])
        # Not saved through autograd: the next forward writes the same columns again and raises its version.
        ctx.weight = weight
        ctx.shape, ctx.dtype_in = x.shape, x.dtype
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (selected,) = ctx.saved_tensors
        dy = grad.reshape(-1, grad.shape[-1]).to(selected.dtype)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (dy @ ctx.weight.to(dy.dtype)).view(ctx.shape).to(ctx.dtype_in)
        return dx, None, None, (dy.t() @ selected).to(ctx.weight.dtype), None, None


def paca(base: nn.Module, spec: WorkloadSpec, k: int) -> nn.Module:
    """``rank`` columns of each adapted linear layer, in the base's dtype."""
    base.requires_grad_(False)
    generator = torch.Generator().manual_seed(spec.seed)
    for name in targets_of(base, spec):
        linear: Any = base.get_submodule(name)
        if not (isinstance(linear, nn.Linear) or is_conv1d(linear)):
            raise UsageError(f"arm paca handles linear layers only, {name} is {type(linear).__name__}")
        weight = weight_of(linear)
        rank = min(spec.rank, weight.shape[1])
        index = torch.randperm(weight.shape[1], generator=generator)[:rank].sort().values
        linear.paca_index = nn.Buffer(index.to(weight.device))
        linear.paca_columns = nn.Parameter(weight[:, linear.paca_index].clone())
        linear.forward = partial(_forward, linear)
    return train_head(base, spec)


def _forward(linear: Any, x: Tensor) -> Tensor:
    columns, index = linear.paca_columns, linear.paca_index
    y: Tensor = PartialLinear.apply(  # type: ignore[no-untyped-call]
        x, weight_of(linear), linear.bias, columns, index, compute_dtype(x)
    )
    return y
