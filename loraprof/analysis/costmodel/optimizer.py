"""Bytes per trained parameter and optimizer step: AdamW, gradient clipping, accumulation.

Derivation: every pass over a tensor reads or writes it once. foreach AdamW makes eight passes (mul, lerp, mul,
addcmul, sqrt, div, add, addcdiv: 20 tensor reads and writes); the fused one reads p, g, m, v and writes p, m, v.
"""


def adamw_bytes(width: int = 2, fused: bool = False, master: bool = False) -> int:
    """B/parameter with parameters, gradients and moments of ``width`` bytes.

    ``master``: 16-bit parameters and gradients with fp32 master copy and moments, fused.
    """
    if master:
        return 2 + 3 * 4 + 3 * 4 + 2
    return (7 if fused else 20) * width


def sgd_bytes(width: int = 2, momentum: bool = False) -> int:
    """p and g read, p written; the momentum buffer read and written."""
    return (5 if momentum else 3) * width


def clip_bytes(width: int = 2) -> int:
    """clip_grad_norm_: the norm reads, scaling in place reads and writes."""
    return 3 * width


def accumulate_bytes(width: int = 2) -> int:
    """AccumulateGrad from the second micro-batch on: old and new gradient read, sum written."""
    return 3 * width


def optimizer_share(beta: float, rho: float, tokens_per_step: float) -> float:
    """o: optimizer time over one forward of all linears, beta rho / (2 T_step); all parameters trained."""
    return beta * rho / (2 * tokens_per_step)


def accumulate_share(rho: float, t: float) -> float:
    """AccumulateGrad time over that of the weight-gradient GEMM in bf16: 3 rho / T."""
    return 3 * rho / t
