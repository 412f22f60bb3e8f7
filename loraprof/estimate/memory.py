"""How much memory does an arm need at its peak, and does it fit?

Peak = weights + gradients + optimizer state + activations saved for backward + what the loss holds when backward
begins. Saved tensors follow transformers' eager code (arXiv 2205.05198 counts the same way); an adapter in fp32 on a
16-bit base saves a second, fp32 copy of its input.
"""

from loraprof.analysis.costmodel.linear import saved_bytes
from loraprof.analysis.costmodel.variants import VARIANTS
from loraprof.estimate.architecture import Architecture, Layer, adapted, adapter_parameters
from loraprof.estimate.work import parameter_width, trainable, trained_width, variant, width
from loraprof.model.estimate import Memory, Settings
from loraprof.model.gpu import GpuSpec

NF4_BYTES = 0.516  # per weight: packed, and its scales quantised again
USABLE = 0.94
STATE = {"adamw": 2.0, "adamw-fused": 2.0, "sgd": 0.0}  # moments, in parameters' widths
EIGHT_BIT_STATE = 2.0  # bytes per parameter
# Bytes per element of the activation's width, 16-bit, that backward needs.
ACTIVATION = {"gated": (6, 6), "gelu_tanh": (8, 4), "gelu": (4, 4), "relu": (4, 4)}  # eager, fused


def memory(architecture: Architecture, settings: Settings, arm: str, gpu: GpuSpec) -> Memory:
    """Of one GPU; with FSDP or ZeRO-3 weights, gradients and states are spread over all of them."""
    spread = settings.gpus if settings.parallel in ("fsdp", "zero3") else 1
    trained, element = trainable(architecture, settings, arm), trained_width(settings, arm)
    weights = _weights(architecture, settings)
    if arm == "lora":
        weights += adapter_parameters(architecture, settings.rank, settings.targets) * element
    gradients = trained * element
    state = trained * (EIGHT_BIT_STATE if settings.optimizer == "adamw-8bit" else STATE[settings.optimizer] * element)
    active = activations(architecture, settings, arm)
    held = [round(size / spread) for size in (weights, gradients, state)]
    gathered = round(weights / architecture.layers) if spread > 1 else 0  # one layer at a time is whole
    backward, step = held[0] + gathered + round(active), sum(held)
    peak = max(backward + held[2] + held[1] // 2, step + held[1])
    capacity = min(gpu.memory_bytes, default=0)
    return Memory(
        weights_bytes=held[0],
        gradients_bytes=held[1],
        optimizer_bytes=held[2],
        activations_bytes=round(active),
        peak_bytes=peak,
        fits=peak <= USABLE * capacity,
    )


def _weights(architecture: Architecture, settings: Settings) -> float:
    element = parameter_width(settings)
    if settings.quantized == "none":
        return float(architecture.parameters * element)
    linears = sum(count * linear.parameters for count, linear in architecture.linears())
    return (architecture.parameters - linears) * element + linears * NF4_BYTES


def activations(architecture: Architecture, settings: Settings, arm: str) -> float:
    """Saved for backward when it begins, the loss included."""
    per_layer = [(s.count, layer_activations(s.layer, settings, arm)) for s in architecture.stacks]
    t, w = settings.tokens, width(settings)
    if settings.checkpointing:
        inputs = sum(count * t * stack.layer.share * stack.layer.hidden * w
                   for stack, (count, _) in zip(architecture.stacks, per_layer, strict=True))  # fmt: skip
        blocks = inputs + max(one for _, one in per_layer)
    else:
        blocks = sum(count * one for count, one in per_layer)
    logits = 0 if architecture.labels else t * architecture.vocabulary
    # fp32 logits, log-softmax and its gradient; fused losses keep the 16-bit logits and their gradient.
    held = 2 * w if settings.fused_loss else 12
    return blocks + held * logits


def layer_activations(layer: Layer, settings: Settings, arm: str) -> float:
    """Of one layer without checkpointing."""
    t, w, d = settings.tokens * layer.share, width(settings), layer.hidden
    eager = settings.kernels == "eager"
    norm = max(4, w) if layer.norm == "rms" and eager else w
    saved = layer.norms * norm * t * d
    saved += ACTIVATION[layer.activation][0 if eager else 1] * (w / 2) * t * layer.inner
    queries, keys = layer.heads * layer.head_dim, layer.kv_heads * layer.head_dim
    saved += layer.attentions * w * t * (2 * queries + 2 * keys)
    if settings.attention == "eager":
        saved += layer.attentions * (w + 4) * settings.batch * layer.heads * settings.seq**2
    if layer.dropout:
        saved += 2 * t * d
    return saved + sum(_inputs(layer, settings, arm, settings.tokens))


def _inputs(layer: Layer, settings: Settings, arm: str, tokens: float) -> list[float]:
    """Of the linears: what neighbours share is saved once; a cast or a dropout makes a copy for each adapter."""
    chosen = VARIANTS.get(variant(settings) or "")
    copied = chosen is not None and (chosen.input_up or chosen.dropout)
    found: list[float] = []
    for i, linear in enumerate(layer.linears):
        carries = arm == "lora" and adapted(linear, settings.targets)
        t = tokens * linear.share * linear.calls
        shared = i > 0 and linear.k == layer.linears[i - 1].k == layer.hidden
        if carries and chosen is not None and copied:
            found.append(float(saved_bytes(chosen.id, round(t), linear.k, settings.rank)))
        elif (carries or arm == "full") and not shared:
            found.append(width(settings) * t * linear.k)
    return found
