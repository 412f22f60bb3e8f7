"""LoRA as the workload sets it, and its variations. A variation that would change nothing is refused."""

from msgspec.structs import replace
from torch import nn

from loraprof.errors import UsageError
from loraprof.model.workload import WorkloadSpec
from loraprof.workloads.adapters import add_lora, targets_of
from loraprof.workloads.arms.arm import top_layers
from loraprof.workloads.families import family_of, layers_of


def lora(base: nn.Module, spec: WorkloadSpec, k: int) -> nn.Module:
    return add_lora(base, spec, targets_of(base, spec))


def lora_bf16(base: nn.Module, spec: WorkloadSpec, k: int) -> nn.Module:
    """PEFT's ``autocast_adapter_dtype=False``."""
    if spec.dtype == "float32" or spec.adapter_dtype == "same":
        raise UsageError(f"arm lora-bf16: {spec.name}'s adapters already have the base's dtype, {spec.dtype}")
    return lora(base, replace(spec, adapter_dtype="same"), k)


def lora_nodropout(base: nn.Module, spec: WorkloadSpec, k: int) -> nn.Module:
    if not spec.dropout:
        raise UsageError(f"arm lora-nodropout: {spec.name}'s adapters have no dropout", "--dropout 0.1 adds it")
    return lora(base, replace(spec, dropout=0.0), k)


def lora_qv(base: nn.Module, spec: WorkloadSpec, k: int) -> nn.Module:
    qv = replace(spec, targets=("qv",))
    names = targets_of(base, qv)
    if names == targets_of(base, spec):
        raise UsageError(f"arm lora-qv: {spec.name} already adapts query and value only")
    return add_lora(base, spec, names)


def lora_top(base: nn.Module, spec: WorkloadSpec, k: int) -> nn.Module:
    upper = set(top_layers(layers_of(base, family_of(spec)), k, "lora-top"))
    prefixes = tuple(f"{name}." for name, module in base.named_modules() if module in upper)
    return add_lora(base, spec, [name for name in targets_of(base, spec) if name.startswith(prefixes)])


def dora(base: nn.Module, spec: WorkloadSpec, k: int) -> nn.Module:
    return add_lora(base, spec, targets_of(base, spec), dora=True)


def lora_compile(base: nn.Module, spec: WorkloadSpec, k: int) -> nn.Module:
    """Compiled in place: the model stays the module it is. Compilation happens in the first step."""
    model = lora(base, spec, k)
    model.compile()
    return model
