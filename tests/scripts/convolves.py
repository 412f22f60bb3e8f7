"""A convolution of videos in bf16 before linears, on its slow path or its fast one: ``python convolves.py WAY``."""

import sys

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

WAY = sys.argv[1] if len(sys.argv) > 1 else "slow"
WIDTH = 192


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv3d(8, WIDTH, (2, 4, 4), stride=(2, 4, 4))
        self.layers = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(4)))

    def forward(self, x: Tensor) -> Tensor:
        with torch.backends.mkldnn.flags(enabled=WAY != "slow"):
            y = self.embed(x)
        return self.layers(y.flatten(2).transpose(1, 2))


torch.manual_seed(0)
base = Model().to(torch.bfloat16)
config = LoraConfig(r=4, target_modules=[f"layers.{i}" for i in range(4)])
model = get_peft_model(base, config, autocast_adapter_dtype=False)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
x = torch.randn(2, 8, 8, 32, 32, dtype=torch.bfloat16)
for _ in range(1000):
    model(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
