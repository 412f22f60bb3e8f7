"""A Hugging Face config -> Architecture. One reader per family; names of linears are those of transformers.

A model_type nobody here knows is read as a Llama when it has a Llama's fields, and said so.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec.structs import replace

from loraprof.errors import UsageError
from loraprof.estimate.architecture import ROUTER, Activation, Architecture, Layer, Linear, Stack
from loraprof.estimate.fields import Fields
from loraprof.estimate.vision import resnet, vit

LLAMAS: Final = ("llama", "mistral", "minimind", "smollm3", "granite", "olmo", "cohere", "stablelm", "gemma", "yi")
EXPERTS: Final = ("num_local_experts", "num_experts", "n_routed_experts")
BIASED: Final = ("qwen2", "qwen2_moe", "qwen2_vl", "qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text")  # of q, k and v
NORMED: Final = ("qwen3", "qwen3_moe", "qwen3_vl_text", "olmo2", "gemma3_text")  # queries and keys are normed too
ALIEN: Final = ("kv_lora_rank", "q_lora_rank", "state_size", "mamba_d_state", "ssm_cfg", "type_vocab_size",
                "classifier_pooling", "patch_size", "new_decoder_architecture", *EXPERTS)  # fmt: skip
UNGATED: Final[dict[str, tuple[tuple[str, ...], tuple[str, str]]]] = {  # attention's linears, the feed-forward's two
    "gpt_neox": (("query_key_value", "attention.dense"), ("dense_h_to_4h", "dense_4h_to_h")),
    "phi": (("q_proj", "k_proj", "v_proj", "dense"), ("fc1", "fc2")),
    "starcoder2": (("q_proj", "k_proj", "v_proj", "o_proj"), ("c_fc", "c_proj")),
    "nemotron": (("q_proj", "k_proj", "v_proj", "o_proj"), ("up_proj", "down_proj")),
}


def architecture(config: Mapping[str, Any], name: str, where: str) -> Architecture:
    """Raises UsageError in one line for what is missing, contradicting or no size."""
    family, inner = config.get("model_type"), config.get("text_config")
    if isinstance(inner, dict) and "hidden_size" not in config:
        note = f"the text model of {family} alone: its other networks are left out"
        return _noted(architecture({"model_type": "llama", **inner}, name, where), note)
    if not isinstance(family, str):
        raise UsageError(f"{where}: `model_type` is missing", f"known: {', '.join(sorted(READERS))}")
    fields = Fields(config, where)
    return READERS[family](fields, name, family) if family in READERS else _unknown(fields, name, family)


def _unknown(fields: Fields, name: str, family: str) -> Architecture:
    """As a Llama, where nothing contradicts that."""
    alien = [key for key in ALIEN if fields.has(key)]
    if not {*(fields.values.get("layer_types") or ())} <= {"full_attention", "sliding_attention"}:
        alien.append("layer_types")
    if alien:
        raise UsageError(f"{fields.where}: unknown architecture {family!r}, and no Llama has its `{alien[0]}`", None)
    return _noted(_llama(fields, name, family), f"the architecture {family!r} is unknown and read as a Llama")


def _noted(found: Architecture, note: str) -> Architecture:
    return replace(found, notes=(*found.notes, note))


def _llama(f: Fields, name: str, family: str) -> Architecture:
    """q, k, v, o, gate, up, down; also with experts in place of the last three (Mixtral, Qwen-MoE, OLMoE)."""
    d = f.size("hidden_size")
    heads, kv_heads, head_dim = f.heads(d)
    count = f.size("num_hidden_layers")
    biased = family in BIASED or bool(f.values.get("attention_bias"))
    q, kv = heads * head_dim, kv_heads * head_dim
    attention: tuple[Linear, ...]
    if family == "phi3":
        attention = (Linear("qkv_proj", d, q + 2 * kv), Linear("o_proj", q, d))
    else:
        attention = (
            Linear("q_proj", d, q, biased),
            Linear("k_proj", d, kv, biased),
            Linear("v_proj", d, kv, biased),
            Linear("o_proj", q, d),
        )
    mlp, inner, experts, routed = _feed_forward(f, d, family)
    extra = 2 * (heads + kv_heads) * head_dim / d if family in NORMED or family.startswith("qwen3") else 0
    layer = Layer(
        linears=attention + mlp,
        hidden=d,
        norms=2 + round(extra / 2) + (2 if family.startswith(("gemma2", "gemma3")) else 0),
        norm="rms",
        activation="gated",
        inner=inner,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        rotary=True,
        experts=experts,
        routed=routed,
    )
    vocabulary = f.size("vocab_size")
    tied = f.flag("tie_word_embeddings", family.startswith("gemma") or family == "minimind")
    f.close(family if family in READERS else f"unknown architecture {family!r}, read as a Llama,")
    return Architecture(name, family, d, (Stack(count, layer),), vocabulary, tied)


def _feed_forward(f: Fields, d: int, family: str) -> tuple[tuple[Linear, ...], float, int, int]:
    """The linears, the activation's width per token, and the experts."""
    names = ("gate_up_proj",) if family == "phi3" else ("gate_proj", "up_proj")
    times = 3 - len(names)
    if not f.has(*EXPERTS):
        ff = f.size("intermediate_size")
        up = tuple(Linear(n, d, times * ff) for n in names)
        return (*up, Linear("down_proj", ff, d)), ff, 0, 0
    experts, routed = f.size(*EXPERTS), f.size("num_experts_per_tok", default=2)
    if routed > experts:
        raise UsageError(f"{f.where}: `num_experts_per_tok` {routed} is above the {experts} experts", None)
    ff = f.size("moe_intermediate_size", "intermediate_size")
    share = routed / experts
    linears = [Linear(ROUTER, d, experts)]
    linears += [Linear(f"experts.{n}", d, ff, calls=experts, share=share) for n in ("gate_proj", "up_proj")]
    linears.append(Linear("experts.down_proj", ff, d, calls=experts, share=share))
    inner = float(routed * ff)
    shared = f.values.get("shared_expert_intermediate_size") or ff * int(f.values.get("n_shared_experts") or 0)
    if shared:
        linears += [Linear(f"shared_expert.{n}", d, shared) for n in ("gate_proj", "up_proj")]
        linears.append(Linear("shared_expert.down_proj", shared, d))
        inner += shared
    return tuple(linears), inner, experts, routed


def _ungated(f: Fields, name: str, family: str) -> Architecture:
    """Rotary decoders whose feed-forward is one product up and one down: Pythia, Phi-1 and 2, StarCoder2, Nemotron."""
    d, ff = f.size("hidden_size"), f.size("intermediate_size")
    heads, kv_heads, head_dim = f.heads(d)
    count, vocabulary = f.size("num_hidden_layers"), f.size("vocab_size")
    names, (up, down) = UNGATED[family]
    biased = family in ("gpt_neox", "phi") or f.flag("use_bias", family == "starcoder2")
    q, kv = heads * head_dim, kv_heads * head_dim
    widths = (q + 2 * kv,) if len(names) == 2 else (q, kv, kv)
    attention = (
        *(Linear(n, d, w, biased) for n, w in zip(names, widths, strict=False)),
        Linear(names[-1], q, d, biased),
    )
    mlp = (Linear(up, d, ff, biased), Linear(down, ff, d, biased))
    norms = 1 if family == "phi" else 2
    f.close(family)
    layer = Layer(attention + mlp, d, norms, "layer", "gelu", ff, heads, kv_heads, head_dim, rotary=True)
    tied = f.flag("tie_word_embeddings", family == "starcoder2")
    head_bias = vocabulary if family == "phi" else 0
    return Architecture(name, family, d, (Stack(count, layer),), vocabulary, tied, extra=head_bias)


def _gpt2(f: Fields, name: str, family: str) -> Architecture:
    d = f.size("n_embd", "hidden_size")
    heads = f.size("n_head", "num_attention_heads")
    count, vocabulary = f.size("n_layer", "num_hidden_layers"), f.size("vocab_size", default=50257)
    positions = f.size("n_positions", "max_position_embeddings", default=1024)
    ff = f.size("n_inner", default=4 * d)
    f.close(family)
    if d % heads:
        raise UsageError(f"{f.where}: `n_embd` {d} is no multiple of `n_head` {heads}", None)
    linears = (
        Linear("c_attn", d, 3 * d, True),
        Linear("attn.c_proj", d, d, True),
        Linear("c_fc", d, ff, True),
        Linear("mlp.c_proj", ff, d, True),
    )
    # transformers writes GPT-2's "gelu_new" out in eight kernels; every other name is one.
    activation: Activation = "gelu_tanh" if f.values.get("activation_function", "gelu_new") == "gelu_new" else "gelu"
    layer = Layer(linears, d, 2, "layer", activation, ff, heads, heads, d // heads, dropout=True)
    tied = f.flag("tie_word_embeddings", True)
    return Architecture(name, family, d, (Stack(count, layer),), vocabulary, tied, positions)


def _qwen1(f: Fields, name: str, family: str) -> Architecture:
    """The first Qwen: fused qkv, and an ``intermediate_size`` that counts both halves of the gated MLP."""
    d, both = f.size("hidden_size"), f.size("intermediate_size")
    heads, count, vocabulary = f.size("num_attention_heads"), f.size("num_hidden_layers"), f.size("vocab_size")
    f.close(family)
    ff = both // 2
    linears = (
        Linear("c_attn", d, 3 * d, True),
        Linear("attn.c_proj", d, d),
        Linear("w1", d, ff),
        Linear("w2", d, ff),
        Linear("mlp.c_proj", ff, d),
    )
    layer = Layer(linears, d, 2, "rms", "gated", ff, heads, heads, d // heads, rotary=True)
    return Architecture(name, family, d, (Stack(count, layer),), vocabulary, False)


def _opt(f: Fields, name: str, family: str) -> Architecture:
    d, ff = f.size("hidden_size"), f.size("ffn_dim")
    heads, _, head_dim = f.heads(d)
    count, vocabulary = f.size("num_hidden_layers"), f.size("vocab_size")
    positions = f.size("max_position_embeddings", default=2048) + 2
    f.close(family)
    linears = tuple(Linear(n, d, d, True) for n in ("q_proj", "k_proj", "v_proj", "out_proj"))
    linears += (Linear("fc1", d, ff, True), Linear("fc2", ff, d, True))
    layer = Layer(linears, d, 2, "layer", "relu", ff, heads, heads, head_dim, dropout=True)
    return Architecture(name, family, d, (Stack(count, layer),), vocabulary, True, positions)


def _bert(f: Fields, name: str, family: str) -> Architecture:
    """BERT and RoBERTa with a classifier on top, as sequence classification trains them."""
    d, ff = f.size("hidden_size"), f.size("intermediate_size")
    heads, _, head_dim = f.heads(d)
    count, vocabulary = f.size("num_hidden_layers"), f.size("vocab_size")
    positions = f.size("max_position_embeddings", default=512) + f.size("type_vocab_size", default=1)
    f.close(family)
    linears = tuple(Linear(n, d, d, True) for n in ("query", "key", "value", "attention.output.dense"))
    linears += (Linear("intermediate.dense", d, ff, True), Linear("output.dense", ff, d, True))
    layer = Layer(linears, d, 2, "layer", "gelu", ff, heads, heads, head_dim, causal=False, dropout=True)
    stacks, pooler = (Stack(count, layer),), d * d
    return Architecture(name, family, d, stacks, vocabulary, False, positions, f.labels(2), extra=pooler)


def _t5(f: Fields, name: str, family: str) -> Architecture:
    """Encoder and decoder; the decoder's layers attend twice. Both see the same number of tokens here."""
    d, kv, ff = f.size("d_model"), f.size("d_kv"), f.size("d_ff")
    heads, count = f.size("num_heads"), f.size("num_layers")
    decoders, vocabulary = f.size("num_decoder_layers", default=count), f.size("vocab_size")
    f.close(family)
    gated = "gated" in str(f.values.get("feed_forward_proj", "relu"))
    width = heads * kv
    attention = (*(Linear(n, d, width) for n in ("q", "k", "v")), Linear("o", width, d))
    mlp = (*(Linear(n, d, ff) for n in (("wi_0", "wi_1") if gated else ("wi",))), Linear("wo", ff, d))

    def layer(attentions: int, causal: bool) -> Layer:
        return Layer(attention * attentions + mlp, d, attentions + 1, "rms", "gated" if gated else "relu", ff,
                     heads, heads, kv, attentions, causal, dropout=True)  # fmt: skip

    stacks = (Stack(count, layer(1, False)), Stack(decoders, layer(2, True)))
    note = "the encoder and the decoder are taken to see the same number of tokens"
    return Architecture(name, family, d, stacks, vocabulary, f.flag("tie_word_embeddings", True), notes=(note,))


Reader = Callable[[Fields, str, str], Architecture]
MIXTURES: Final = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe", "phimoe")
READERS: Final[dict[str, Reader]] = {
    **dict.fromkeys((*LLAMAS, *BIASED, *NORMED, "gemma2", "phi3", *MIXTURES), _llama),
    **dict.fromkeys(UNGATED, _ungated),
    "gpt2": _gpt2,
    "qwen": _qwen1,
    "opt": _opt,
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra"), _bert),
    **dict.fromkeys(("t5", "mt5", "umt5", "longt5"), _t5),
    **dict.fromkeys(("vit", "deit", "dinov2", "siglip_vision_model"), vit),
    "resnet": resnet,
}
