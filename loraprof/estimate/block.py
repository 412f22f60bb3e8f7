"""What of a step is no linear layer? Norms, positions, attention, activation, residuals, head and loss.

Eager counts are those of transformers' modelling code, seen in recordings of it; "fused" is one kernel per part
that reads and writes each tensor once. E below is elements: tokens times the part's width.
"""

from collections.abc import Iterator

from msgspec.structs import replace

from loraprof.analysis.costmodel.blocks import (
    AttentionShape,
    attention_bytes,
    attention_flops,
    layer_norm_bytes,
    loss_bytes,
    rms_norm_bytes,
    rms_norm_launches,
)
from loraprof.analysis.costmodel.linear import Pass
from loraprof.estimate.architecture import Architecture, Layer, Linear, Stack
from loraprof.estimate.work import Work, compute_dtype, linear_work, optimizer_work, width
from loraprof.model.estimate import Settings
from loraprof.model.vocabulary import Phase

DIRECTIONS: tuple[Phase, Phase] = ("forward", "backward")
# (kernels, bytes per 16-bit element) forward and backward
ROTARY = {"eager": ((10, 20), (18, 28)), "fused": ((2, 4), (2, 4))}
ACTIVATION = {
    "gated": {"eager": ((2, 10), (3, 18)), "fused": ((1, 6), (1, 10))},
    "gelu_tanh": {"eager": ((8, 36), (11, 54)), "fused": ((1, 4), (1, 6))},
    "gelu": {"eager": ((1, 4), (1, 6)), "fused": ((1, 4), (1, 6))},
    "relu": {"eager": ((1, 4), (1, 6)), "fused": ((1, 4), (1, 6))},
}
EAGER_ATTENTION = ((8, 10), (12, 16))  # scale, mask, softmax in fp32, dropout; bytes per score
EXPERT_KERNELS = (8, 10)  # index, gather, weight and scatter of one expert


def step_work(architecture: Architecture, settings: Settings, arm: str) -> list[Work]:
    """Everything one optimizer step launches, micro-batches and recomputation included."""
    found: list[Work] = []
    for stack in architecture.stacks:
        blocks = list(_layer_work(stack, settings, arm))
        if settings.checkpointing:
            blocks += [_recomputed(one) for one in blocks if one.phase == "forward"]
        found += [one.times(stack.count * settings.accumulate) for one in blocks]
    found += [one.times(settings.accumulate) for one in _embedding_and_head(architecture, settings, arm)]
    found += optimizer_work(architecture, settings, arm)
    return found


def _recomputed(one: Work) -> Work:
    return replace(one, phase="recompute", key="adapter" if one.key == "adapter" else "recompute")


def _layer_work(stack: Stack, settings: Settings, arm: str) -> Iterator[Work]:
    layer, t = stack.layer, settings.tokens * stack.layer.share
    for linear in layer.linears:
        yield from linear_work(linear, settings, arm, settings.tokens)
    yield from _norms(layer, settings, arm == "full", t)
    how = "eager" if settings.kernels == "eager" else "fused"
    w, d = width(settings), layer.hidden
    if layer.rotary:
        wide = t * (layer.heads + layer.kv_heads) * layer.head_dim
        yield from _pair("position", "position", ROTARY[how], wide * w / 2)
    yield from _pair("activation", "elementwise", ACTIVATION[layer.activation][how], t * layer.inner * w / 2)
    adds = max(2, len([one for one in layer.linears if one.calls == 1]) - 2)
    counts = ((2, 12), (adds, 6 * adds)) if how == "eager" else ((1, 6), (1, 6))
    yield from _pair("residual", "elementwise", counts, t * d * w / 2)
    if layer.dropout:
        yield from _pair("dropout", "elementwise", ((2, 10), (2, 10)), t * d * w / 2)
    for _ in range(layer.attentions):
        yield from _attention(layer, settings)
    if layer.experts:
        calls = layer.experts if how == "eager" else 1
        counts = ((EXPERT_KERNELS[0] * calls, 12), (EXPERT_KERNELS[1] * calls, 16))
        yield from _pair("other", "elementwise", counts, t * layer.routed * d * w / 2)


def _pair(role: str, shape: str, counts: tuple[tuple[int, int], tuple[int, int]], elements: float) -> Iterator[Work]:
    """Forward and backward of one part."""
    for phase, (kernels, moved) in zip(DIRECTIONS, counts, strict=True):
        yield Work(phase, role, shape, kernels, 0, moved * elements, "", role, 2 * elements)


def _norms(layer: Layer, settings: Settings, trained: bool, t: float) -> Iterator[Work]:
    w, d, rows = width(settings), layer.hidden, round(t)
    if layer.norm == "rms" and settings.kernels == "eager":
        moved, kernels = rms_norm_bytes(rows, d, w, trained), rms_norm_launches(w, trained)
    else:
        moved, kernels = layer_norm_bytes(rows, d, w, trained), Pass(1, 2 if trained else 1)
    counts = ((kernels.forward, moved.forward), (kernels.backward, moved.backward))
    yield from (one.times(layer.norms) for one in _pair("norm", "elementwise", counts, 1))


def _attention(layer: Layer, settings: Settings) -> Iterator[Work]:
    shape = AttentionShape(settings.batch, layer.heads, settings.seq, layer.head_dim, layer.kv_heads)
    flops, moved = attention_flops(shape), attention_bytes(shape, width(settings))
    dtype = compute_dtype(settings) if settings.dtype != "float8" else "bfloat16"
    if settings.attention == "flash":
        half = 0.5 if layer.causal else 1.0
        yield Work("forward", "attention", "attention", 2, half * flops.forward, moved.forward, dtype, "attention")
        yield Work("backward", "attention", "attention", 7, half * flops.backward, moved.backward, dtype, "attention")
        return
    scores = settings.batch * layer.heads * settings.seq**2
    (ahead, read), (behind, reread) = EAGER_ATTENTION
    wide = width(settings) / 2
    yield Work("forward", "attention", "attention", 2, flops.forward, 0, dtype, "attention")
    yield Work("forward", "attention", "elementwise", ahead, 0, read * wide * scores, "", "attention")
    yield Work("backward", "attention", "attention", 4, 0.8 * flops.backward, 0, dtype, "attention")
    yield Work("backward", "attention", "elementwise", behind, 0, reread * wide * scores, "", "attention")


def _embedding_and_head(architecture: Architecture, settings: Settings, arm: str) -> Iterator[Work]:
    """Embedding, last norm, head and loss; adapters do not reach them."""
    t, d, w = settings.tokens, architecture.hidden, width(settings)
    last = architecture.stacks[-1].layer
    if architecture.embeds:
        yield Work("forward", "embedding", "elementwise", 2, 0, 2 * w * t * d, "", "embedding")
        if arm == "full":
            wiped = 2 * w * architecture.vocabulary * d
            yield Work("backward", "embedding", "elementwise", 3, 0, wiped + 3 * w * t * d, "", "wgrad")
    if architecture.labels:
        return
    yield from _norms(Layer((), d, 1, last.norm, last.activation, 0), settings, arm == "full", t)
    dtype = "bfloat16" if settings.dtype == "float8" else settings.dtype
    plain = replace(settings, quantized="none", dtype=dtype)
    for one in linear_work(Linear("head", d, architecture.vocabulary), plain, "full" if arm == "full" else "frozen", t):
        yield replace(one, role="head", key=one.key if one.key == "wgrad" else "head")
    moved = loss_bytes(t, architecture.vocabulary, settings.batch, w)
    if settings.fused_loss:
        logits = w * t * architecture.vocabulary
        moved = Pass(2 * logits, 2 * logits)
    yield from _pair("loss", "loss", ((7, moved.forward), (4, moved.backward)), 1)
