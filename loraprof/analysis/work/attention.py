"""Fused attention: two products forward, five backward (one recomputes the scores), scores never stored.

With s_q x s_k scores per head, forward 2 b h s_q s_k (d_qk + d_v) FLOPs, backward 2 b h s_q s_k (3 d_qk + 2 d_v)
(FlashAttention, arXiv 2205.14135; the same count as ``torch.utils.flop_counter``, which ignores causality).
"""

from collections.abc import Mapping
from typing import NamedTuple

from loraprof.analysis.work.rule import Rule, Work, product
from loraprof.analysis.work.tensors import Inputs, Tensor, UnknownInput, dense


class Layout(NamedTuple):
    """Where an attention op keeps its arguments."""

    q: int  # position of q; k and v follow
    heads_first: bool  # [batch, heads, tokens, width], else [batch, tokens, heads, width]
    causal: int  # position of is_causal (or custom_mask_type, 0 = none)
    gradients: bool = False
    saved: bool = True  # the forward writes a log-sum-exp


LAYOUTS = {
    "_scaled_dot_product_flash_attention": Layout(0, True, 4),
    "_scaled_dot_product_flash_attention_for_cpu": Layout(0, True, 4),
    "_scaled_dot_product_efficient_attention": Layout(0, True, 6),
    "_scaled_dot_product_cudnn_attention": Layout(0, True, 6),
    "_scaled_dot_product_fused_attention_overrideable": Layout(0, True, 5),
    "scaled_dot_product_attention": Layout(0, True, 5, saved=False),
    "_flash_attention_forward": Layout(0, False, 8),
    "_efficient_attention_forward": Layout(0, False, 9),
    "_cudnn_attention_forward": Layout(0, True, 10),
    "_scaled_dot_product_flash_attention_backward": Layout(1, True, 11, True),
    "_scaled_dot_product_flash_attention_for_cpu_backward": Layout(1, True, 7, True),
    "_scaled_dot_product_efficient_attention_backward": Layout(1, True, 11, True),
    "_scaled_dot_product_cudnn_attention_backward": Layout(1, True, 14, True),
    "_flash_attention_backward": Layout(1, False, 11, True),
    "_efficient_attention_backward": Layout(1, False, 14, True),
    "_cudnn_attention_backward": Layout(1, True, 14, True),
}


def _pairs(tokens_q: int, tokens_k: int) -> int:
    """Scores a causal mask keeps (top-left aligned, as is_causal)."""
    n = min(tokens_q, tokens_k)
    return n * (n + 1) // 2 + (tokens_q - n) * tokens_k


def attention(op: str, inputs: Inputs) -> Work:
    at = LAYOUTS[op]
    q, k, v = (inputs.tensor(at.q + i) for i in range(3))
    if len(q.dims) != 4:
        raise UnknownInput("packed sequences")  # [tokens, heads, width]: lengths are data
    heads, tokens = (1, 2) if at.heads_first else (2, 1)
    rows = q.dims[0] * q.dims[heads]
    s_q, s_k = q.dims[tokens], k.dims[tokens]
    width = 3 * q.dims[3] + 2 * v.dims[3] if at.gradients else q.dims[3] + v.dims[3]
    try:
        causal = inputs.text(at.causal) not in ("False", "0", "")
    except UnknownInput:
        causal = True  # not recorded: half the products is what no mask avoids
    writes = _outputs(at, q, k, v, rows * s_q)
    least = _pairs(s_q, s_k) if causal else s_q * s_k
    flops = 2 * rows * width
    return product(flops * s_q * s_k, inputs.tensors(), writes, "attention", q.dtype, flops * least)


def _outputs(at: Layout, q: Tensor, k: Tensor, v: Tensor, rows: int) -> list[Tensor]:
    if at.gradients:
        return [dense(t.dims, t.dtype) for t in (q, k, v)]
    lse = [dense((rows,), "float32")] if at.saved else []
    return [dense((*q.dims[:3], v.dims[3]), q.dtype), *lse]


RULES: Mapping[str, Rule] = dict.fromkeys(LAYOUTS, attention)
