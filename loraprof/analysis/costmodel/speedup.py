"""What can LoRA gain over full fine-tuning, and from which hidden size on does it gain at all?

Unit: one forward of all linears. Full fine-tuning costs 3 (forward, dX, dW), LoRA at best 2; full checkpointing
adds one recomputed forward to both. Attention has no weights: forward a, backward 2.5 a (arXiv 2205.14135). The
optimizer costs o when all parameters are trained.

    S = (3 + 3.5 a + o) / (2 + 3.5 a)        with checkpointing  (4 + 4.5 a + o) / (3 + 4.5 a)

The bandwidth crossover compares the adapter's traffic c T d / BW with the skipped weight gradient 2 T d^2 / F.
"""

from typing import Literal

from loraprof.analysis.costmodel.variants import coefficients, full_size

ATTENTION_BACKWARD = 2.5


def ideal_speedup(
    attention: float = 0.0,
    optimizer: float = 0.0,
    checkpointing: bool = False,
    head: float = 0.0,
    head_trained: Literal["full", "both", "neither"] = "full",
    other: float = 0.0,
) -> float:
    """Upper bound of full/LoRA time; 3/2 without checkpointing, 4/3 with it, when nothing else takes time.

    ``head``: the head's forward, never recomputed; ``head_trained`` says which arm has its weight gradient.
    ``optimizer``: what only the full arm pays (step, clipping, accumulation). ``other``: what both arms pay.
    """
    recomputed = 1 if checkpointing else 0
    shared = attention * (1 + ATTENTION_BACKWARD + recomputed) + other
    full = 3 + recomputed + shared + head * (2 if head_trained == "neither" else 3) + optimizer
    lora = 2 + recomputed + shared + head * (3 if head_trained == "both" else 2)
    return full / lora


def attention_share(seq: int, hidden: int, layers: int, parameters: int) -> float:
    """a of causal attention in FLOPs: s d L / P."""
    return seq * hidden * layers / parameters


def partial_cost(kappa: float, lora: bool, checkpointing: bool = False) -> float:
    """Cost of training only the top ``kappa`` of the layers, in forward units; the rest runs forward only."""
    per_layer = (1 if lora else 2) + (1 if checkpointing else 0)
    return 1 + per_layer * kappa


def partial_speedup(kappa: float, lora: bool, checkpointing: bool = False) -> float:
    """Over full fine-tuning of all layers in the same checkpointing mode."""
    return partial_cost(1.0, False, checkpointing) / partial_cost(kappa, lora, checkpointing)


def crossover_hidden(variant: str, rho: float, checkpointing: bool = False) -> float:
    """d*: square layers narrower than this lose to full fine-tuning in forward plus backward: c rho / 2."""
    c_k, c_n = full_size(variant, checkpointing)
    return (c_k + c_n) / 2 * rho


def layer_margin(variant: str, k: int, n: int, checkpointing: bool = False) -> float:
    """m = 2 k n / (c_k k + c_n n) in FLOP/B: this layer gains from LoRA when m > rho."""
    c_k, c_n = full_size(variant, checkpointing)
    return 2 * k * n / (c_k * k + c_n * n)


def forward_slowdown(variant: str, rho: float, hidden: int) -> float:
    """Adapted over frozen forward time of a square layer in the bandwidth regime: 1 + c_fwd rho / (2 d)."""
    return 1 + coefficients(variant)[0].square * rho / (2 * hidden)
