"""What the user asked for -> Settings: a preset's values or PEFT's defaults, and what overrides them.

Raises UsageError in one line for what contradicts the model or itself.
"""

from collections.abc import Mapping
from typing import Any, Final, get_args

from msgspec.structs import fields, replace

from loraprof.errors import UsageError
from loraprof.estimate.architecture import Architecture, adapted_layers
from loraprof.model.estimate import Settings
from loraprof.model.workload import WorkloadSpec
from loraprof.store.specs import did_you_mean

DTYPES: Final = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "fp8": "float8"}
SAME: Final = ("rank", "targets", "dropout", "dtype", "adapter_dtype", "autocast", "optimizer", "accumulate", "batch")
MOST: Final = {"rank": 10**6, "batch": 10**6, "accumulate": 10**5, "gpus": 10**5}
MOST_TOKENS: Final = 10**8
QV: Final = (("q_proj", "v_proj"), ("query", "value"), ("c_attn",), ("qkv_proj",), ("query_key_value",), ("q", "v"))


def from_preset(spec: WorkloadSpec, architecture: Architecture) -> Settings:
    """A built-in workload's own settings; its image side becomes the tokens of an image."""
    values = {name: getattr(spec, name) for name in SAME}
    return Settings(
        **values,
        seq=architecture.tokens_per_sample or spec.seq,
        checkpointing=spec.checkpointing != "none",
        clip=spec.clip is not None,
    )


def overridden(base: Settings, architecture: Architecture, asked: Mapping[str, Any]) -> Settings:
    """``asked`` holds Settings' fields as text or numbers, and ``tokens`` of a micro-batch; None is not asked."""
    wanted = {name: value for name, value in asked.items() if value is not None}
    tokens = wanted.pop("tokens", None)
    for name in ("dtype", "adapter_dtype", "autocast"):
        if name in wanted:
            wanted[name] = DTYPES.get(wanted[name], wanted[name])
    if isinstance(targets := wanted.get("targets"), str):
        wanted["targets"] = _targets(architecture, targets)
    if wanted.get("adapter_dtype") == (wanted.get("dtype") or base.dtype) != "float32":
        wanted["adapter_dtype"] = "same"
    for field in fields(Settings):
        _check(field.name, field.type, wanted)
    settings = _with_tokens(replace(base, **wanted), architecture, tokens)
    _refuse(settings, architecture)
    return settings


def _check(name: str, kind: Any, wanted: Mapping[str, Any]) -> None:
    choices = get_args(kind)
    if name not in wanted or not choices or not all(isinstance(c, str) for c in choices):
        return
    if wanted[name] not in choices:
        short = [next((k for k, v in DTYPES.items() if v == c), c) for c in choices]
        raise UsageError(f"--{name.replace('_', '-')} {wanted[name]} is not one of {', '.join(short)}", None)


def _targets(architecture: Architecture, text: str) -> tuple[str, ...]:
    if text in ("all", "all-linear"):
        return ()
    known = sorted({linear.name for _, linear in architecture.linears()})
    if text == "qv":
        return next(pair for pair in QV if pair[0] in known or pair == QV[-1])
    names = tuple(text.split(","))
    for name in names:
        if not adapted_layers(architecture, (name,)):
            raise UsageError(f"{architecture.name} has no layer {name!r} to adapt", did_you_mean(name, known))
    return names


def _with_tokens(settings: Settings, architecture: Architecture, tokens: int | None) -> Settings:
    """Tokens of a micro-batch are its sequences times their length."""
    if settings.batch < 1:
        raise UsageError(f"--batch must be at least 1, got {settings.batch}", None)
    if tokens is None:
        return settings
    if tokens < 1:
        raise UsageError(f"--tokens must be at least 1, got {tokens}", None)
    if architecture.tokens_per_sample:
        raise UsageError(f"{architecture.name} works on images: --tokens does not apply", "--batch sets their number")
    if tokens % settings.batch:
        raise UsageError(f"--tokens {tokens} is no multiple of --batch {settings.batch}", None)
    return replace(settings, seq=tokens // settings.batch)


def _refuse(settings: Settings, architecture: Architecture) -> None:
    for name, most in MOST.items():
        if not 1 <= getattr(settings, name) <= most:
            raise UsageError(f"--{name} must lie between 1 and {most}, got {getattr(settings, name)}", None)
    if settings.seq > MOST_TOKENS:
        raise UsageError(f"{settings.seq} tokens per sequence are more than {MOST_TOKENS}", None)
    if settings.rank > architecture.hidden:
        raise UsageError(f"--rank {settings.rank} is above the width {architecture.hidden} of the model", None)
    if not 0 <= settings.dropout < 1:
        raise UsageError(f"--dropout must lie in [0, 1), got {settings.dropout}", None)
    if settings.host_us is not None and not 0 < settings.host_us < 1e6:
        raise UsageError(f"--host-us {settings.host_us:g} is no time per launch", "8 to 40 are usual")
    if settings.gpus > 1 and settings.parallel == "none":
        raise UsageError(f"--gpus {settings.gpus} needs to know how they share the work", "--parallel ddp")
    table = architecture.positions
    if architecture.embeds and table and settings.seq > table and not architecture.tokens_per_sample:
        raise UsageError(f"{settings.seq} tokens per sequence, but {architecture.name} has {table} positions", None)
    if settings.quantized != "none" and settings.dtype == "float32":
        raise UsageError("--quantized nf4 needs a 16-bit --dtype to compute in", "--dtype bf16")
