"""FLOPs and compulsory bytes of one linear layer W (n x k) on T tokens: full, frozen, LoRA, merged, quantised.

    full    6 T k n FLOPs (forward, dX, dW)       frozen  4 T k n (forward, dX)
    LoRA    6 T r (k + n) on top of frozen        each GEMM moves T k, k n and T n elements

The dX terms vanish where the layer's input needs no gradient. Derivation; the LoRA graph is that of
arXiv 2106.09685 as PEFT executes it.
"""

from msgspec import Struct

from loraprof.analysis.costmodel.variants import VARIANTS, coefficients

NF4_READ, NF4_WRITE = 0.5, 2.0  # bytes per weight: packed, and the bf16 copy a GEMM then reads


class Pass(Struct, frozen=True):
    """One quantity split by phase."""

    forward: int
    backward: int

    def total(self, checkpointing: bool = False) -> int:
        """Forward and backward; full checkpointing recomputes the forward once."""
        return self.forward * (2 if checkpointing else 1) + self.backward


def gemm_bytes(t: int, k: int, n: int, width: int = 2) -> int:
    """One of the three GEMMs of a linear layer: all move the same three matrices."""
    return width * (t * k + k * n + t * n)


def full_flops(t: int, k: int, n: int, input_grad: bool = True) -> Pass:
    return Pass(2 * t * k * n, 2 * t * k * n * (2 if input_grad else 1))


def frozen_flops(t: int, k: int, n: int, input_grad: bool = True) -> Pass:
    return Pass(2 * t * k * n, 2 * t * k * n if input_grad else 0)


def lora_extra_flops(t: int, k: int, n: int, r: int, input_grad: bool = True) -> Pass:
    """On top of frozen: A and B forward; dS, dB, dA and, when the input needs a gradient, dX backward."""
    return Pass(2 * t * r * (k + n), 4 * t * r * n + 2 * t * r * k * (2 if input_grad else 1))


def break_even_rank(k: int, n: int) -> float:
    """Rank at which LoRA costs the FLOPs of full fine-tuning: k n / (3 (k + n)), d/6 for a square layer."""
    return k * n / (3 * (k + n))


def full_bytes(t: int, k: int, n: int, width: int = 2, input_grad: bool = True, accumulating: bool = False) -> Pass:
    """W trained. ``accumulating``: from the second micro-batch on the new gradient is added to the old one."""
    one = gemm_bytes(t, k, n, width)
    return Pass(one, one * (2 if input_grad else 1) + (3 * width * k * n if accumulating else 0))


def frozen_bytes(t: int, k: int, n: int, width: int = 2, input_grad: bool = True) -> Pass:
    one = gemm_bytes(t, k, n, width)
    return Pass(one, one if input_grad else 0)


def lora_extra_bytes(variant: str, t: int, k: int, n: int, r: int, input_grad: bool = True, width: int = 2) -> Pass:
    """What the adapter adds to its frozen linear. Raises KeyError for an unknown variant.

    ``width`` is the element size of a layer that runs V1 or V2 in one dtype throughout (4 for fp32). A dropout
    mask stays one byte per element.
    """
    forward, backward = coefficients(variant, input_grad)
    extra = Pass(forward.bytes(t, k, n, r), backward.bytes(t, k, n, r))
    if width == 2:
        return extra
    if variant not in ("V1", "V2"):
        raise ValueError(f"{variant} is defined for a 16-bit base")
    mask = t * k if VARIANTS[variant].dropout else 0
    passed = mask if input_grad else 0
    scaled = Pass((extra.forward - mask) * width // 2, (extra.backward - passed) * width // 2)
    return Pass(scaled.forward + mask, scaled.backward + passed)


def saved_bytes(variant: str, t: int, k: int, r: int) -> int:
    """Activations the adapter keeps for its backward: its input for dA, the dropout mask, S = x A^T."""
    v = VARIANTS[variant]
    return v.width * t * k + (t * k if v.dropout else 0) + v.width * t * r


def merged_weight_bytes(k: int, n: int, form: str = "folded") -> int:
    """Extra bytes of y = x (W + s B A)^T in bf16 per layer and pass (arXiv 2312.03415).

    "folded": s inside B, write BA, read W and BA, write W'; "scaled": a kernel of its own for s; "addmm": one.
    """
    return {"folded": 8, "scaled": 12, "addmm": 4}[form] * k * n


def dequantize_bytes(k: int, n: int, checkpointing: bool = False) -> int:
    """NF4 base (arXiv 2305.14314): the bf16 weight is rebuilt for forward and dX, again for the recompute."""
    return int((NF4_READ + NF4_WRITE) * k * n) * (3 if checkpointing else 2)


def dequantize_share(rho: float, t: int) -> float:
    """Dequantisation time over GEMM time at effective machine balance ``rho`` (FLOP/B): 1.25 rho / T."""
    return (NF4_READ + NF4_WRITE) / 2 * rho / t


def intensity(t: int, k: int, r: int, width: int = 2) -> float:
    """FLOP per byte of the product [T, k] x [k, r]."""
    return 2 * t * k * r / (width * (t * k + k * r + t * r))
