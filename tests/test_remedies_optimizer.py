"""Remedies of the optimizer: each equals the change made by hand, and is gone when it is taken back."""

import copy
from typing import Any

import pytest
import torch
from live import causal, llama, tokens, trained
from torch import nn

from loraprof.live_remedies.catalogue import REMEDIES
from loraprof.live_remedies.program import Program

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("option", ["fused", "foreach"])
def test_the_optimizers_kernel(kind: Any, option: str) -> None:
    model = nn.Linear(6, 6)
    twin = copy.deepcopy(model)
    own, by_hand = kind(model.parameters(), lr=0.1), kind(twin.parameters(), lr=0.1, **{option: True})
    x = torch.randn(4, 6)

    def step(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        module(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(2):
        step(model, own)
        step(twin, by_hand)
    program = Program(model=model, optimizer=own)
    remedy = REMEDIES[f"{option}-optimizer"]
    assert remedy.fits(program) == (None if option == "fused" else "fused is better here")
    undo = remedy.apply(program)
    assert own.param_groups[0][option] is True
    for _ in range(3):
        step(model, own)
        step(twin, by_hand)
    torch.testing.assert_close(model.weight, twin.weight)
    undo()
    assert not own.param_groups[0][option]
    step(model, own)


def test_why_no_fused_optimizer() -> None:
    model = nn.Linear(2, 2)
    fits = REMEDIES["fused-optimizer"].fits
    assert fits(Program(model=model, optimizer=torch.optim.RMSprop(model.parameters()))) == "torch has no fused RMSprop"
    fused = torch.optim.SGD(model.parameters(), fused=True)
    assert fits(Program(model=model, optimizer=fused)) == "the optimizer is fused already"
    other = Program(model=model, optimizer=torch.optim.RMSprop(model.parameters()))
    assert REMEDIES["foreach-optimizer"].fits(other) is None


def test_gradients_set_to_none() -> None:
    model = llama()
    program, step = causal(model, tokens(), keep=True)
    remedy = REMEDIES["set-to-none"]
    assert remedy.fits(program) is None
    undo = remedy.apply(program)
    step()
    assert all(p.grad is None for p in trained(model))
    undo()
    step()
    assert all(p.grad is not None for p in trained(model))
    assert remedy.fits(causal(llama(), tokens())[0]) == "gradients are set to None already"
