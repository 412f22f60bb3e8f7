"""LoRA as the workload sets it, and its variations."""

from torch import nn

from loraprof.model.workload import WorkloadSpec
from loraprof.workloads.adapters import add_lora, targets_of


def lora(base: nn.Module, spec: WorkloadSpec, k: int) -> nn.Module:
    return add_lora(base, spec, targets_of(base, spec))
