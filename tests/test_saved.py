"""Activations kept for the backward pass: exact bytes on layers whose saved tensors are known."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from loraprof.capture.passes.saved import SavedForBackward

T, K, N = 32, 24, 40


def kept(model: nn.Module, x: torch.Tensor, times: int = 1) -> int | None:
    saved = SavedForBackward()
    saved.open()
    try:
        for _ in range(times):
            out = model(x)
            if out.requires_grad:
                out.sum().backward()
    finally:
        saved.close()
    return saved.nbytes


def test_a_trained_linear_keeps_its_input_a_frozen_one_nothing() -> None:
    x = torch.randn(T, K, requires_grad=True)
    layer = nn.Linear(K, N)
    assert kept(layer, x) == 4 * T * K
    assert kept(layer, x, times=3) == 4 * T * K
    assert kept(layer.requires_grad_(False), x) is None  # the weight is no activation


def test_a_tensor_kept_twice_counts_once() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(K, N), nn.Linear(K, N)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.a(x)) + self.b(x)

    # x for both weights, the output of relu for its own gradient
    assert kept(Two(), torch.randn(T, K)) == 4 * T * K + 4 * T * N


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_keep_the_block_inputs(reentrant: bool) -> None:
    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(K, N), nn.Tanh(), nn.Linear(N, K)) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=reentrant)
            return x

    assert kept(Stack(), torch.randn(T, K, requires_grad=True)) == 3 * 4 * T * K


def test_gradients_are_those_of_a_plain_step() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(K, N), nn.GELU(), nn.LayerNorm(N), nn.Dropout(0.1), nn.Linear(N, 1))
    x = torch.randn(T, K)
    grads = []
    for watched in (False, True):
        torch.manual_seed(1)
        model.zero_grad()
        if watched:
            kept(model, x)
        else:
            model(x).sum().backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_an_exception_and_a_close_leave_no_hooks() -> None:
    class Fails(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("no")

    saved = SavedForBackward()
    saved.open()
    with pytest.raises(ValueError, match="no"):
        Fails()(torch.randn(2))
    saved.close()
    saved.close()
    seen: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t.numel()) or t, lambda t: t):
        nn.Linear(2, 2)(torch.randn(2, 2))
    assert seen
    assert torch._C._autograd._top_saved_tensors_default_hooks(False) is None
    assert saved.nbytes is None


def test_what_torch_func_differentiates_is_left_alone() -> None:
    """It refuses while autograd's hooks are set: a model called under it, and a model that calls it."""
    linear = nn.Linear(K, N)
    x = torch.randn(T, K, requires_grad=True)

    class Force(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            slope: torch.Tensor = torch.func.grad(lambda y: linear(y).square().sum())(x)
            return torch.relu(slope) + x

    saved = SavedForBackward()
    saved.open()
    slope = torch.func.grad(lambda y: linear(y).square().sum())(x.detach())
    saved.close()
    assert torch.allclose(slope, 2 * linear(x) @ linear.weight)
    assert saved.nbytes is None
    assert kept(Force(), x) == 4 * T * K  # the output of relu, and not what torch.func kept
    assert torch.autograd.graph.disable_saved_tensors_hooks.__module__ == "torch.autograd.graph"
