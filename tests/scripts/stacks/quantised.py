"""PEFT on bitsandbytes' 4-bit layers, whose biases stay in float32."""

import bitsandbytes
import torch
from peft import LoraConfig, get_peft_model
from torch import nn


class Block(nn.Module):
    def __init__(self, width=128):
        super().__init__()
        self.up = bitsandbytes.nn.Linear4bit(width, 2 * width, compute_dtype=torch.float32)
        self.down = bitsandbytes.nn.Linear4bit(2 * width, width, compute_dtype=torch.float32)

    def forward(self, x):
        return x + self.down(nn.functional.gelu(self.up(x)))


torch.manual_seed(0)
base = nn.Sequential(Block(), Block()).to("cpu").requires_grad_(False)
model = get_peft_model(base, LoraConfig(r=4, target_modules=["up", "down"]))
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
for _ in range(8):
    x = torch.randn(64, 128)
    loss = (model(x) - x).pow(2).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(loss.item().hex())
