"""Two blocks of attention and one peculiarity of their calls: ``python attends.py PECULIARITY``."""

import sys

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional

WHAT = sys.argv[1] if len(sys.argv) > 1 else "plain"
WIDTH, HEADS, TOKENS = 64, 2, 96


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        mask = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril() if WHAT == "causal-mask" else None
        y = functional.scaled_dot_product_attention(
            q, k, v, mask, 0.1 if WHAT == "dropout" else 0.0, WHAT in ("plain", "dropout")
        )
        return x + self.out(y.transpose(1, 2).flatten(2))


torch.manual_seed(0)
base = nn.Sequential(Block(), Block(), nn.Linear(WIDTH, 8))
model = get_peft_model(base, LoraConfig(r=4, target_modules=["qkv", "out"]))
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
x = torch.randn(4, TOKENS, WIDTH)
for _ in range(1000):
    model(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
