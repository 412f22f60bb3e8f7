"""A training script that has never heard of loraprof: a hand-written LoRA in a bare loop.

loraprof profile examples/train.py --lr 3e-4
loraprof compare --arms lora,full examples/train.py --lr 3e-4
"""

import argparse

import torch
from torch import nn


class LoRALinear(nn.Module):
    def __init__(self, width: int, out: int, rank: int = 8) -> None:
        super().__init__()
        self.base = nn.Linear(width, out).requires_grad_(False)
        self.lora_a = nn.Linear(width, rank, bias=False)
        self.lora_b = nn.Linear(rank, out, bias=False)
        nn.init.zeros_(self.lora_b.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + 2.0 * self.lora_b(self.lora_a(x))


parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=1e-3)
parser.add_argument("--steps", type=int, default=10_000)
options = parser.parse_args()

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
model = nn.Sequential(LoRALinear(256, 1024), nn.GELU(), LoRALinear(1024, 256)).to(device)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=options.lr)
for _ in range(options.steps):
    x = torch.randn(512, 256, device=device)
    loss = nn.functional.mse_loss(model(x), x)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
print(f"loss {loss.item():.4f}")
