"""A small version of any workload for tests on a CPU: same architecture, ratios, targets and adapter kind."""

from typing import Any

import msgspec

from loraprof.model.workload import WorkloadSpec

HEAD_DIM = 16


def shrink(spec: WorkloadSpec) -> WorkloadSpec:
    """Two layers of 64 to 128 features; a residual network keeps four stages of one block."""
    small = {"gpt2": _gpt2, "resnet": _resnet}.get(spec.family, _decoder)(spec.config)
    return msgspec.structs.replace(
        spec,
        config=spec.config | small,
        layers=None,
        rank=min(spec.rank, 4),
        batch=2,
        seq=32 if spec.family == "resnet" else 16,
    )


def _gpt2(config: dict[str, Any]) -> dict[str, Any]:
    return {"vocab_size": 128, "n_positions": 64, "n_embd": 4 * HEAD_DIM, "n_layer": 2, "n_head": 4}


def _resnet(config: dict[str, Any]) -> dict[str, Any]:
    sizes = [size // 4 for size in config["hidden_sizes"]]
    return {"embedding_size": sizes[0], "hidden_sizes": sizes, "depths": [1] * len(sizes)}


def _decoder(config: dict[str, Any]) -> dict[str, Any]:
    """Llama-like, OPT and RoBERTa: query heads per key-value head, and the feed-forward's width, stay in ratio."""
    heads = config["num_attention_heads"]
    per_kv = heads // config.get("num_key_value_heads", heads)
    kv_heads = 4 if per_kv == 1 else 2 if per_kv <= 4 else 1
    hidden = kv_heads * per_kv * HEAD_DIM
    wide = "ffn_dim" if "ffn_dim" in config else "intermediate_size"
    small = {
        "vocab_size": 128,
        "hidden_size": hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": kv_heads * per_kv,
        wide: round(config[wide] / config["hidden_size"] * hidden / 16) * 16,
        "num_key_value_heads": kv_heads,
        "head_dim": HEAD_DIM,
        "word_embed_proj_dim": hidden,
        "max_position_embeddings": 66,
    }
    return {key: value for key, value in small.items() if key in config}
