"""FLOPs and bytes of what is no linear layer: attention, norms, head, loss, as eager transformers models run them.

Derivation: the operators of transformers' LlamaRMSNorm, torch's layer_norm, fused scaled-dot-product attention
and the causal-LM loss, every input read once, every output written once. ``width`` is bytes per activation.
"""

from msgspec import Struct

from loraprof.analysis.costmodel.linear import Pass


class AttentionShape(Struct, frozen=True):
    """One fused attention call; ``kv_heads`` are repeated to ``heads`` before the call when ``repeated``."""

    batch: int
    heads: int
    tokens: int
    head_dim: int
    kv_heads: int | None = None

    @property
    def keys(self) -> int:
        return self.kv_heads or self.heads


def attention_flops(s: AttentionShape) -> Pass:
    """Two products forward, five backward (scores recomputed; arXiv 2205.14135); causality is not subtracted."""
    one = 2 * s.batch * s.heads * s.tokens * s.tokens * s.head_dim
    return Pass(2 * one, 5 * one)


def attention_bytes(s: AttentionShape, width: int = 2) -> Pass:
    """q, k, v read, the output and a fp32 log-sum-exp per row written; backward reads those and dO too."""
    q = width * s.batch * s.heads * s.tokens * s.head_dim
    kv = 2 * width * s.batch * s.keys * s.tokens * s.head_dim
    lse = 4 * s.batch * s.heads * s.tokens
    return Pass(2 * q + kv + lse, (3 * q + kv + lse) + (q + kv))


def rms_norm_bytes(t: int, d: int, width: int = 2, trained: bool = False) -> Pass:
    """Eager RMSNorm computed in fp32: 8 kernels forward, 14 backward (bf16), 2 fewer each in fp32."""
    cast = 2 * (width + 4) if width < 4 else 0
    forward = (cast + 20 + 2 * width) * t * d + 24 * t + width * d
    backward = (cast + 68 + 2 * width) * t * d + 40 * t + width * d
    if trained:
        backward += 4 * width * t * d + width * d
    return Pass(forward, backward)


def rms_norm_launches(width: int = 2, trained: bool = False) -> Pass:
    casts = 2 if width < 4 else 0
    return Pass(6 + casts, 12 + casts + (2 if trained else 0))


def layer_norm_bytes(t: int, d: int, width: int = 2, trained: bool = False) -> Pass:
    """Fused layer norm with weight and bias; mean and 1/std are fp32."""
    forward = 2 * width * t * d + 8 * t + 2 * width * d
    backward = 3 * width * t * d + 8 * t + width * d + (2 * width * d if trained else 0)
    return Pass(forward, backward)


def loss_bytes(t: int, vocabulary: int, sequences: int, width: int = 2) -> Pass:
    """Causal-LM cross entropy in fp32: labels shifted, logits cast up, log-softmax, one value per token picked.

    The logits pass through memory 3.5 times forward and 6 times backward (bf16), which is why it is fused away
    by chunked implementations.
    """
    logits = t * vocabulary
    cast = (width + 4) * logits if width < 4 else 0
    labels = 32 * t + 8 * sequences
    forward = cast + 8 * logits + labels + 12 * t + 8
    backward = cast + 16 * logits + 8 * t + 12
    return Pass(forward, backward)
