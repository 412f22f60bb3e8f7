"""What an arm trains gets the gradient of full fine-tuning or plain LoRA, on a whole model in float64."""

from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

from benchmarks.shrink import shrink
from loraprof.store.specs import load_workload
from loraprof.workloads.build import Built, build


def built(arm: str) -> Built:
    """Two layers with biases, no dropout."""
    spec = replace(shrink(load_workload("qwen2.5-0.5b")), device="cpu", dtype="float32", dropout=0.0, optimizer="sgd")
    found = build(replace(spec, lr=0.5, clip=None), arm)
    found.model.double()
    for name, parameter in found.model.named_parameters():
        if ".lora_A." in name:  # drawn in the order of the layers, which the arms do not share
            parameter.data = torch.linspace(-1, 1, parameter.numel(), dtype=torch.float64).sin().view_as(parameter) / 8
    return found


def gradients(one: Built) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients by the parameter's name, without what PEFT puts before it."""
    loss: Any = one.forward_loss()
    loss.backward()
    named = {name.removeprefix("base_model.model."): p.grad for name, p in one.model.named_parameters()}
    return loss.item(), {name: grad for name, grad in named.items() if grad is not None}


@pytest.mark.parametrize(
    ("arm", "whole", "count"),
    [("top:1", "full", 12), ("bitfit", "full", 6), ("lora-top:1", "lora", 14), ("lora-qv", "lora", 8)],
)
def test_an_arm_that_trains_less_gets_the_same_gradients(arm: str, whole: str, count: int) -> None:
    """Adapters that are left out change nothing yet: B is zero."""
    loss, found = gradients(built(arm))
    expected_loss, expected = gradients(built(whole))
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    assert len(found) == count
    for name, grad in found.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-10, atol=1e-12)
    assert any(float(grad.abs().max()) > 0 for grad in found.values())


@pytest.mark.parametrize("arm", ["lora-fused", "lora-merged"])
def test_training_follows_plain_lora(arm: str) -> None:
    """Four steps at a high rate, so that B is far from zero and every term of the backward pass counts."""
    losses = [[float(one.step()) for _ in range(4)] for one in (built("lora"), built(arm))]
    assert losses[0][3] < losses[0][0] - 1e-4
    assert losses[1] == pytest.approx(losses[0], rel=1e-10)


@pytest.mark.parametrize(("arm", "start"), [("dora", "lora"), ("paca", "full"), ("frozen", "full")])
def test_an_arm_starts_from_the_base_models_loss(arm: str, start: str) -> None:
    assert built(arm).forward_loss().item() == pytest.approx(built(start).forward_loss().item(), rel=1e-9)


def test_dora_is_direction_times_magnitude() -> None:
    """y = m (W + s B A) x / ||W + s B A||, the norm taken per output and without a gradient (arXiv 2402.09353)."""
    model: Any = built("dora").model
    layer = model.get_submodule("base_model.model.model.layers.0.mlp.up_proj")
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    magnitude = layer.lora_magnitude_vector["default"].weight
    with torch.no_grad():
        up.normal_(generator=torch.Generator().manual_seed(0))
    x = torch.randn(3, down.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    trained = [down, up, magnitude]
    merged = layer.get_base_layer().weight + layer.scaling["default"] * up @ down
    expected = x @ (merged * (magnitude / merged.norm(dim=1).detach())[:, None]).t()
    torch.testing.assert_close(layer(x), expected, rtol=1e-9, atol=1e-11)
    ours = torch.autograd.grad(layer(x).square().sum(), trained)
    for grad, wanted in zip(ours, torch.autograd.grad(expected.square().sum(), trained), strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-8, atol=1e-10)
