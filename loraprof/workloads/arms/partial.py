"""Arms that train parameters of the base model, or none at all."""

from torch import nn

from loraprof.model.workload import WorkloadSpec
from loraprof.workloads.families import embedding_of, family_of
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
