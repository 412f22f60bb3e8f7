"""What a step holds in memory, by kind: on layers and optimizers whose tensors are known."""

import torch
from torch import nn

from loraprof.capture.modules.facts import memory_of
from loraprof.capture.modules.markers import Markers

K, N = 24, 40
WEIGHTS = 4 * K * N


def stepped(optimizer: torch.optim.Optimizer, layer: nn.Linear, steps: int) -> int | None:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = layer(torch.arange(3.0 * K).view(3, K) / K).square().sum()
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)  # type: ignore[arg-type]
    markers = Markers()
    markers.adopt([layer])
    found = memory_of(markers, optimizer, None)
    assert (found.weights_bytes, found.gradients_bytes) == (WEIGHTS, WEIGHTS)
    return found.optimizer_bytes


def test_adam_keeps_two_moments() -> None:
    layer = nn.Linear(K, N, bias=False)
    assert stepped(torch.optim.AdamW(layer.parameters()), layer, 1) == 2 * WEIGHTS


def test_the_history_that_lbfgs_keeps_in_lists_counts() -> None:
    layer = nn.Linear(K, N, bias=False)
    optimizer = torch.optim.LBFGS(layer.parameters(), lr=0.01, max_iter=1, history_size=5)
    bytes_ = stepped(optimizer, layer, 4)
    state = optimizer.state[layer.weight]
    pairs = len(state["old_dirs"])
    assert pairs >= 2
    flat = {state[name].data_ptr() for name in ("d", "prev_flat_grad")}
    assert bytes_ is not None
    assert bytes_ >= (2 * pairs + len(flat)) * WEIGHTS
