"""Remedies of the adapters' path: one autograd function per layer, the base's dtype, no dropout, fewer layers."""

import gc
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from loraprof.remedies.lora_sites import LoraSite, adapted, lora_sites
from loraprof.remedies.program import Program
from loraprof.remedies.remedy import LiveRemedy, Undo, all_of, nothing, swap
from loraprof.workloads.adapters import compute_dtype
from loraprof.workloads.arms.lowrank import LowRankLinear

QUERY_VALUE: Final = ("q_proj", "v_proj", "query", "value", "q_lin", "v_lin", "to_q", "to_v", "q", "v", "wq", "wv")


def _no_fusing(program: Program) -> str | None:
    sites = lora_sites(program.model)
    return sites if isinstance(sites, str) else None


def _fuse(program: Program) -> Undo:
    sites = lora_sites(program.model)
    if isinstance(sites, str):
        return nothing
    return all_of([swap(site.module, "forward", partial(fused_forward, site)) for site in sites])


def fused_forward(site: LoraSite, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """(…, in) to (…, out): the frozen product, A and B in one autograd function."""
    out: Tensor = LowRankLinear.apply(  # type: ignore[no-untyped-call]
        x, site.weight, site.bias, site.low, site.high, site.scaling, compute_dtype(x), False
    )
    return out


FUSED = LiveRemedy(
    name="lora-fused",
    kind="same_training",
    text="one autograd function per adapted layer: y = W x + b, then y += s B (A x) in place; only x and A x are saved",
    fits=_no_fusing,
    apply=_fuse,
    findings=("L1", "L10"),
)


def _wide_adapters(program: Program) -> list[tuple[nn.Parameter, torch.dtype]]:
    """Adapters in fp32 on a half-precision base, and that base's dtype."""
    out: dict[int, tuple[nn.Parameter, torch.dtype]] = {}
    for _, found in adapted(program.model):
        dtype = getattr(torch, found.site.base_dtype, None)
        if dtype not in (torch.bfloat16, torch.float16) or found.site.dtype != "float32":
            continue
        for module, part in found.parts.items():
            if part in ("down", "up"):
                out |= {id(p): (p, dtype) for p in module.parameters() if p.dtype == torch.float32}
    return list(out.values())


def _no_narrowing(program: Program) -> str | None:
    if not (wide := _wide_adapters(program)):
        return "the adapters already have the base's dtype"
    scaled = any(isinstance(o, torch.amp.GradScaler) and o.is_enabled() for o in gc.get_objects())
    if scaled and any(dtype == torch.float16 for _, dtype in wide):
        return "GradScaler cannot unscale the gradients of float16 weights"
    return None


def _narrow(program: Program) -> Undo:
    wide = _wide_adapters(program)
    for parameter, dtype in wide:
        _cast(program, parameter, dtype)

    def undo() -> None:
        for parameter, _ in wide:
            _cast(program, parameter, torch.float32)

    return undo


def _cast(program: Program, parameter: nn.Parameter, dtype: torch.dtype) -> None:
    """With its gradient and the optimizer's state of it."""
    before, parameter.grad = parameter.dtype, None
    parameter.data = parameter.data.to(dtype)
    state = program.optimizer.state.get(parameter, {})
    for key, value in state.items():
        if isinstance(value, Tensor) and value.dtype == before and value.shape == parameter.shape:
            state[key] = value.to(dtype)


HALF = LiveRemedy(
    name="lora-bf16",
    kind="numerics",
    text="keep the adapters in the base's dtype: get_peft_model(model, config, autocast_adapter_dtype=False)",
    fits=_no_narrowing,
    apply=_narrow,
    findings=("L2", "L3"),
)


def _dropouts(program: Program) -> list[tuple[nn.Module, str, nn.Module]]:
    """Parent, name and module of every dropout of an adapter."""
    out: dict[int, tuple[nn.Module, str, nn.Module]] = {}
    for _, found in adapted(program.model):
        for parent in found.parts:
            for name, child in parent.named_children():
                if isinstance(child, nn.Dropout) and child.p > 0 and found.parts.get(child, "elementwise") != "base":
                    out[id(child)] = parent, name, child
    return list(out.values())


def _drop(program: Program) -> Undo:
    """As lora_dropout=0 builds it: an Identity in its place."""
    found = _dropouts(program)
    for parent, name, _ in found:
        parent._modules[name] = nn.Identity()

    def undo() -> None:
        for parent, name, child in found:
            parent._modules[name] = child

    return undo


NO_DROPOUT = LiveRemedy(
    name="lora-nodropout",
    kind="other_training",
    text="LoraConfig(lora_dropout=0.0)",
    fits=lambda program: None if _dropouts(program) else "no adapter has dropout",
    apply=_drop,
    findings=("L4",),
)


def _beside_query_value(program: Program) -> list[tuple[Any, list[nn.Parameter]]]:
    """PEFT's layers that are neither query nor value, and what each trains; empty where there is no query and value."""
    layers = [(m, f) for m, f in adapted(program.model) if hasattr(m, "enable_adapters")]
    others = [(m, f) for m, f in layers if f.site.path.rpartition(".")[2] not in QUERY_VALUE]
    if len(others) == len(layers):
        return []
    return [(m, [p for p in m.parameters() if p.requires_grad]) for m, _ in others]


def _leave_out(program: Program) -> Undo:
    others = _beside_query_value(program)
    for layer, own in others:
        layer.enable_adapters(False)
        for parameter in own:
            parameter.requires_grad_(False)
            parameter.grad = None

    def undo() -> None:
        for layer, own in others:
            layer.enable_adapters(True)
            for parameter in own:
                parameter.requires_grad_(True)

    return undo


QUERY_VALUE_ONLY = LiveRemedy(
    name="lora-qv",
    kind="other_training",
    text='LoraConfig(target_modules=["q_proj", "v_proj"]); check the quality afterwards',
    fits=lambda p: None if _beside_query_value(p) else "PEFT adapts no layer beside query and value here",
    apply=_leave_out,
    findings=("L6",),
)
