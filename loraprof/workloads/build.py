"""One training step of a built-in workload under one arm, ready to run.

A step is ``accumulate`` times (forward, loss, backward), then gradient clipping, the optimizer and zero_grad.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from loraprof.capture.device.kinds import measured
from loraprof.collector import end_unwalked, uncollected
from loraprof.model.workload import WorkloadSpec
from loraprof.workloads.adapters import count, trained
from loraprof.workloads.arms import resolve_arm
from loraprof.workloads.batches import Source, fixed, tokens_per_step
from loraprof.workloads.models import enable_checkpointing, make_model, quiet, torch_device


@dataclass(frozen=True)
class Built:
    """``step`` runs one optimizer step and returns its mean loss, on the device and without synchronising.

    ``forward_loss`` runs forward and loss of the next micro-batch. ``trainable`` counts parameters.
    ``tokens_per_step`` counts tokens, or images for a vision model.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: Callable[[], Tensor]
    forward_loss: Callable[[], Tensor]
    trainable: int
    tokens_per_step: int
    device: torch.device
    spec: WorkloadSpec
    arm: str


def build(spec: WorkloadSpec, arm: str = "lora", batches: Source = fixed) -> Built:
    """The workload ``spec`` under ``arm``. Weights, batches and dropout follow ``spec.seed``, which is set
    globally, as a training script would. The process is loraprof's own from then on: on a CPU it keeps freed memory
    (see ``heap``), and its end looks for no cycles.

    Raises UsageError for an arm that does not fit the workload, MeasurementError for a missing device or package.
    """
    device, how = torch_device(spec), resolve_arm(arm)
    measured(device).keep_freed_memory()
    end_unwalked()
    torch.manual_seed(spec.seed)
    with quiet(), uncollected():
        base = make_model(spec, device)
        model = how.adapt(base, spec, how.k)
        enable_checkpointing(base, spec)
    parameters = trained(model)
    optimizer = make_optimizer(spec, parameters)
    torch.manual_seed(spec.seed)
    forward_loss = _forward_loss(spec, model, device, batches)
    return Built(
        model=model,
        optimizer=optimizer,
        step=_step(spec, parameters, optimizer, forward_loss),
        forward_loss=forward_loss,
        trainable=count(parameters),
        tokens_per_step=tokens_per_step(spec),
        device=device,
        spec=spec,
        arm=arm,
    )


def make_optimizer(spec: WorkloadSpec, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Where nothing is trained, a dummy that never has a gradient: the step's hooks run, no kernel does."""
    params = parameters or [nn.Parameter(torch.zeros(1))]
    if spec.optimizer == "sgd":
        return torch.optim.SGD(params, lr=spec.lr)
    return torch.optim.AdamW(params, lr=spec.lr, fused=spec.optimizer == "adamw-fused" or None)


def _forward_loss(spec: WorkloadSpec, model: nn.Module, device: torch.device, batches: Source) -> Callable[[], Tensor]:
    source = batches(spec, device)
    context: Callable[[], Any] = nullcontext
    if spec.autocast != "none":
        dtype = getattr(torch, spec.autocast)
        context = lambda: torch.autocast(device.type, dtype)  # noqa: E731

    def forward_loss() -> Tensor:
        with context():
            loss: Tensor = model(**next(source)).loss
        return loss

    return forward_loss


def _step(
    spec: WorkloadSpec,
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    forward_loss: Callable[[], Tensor],
) -> Callable[[], Tensor]:
    def micro_batch() -> Tensor:
        loss = forward_loss()
        if spec.accumulate > 1:
            loss = loss / spec.accumulate
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def step() -> Tensor:
        total = micro_batch()
        for _ in range(spec.accumulate - 1):
            total += micro_batch()
        if spec.clip is not None and parameters:
            nn.utils.clip_grad_norm_(parameters, spec.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total

    return step
