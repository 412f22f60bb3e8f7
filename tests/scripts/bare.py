"""A bare loop with a hand-written LoRA and gradient accumulation."""

import os
import sys

import torch
from torch import nn


class LoRA(nn.Module):
    def __init__(self, k: int, n: int, r: int = 4) -> None:
        super().__init__()
        self.base = nn.Linear(k, n).requires_grad_(False)
        self.a = nn.Linear(k, r, bias=False)
        self.b = nn.Linear(r, n, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.b(self.a(x)) * 2


print("argv", sys.argv[1:], __name__, os.getcwd())
torch.manual_seed(0)
model = nn.Sequential(LoRA(64, 128), nn.GELU(), LoRA(128, 64))
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=float(sys.argv[2]))
steps = 0
try:
    while steps < int(os.environ.get("STEPS", "40")):
        steps += 1
        for _ in range(2):
            x = torch.randn(32, 64)
            loss = ((model(x) - x) ** 2).mean() / 2
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
finally:
    print("steps", steps, "loss", loss.item())
if os.environ.get("CODE"):
    sys.exit(int(os.environ["CODE"]))
