"""Plants for the adapter: a LoRA layer whose FLOPs follow from its shapes, and one that reads values back.

    A and B, forward and backward, on top of the frozen base:  6 T r (k + n) FLOPs per layer

The layer is written by hand, so that no adapter library is needed; it is found by its structure, like anyone's.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from loraprof.analysis.costmodel import lora_extra_flops
from loraprof.selftest.plant import Work

LAYERS: Final = 2
WIDTH: Final = 256
RANK: Final = 8
TOKENS: Final = 64
READS: Final = 16  # per layer and step


class _Reading(nn.Module):
    """Asks for a value on the host: ``.item()`` waits for the device."""

    def forward(self, x: Tensor) -> None:
        for _ in range(READS):
            x.sum().item()


class _Adapted(nn.Module):
    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.base = nn.Linear(WIDTH, WIDTH, bias=False).requires_grad_(False)
        self.down = nn.Linear(WIDTH, RANK, bias=False)
        self.up = nn.Linear(RANK, WIDTH, bias=False)
        self.reading = _Reading() if reads else None

    def forward(self, x: Tensor) -> Tensor:
        low: Tensor = self.down(x)
        if self.reading is not None:
            self.reading(low)
        out: Tensor = self.base(x) + 2.0 * self.up(low)
        return out


def _step(device: torch.device, reads: bool, truth: Sequence[float]) -> Work:
    model = nn.Sequential(*(_Adapted(reads) for _ in range(LAYERS))).to(device)
    x = torch.randn(TOKENS, WIDTH, device=device, requires_grad=True)

    def run() -> Sequence[float]:
        model.zero_grad()
        x.grad = None
        model(x).sum().backward()
        return truth

    return Work(run, model)


def adapting(device: torch.device) -> Work:
    """Forward and backward of adapted layers that do nothing else."""
    flops = LAYERS * lora_extra_flops(TOKENS, WIDTH, WIDTH, RANK).total()
    return _step(device, False, [LAYERS, flops, 0])


def reading(device: torch.device) -> Work:
    """The same with ``.item()`` in every layer."""
    return _step(device, True, [1, LAYERS * READS])
