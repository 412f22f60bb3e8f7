"""What does DoRA add to a frozen linear layer (bf16, no bias), as PEFT executes it?

y = m / |W + s B A| * (W x + s B A x) (arXiv 2402.09353). PEFT forms B A as B(A(identity)), adds it to W and takes
row norms in every forward: terms in k n and k k that do not depend on T. With dropout the base product is
computed a second time on the dropped input.
"""

from msgspec import Struct

from loraprof.analysis.costmodel.linear import Pass, gemm_bytes, lora_extra_flops

FORWARD_LAUNCHES = 15
BACKWARD_LAUNCHES = 15
DROPOUT_LAUNCHES = 2  # more in each direction


class DoraShape(Struct, frozen=True):
    """One layer and the tokens it sees."""

    t: int
    k: int
    n: int
    r: int


def dora_bytes(s: DoraShape, dropout: bool = False) -> Pass:
    """Extra bytes over the frozen layer, all tensors bf16; dropout is one fused op with a byte mask."""
    tk, tn, tr = s.t * s.k, s.t * s.n, s.t * s.r
    weight_norm = 4 * s.k * s.k + 14 * s.k * s.n + 4 * s.k * s.r + 2 * s.n * s.r
    forward = weight_norm + 2 * tk + 26 * tn + 4 * s.k * s.r + 2 * s.n * s.r + 4 * tr + 16 * s.n
    backward = 10 * tk + 38 * tn + 4 * s.k * s.r + 4 * s.n * s.r + 8 * tr + 20 * s.n
    if dropout:
        recomputed = gemm_bytes(s.t, s.k, s.n)
        forward += 5 * tk + recomputed
        backward += 5 * tk + recomputed + 6 * tk - 6 * tn
    return Pass(forward, backward)


def dora_flops(s: DoraShape, dropout: bool = False) -> Pass:
    """Extra FLOPs over the frozen layer: LoRA's, the product B A, and the second base product with dropout."""
    lora = lora_extra_flops(s.t, s.k, s.n, s.r)
    recomputed = 2 * s.t * s.k * s.n if dropout else 0
    return Pass(lora.forward + 2 * s.k * s.r * (s.k + s.n) + recomputed, lora.backward + recomputed)


def dora_launches(dropout: bool = False) -> Pass:
    more = DROPOUT_LAUNCHES if dropout else 0
    return Pass(FORWARD_LAUNCHES + more, BACKWARD_LAUNCHES + more)
