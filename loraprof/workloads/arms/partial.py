"""Arms that train parameters of the base model, or none at all."""

from torch import nn

from loraprof.errors import UsageError
from loraprof.model.workload import WorkloadSpec
from loraprof.workloads.arms.arm import top_layers
from loraprof.workloads.families import embedding_of, family_of, head_parameters, layers_of
from loraprof.workloads.models import output_requires_grad


def full(base: nn.Module, spec: WorkloadSpec, k: int) -> nn.Module:
    return base.requires_grad_(True)


def frozen(base: nn.Module, spec: WorkloadSpec, k: int) -> nn.Module:
    """Forward and the gradients with respect to activations, down to the embedding's output; no adapters.

    The optimizer holds one dummy parameter that never has a gradient: its step runs hooks and no kernel.
    """
    base.requires_grad_(False)
    output_requires_grad(embedding_of(base, family_of(spec)))
    return base


def top(base: nn.Module, spec: WorkloadSpec, k: int) -> nn.Module:
    """Below the trained layers nothing requires a gradient, so autograd stops there by itself."""
    family = family_of(spec)
    base.requires_grad_(False)
    for layer in top_layers(layers_of(base, family), k, "top"):
        layer.requires_grad_(True)
    return train_head(base, spec)


def bitfit(base: nn.Module, spec: WorkloadSpec, k: int) -> nn.Module:
    base.requires_grad_(False)
    biases = [p for name, p in base.named_parameters() if name.rsplit(".", 1)[-1] == "bias"]
    if not biases:
        raise UsageError(f"arm bitfit: {spec.name} has no bias to train", "gpt2-xl, opt-125m and roberta-base have")
    for bias in biases:
        bias.requires_grad_(True)
    return train_head(base, spec)


def train_head(base: nn.Module, spec: WorkloadSpec) -> nn.Module:
    for parameter in head_parameters(base, family_of(spec)):
        parameter.requires_grad_(True)
    return base
