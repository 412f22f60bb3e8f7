"""A LoRA written by hand, as in github.com/jingyaogong/minimind: a script's own, which PEFT knows nothing of.

A module hung on each linear, whose forward is replaced: y = W x + B A x, without a scaling factor.
"""

from collections.abc import Callable, Iterable
from functools import partial

from torch import Tensor, nn


class LoRA(nn.Module):
    """B A x in the base layer's dtype; ``scaling`` 1, the original's only choice, costs no kernel."""

    def __init__(self, base: nn.Linear, rank: int, scaling: float, dropout: float) -> None:
        super().__init__()
        self.rank, self.scaling = rank, scaling
        like = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.A = nn.Linear(base.in_features, rank, bias=False, **like)
        self.B = nn.Linear(rank, base.out_features, bias=False, **like)
        nn.init.normal_(self.A.weight, std=0.02)
        nn.init.zeros_(self.B.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.B(self.A(self.dropout(x)))
        return out if self.scaling == 1 else out * self.scaling


def attach_lora(linears: Iterable[nn.Linear], rank: int, scaling: float, dropout: float) -> None:
    """Hang a LoRA on each linear and replace its forward."""
    for linear in linears:
        linear.lora = LoRA(linear, rank, scaling, dropout)
        linear.forward = partial(_adapted, linear.forward, linear.lora)  # type: ignore[method-assign]


def _adapted(base: Callable[[Tensor], Tensor], lora: LoRA, x: Tensor) -> Tensor:
    out: Tensor = base(x) + lora(x)
    return out
