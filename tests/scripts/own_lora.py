"""A hand-written LoRA that costs more than it saves."""

import torch
from torch import nn


class LoRALinear(nn.Module):
    def __init__(self, width, rank=8):
        super().__init__()
        self.base = nn.Linear(width, width).requires_grad_(False)
        self.A, self.B = nn.Parameter(torch.randn(rank, width) * 0.01), nn.Parameter(torch.zeros(width, rank))

    def forward(self, x):
        return self.base(x) + 2.0 * (x @ self.A.T @ self.B.T)


torch.manual_seed(0)
model = nn.Sequential(*[LoRALinear(64) for _ in range(8)])
optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
x = torch.randn(4096, 64)
for _ in range(24):
    (model(x) - x).pow(2).mean().backward()
    optimizer.step()
    optimizer.zero_grad()
