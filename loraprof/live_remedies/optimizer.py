"""Remedies of the optimizer: fused or foreach kernels, gradients set to None."""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

from loraprof.live_remedies.program import Program
from loraprof.live_remedies.remedy import LiveRemedy, Undo, all_of, swap

FUSED_KINDS: Final = (Adam, AdamW, SGD, Adagrad)
FUSED_DEVICES: Final = ("cpu", "cuda")


def _options(optimizer: Optimizer, **changed: bool | None) -> Undo:
    """Sets options of every group, and where each parameter's step is counted."""
    before = [{key: group.get(key) for key in changed} for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group.update(changed)
    _place_steps(optimizer, bool(changed.get("fused")))

    def undo() -> None:
        for group, old in zip(optimizer.param_groups, before, strict=True):
            group.update(old)
        _place_steps(optimizer, any(group.get("fused") for group in optimizer.param_groups))

    return undo


def _place_steps(optimizer: Optimizer, fused: bool) -> None:
    """Fused kernels read the step from the parameter's device, the others from the host."""
    for parameter, state in optimizer.state.items():
        if isinstance(state.get("step"), Tensor):
            state["step"] = state["step"].to(parameter.device if fused else "cpu")


def _problem(program: Program, option: str) -> str | None:
    groups = program.optimizer.param_groups
    if all(group.get(option) for group in groups):
        return f"the optimizer is {option} already"
    if any(group.get("capturable") or group.get("differentiable") for group in groups):
        return "the optimizer is capturable or differentiable"
    return None


def _no_fused(program: Program) -> str | None:
    if type(program.optimizer) not in FUSED_KINDS:
        return f"torch has no fused {type(program.optimizer).__name__}"
    if program.device.type not in FUSED_DEVICES or not all(p.is_floating_point() for p in program.trained):
        return "torch has no fused step for these parameters"
    if program.device.type == "cuda" and type(program.optimizer) is Adagrad:
        return "torch has no fused Adagrad on CUDA"
    return _problem(program, "fused")


def _no_foreach(program: Program) -> str | None:
    group = program.optimizer.param_groups[0]
    if "foreach" not in group:
        return f"{type(program.optimizer).__name__} has no foreach"
    if group.get("fused"):
        return "the optimizer is fused already"
    if program.device.type == "cuda" and group["foreach"] is None:
        return "torch takes foreach by itself on CUDA"
    return _problem(program, "foreach") or ("fused is better here" if _no_fused(program) is None else None)


FUSED = LiveRemedy(
    name="fused-optimizer",
    kind="same_training",
    text='fused=True for the optimizer, or TrainingArguments(optim="adamw_torch_fused")',
    fits=_no_fused,
    apply=lambda program: _options(program.optimizer, fused=True, foreach=None),
)
FOREACH = LiveRemedy(
    name="foreach-optimizer",
    kind="same_training",
    text="foreach=True for the optimizer",
    fits=_no_foreach,
    apply=lambda program: _options(program.optimizer, foreach=True),
)


def _to_none(zero: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: zero(set_to_none=True)


def _set_to_none(program: Program) -> Undo:
    owners: list[Any] = [program.optimizer, *program.networks]
    return all_of([swap(owner, "zero_grad", _to_none(owner.zero_grad)) for owner in owners])


SET_TO_NONE = LiveRemedy(
    name="set-to-none",
    kind="same_training",
    text="optimizer.zero_grad(set_to_none=True): no pass over memory that writes zeros, none that adds to them",
    fits=lambda program: None if program.grads_kept else "gradients are set to None already",
    apply=_set_to_none,
)


def _no_tf32(program: Program) -> str | None:
    if program.device.type != "cuda" or torch.cuda.get_device_capability(program.device) < (8, 0):
        return "this device has no TF32"
    if not any(p.dtype == torch.float32 for p in program.model.parameters()):
        return "no weight is in fp32"
    return "TF32 is allowed already" if torch.get_float32_matmul_precision() != "highest" else None


def _tf32(program: Program) -> Undo:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    return lambda: torch.set_float32_matmul_precision(before)


TF32 = LiveRemedy(
    name="tf32",
    kind="numerics",
    text='torch.set_float32_matmul_precision("high")',
    fits=_no_tf32,
    apply=_tf32,
)
