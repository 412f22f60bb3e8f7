"""Which layers are adapted, and how an adapter gets there: PEFT's, or the hand-written one."""

from typing import Any

import torch
from torch import nn

from loraprof.errors import MeasurementError, UsageError
from loraprof.model.workload import WorkloadSpec
from loraprof.workloads.families import HEADS, family_of
from loraprof.workloads.handwritten import attach_lora
from loraprof.workloads.models import HF_HINT


def is_conv1d(module: nn.Module) -> bool:
    """GPT-2's linear layer, whose weight is stored transposed (in_features, out_features)."""
    return type(module).__name__ == "Conv1D"


def targets_of(base: nn.Module, spec: WorkloadSpec) -> list[str]:
    """Names of the layers to adapt: linear and convolution layers but the head, or the suffixes asked for.

    Raises UsageError for a suffix that names no such layer.
    """
    names = [
        name
        for name, module in base.named_modules()
        if name.split(".")[0] not in HEADS and (isinstance(module, nn.Linear | nn.Conv2d) or is_conv1d(module))
    ]
    if not spec.targets:
        return names
    suffixes = family_of(spec).qv if spec.targets == ("qv",) else spec.targets
    if not suffixes:
        raise UsageError(f"workload {spec.name} has no query and value projections")
    for suffix in suffixes:
        if not any(f".{name}".endswith(f".{suffix}") for name in names):
            known = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in names}))
            raise UsageError(f"workload {spec.name} has no layer named {suffix!r}", f"layers: {known}")
    return [name for name in names if any(f".{name}".endswith(f".{suffix}") for suffix in suffixes)]


def add_lora(base: nn.Module, spec: WorkloadSpec, names: list[str], dora: bool = False) -> nn.Module:
    """Freeze ``base`` and adapt the named layers; returns the model to train (PEFT wraps the base)."""
    if spec.adapter == "none":
        raise UsageError(f"workload {spec.name} has no adapter", "run the full arm, or set adapter = 'peft'")
    if spec.adapter == "peft":
        return _add_peft(base, spec, names, dora)
    linears = [m for m in map(base.get_submodule, names) if isinstance(m, nn.Linear)]
    if dora or len(linears) < len(names):
        raise UsageError(f"workload {spec.name}: the hand-written adapter is plain LoRA on nn.Linear layers")
    if spec.adapter_dtype == "float32" and spec.dtype != "float32":
        raise UsageError(
            f"workload {spec.name}: hand-written adapters have the base's dtype", "set adapter_dtype = 'same'"
        )
    base.requires_grad_(False)
    attach_lora(linears, spec.rank, spec.alpha / spec.rank, spec.dropout)
    return base


def _add_peft(base: nn.Module, spec: WorkloadSpec, names: list[str], dora: bool) -> nn.Module:
    try:
        import peft
    except ImportError:
        raise MeasurementError(f"workload {spec.name} needs peft", HF_HINT) from None
    config: Any = peft.LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=names,
        fan_in_fan_out=spec.family == "gpt2",
        use_dora=dora,
        modules_to_save=None if family_of(spec).task == "causal" else ["classifier"],
    )
    same_dtype = spec.adapter_dtype == "same"
    model: nn.Module = peft.get_peft_model(base, config, autocast_adapter_dtype=not same_dtype)
    return model


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def count(parameters: list[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)


def compute_dtype(x: torch.Tensor) -> torch.dtype:
    """What a linear layer computes in here: autocast's dtype where it is on, else the input's."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
