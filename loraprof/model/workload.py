"""What is trained: one frozen specification that a preset (TOML) fills and options override."""

from typing import Literal

import msgspec

Adapter = Literal["peft", "handwritten", "none"]
Checkpointing = Literal["none", "reentrant", "non-reentrant"]


class WorkloadSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A training step of a built-in model with random weights.

    ``config`` holds the keyword arguments of the transformers config class named by ``family``.
    ``batch`` is sequences (or images) per micro-batch, ``seq`` tokens per sequence (image side for vision).
    """

    name: str
    family: Literal["llama", "qwen2", "gpt2", "roberta", "opt", "resnet", "minimind"]
    summary: str
    config: dict[str, int | float | str | bool | list[int | str]]
    adapter: Adapter = "peft"
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ()  # suffixes of module names; empty: all linear layers but the head
    batch: int = 4
    seq: int = 512
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    adapter_dtype: Literal["float32", "same"] = "float32"  # PEFT's default keeps fp32 adapters on a bf16 base
    autocast: Literal["none", "bfloat16", "float16"] = "none"
    checkpointing: Checkpointing = "none"
    layers: int | None = None  # None: as in config
    optimizer: Literal["adamw", "adamw-fused", "sgd"] = "adamw"
    lr: float = 1e-4
    clip: float | None = 1.0  # max gradient norm; None: no clipping
    accumulate: int = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0
    arms: tuple[str, ...] = ("full", "frozen", "lora")
