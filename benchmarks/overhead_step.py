"""One LoRA training step in plain torch: what the tool's overhead is measured on. Imports nothing of loraprof."""

import time
from collections.abc import Callable

import torch
from torch import nn

BLOCKS, WIDTH, TOKENS, RANK = 6, 192, 64, 8


class LoRA(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.base = nn.Linear(width, out).requires_grad_(False)
        self.a = nn.Linear(width, RANK, bias=False)
        self.b = nn.Linear(RANK, out, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.base(x) + self.b(self.a(x))
        return y


def build(device: torch.device, blocks: int = BLOCKS, width: int = WIDTH) -> Callable[[], None]:
    """A training loop's body over an MLP with adapters: 43 module calls, a few milliseconds on a CPU."""
    torch.manual_seed(0)
    layers = [(nn.LayerNorm(width), LoRA(width, 4 * width), nn.GELU(), LoRA(4 * width, width)) for _ in range(blocks)]
    model = nn.Sequential(*(module for block in layers for module in block)).to(device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    x = torch.randn(TOKENS, width, device=device)

    def step() -> None:
        (model(x) - x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def timed_ns(step: Callable[[], None], steps: int, device: torch.device) -> int:
    """ns per step over ``steps`` steps, the device idle at both ends."""
    begin = _now(device)
    for _ in range(steps):
        step()
    return (_now(device) - begin) // steps


def _now(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter_ns()
