"""DDP over gloo with a hand-written LoRA; SLOW=rank works longer, KILL=rank dies in its 23rd step or before step AT."""

import os
import signal
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class LoRA(nn.Module):
    def __init__(self, k: int, n: int, r: int = 4) -> None:
        super().__init__()
        self.base = nn.Linear(k, n).requires_grad_(False)
        self.a = nn.Linear(k, r, bias=False)
        self.b = nn.Linear(r, n, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.b(self.a(x))


dist.init_process_group("gloo")
rank = str(dist.get_rank())
torch.manual_seed(0)
layers = nn.Sequential(LoRA(64, 128), nn.GELU(), LoRA(128, 64))
model = DistributedDataParallel(layers)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
for step in range(60):
    if os.environ.get("KILL") == rank and step == int(os.environ.get("AT", "22")):
        os.kill(os.getpid(), signal.SIGKILL)
    end = time.perf_counter() + (0.03 if os.environ.get("SLOW") == rank else 0.0)
    while time.perf_counter() < end:
        torch.randn(64, 64) @ torch.randn(64, 64)
    model(torch.randn(16, 64)).pow(2).mean().backward()
    optimizer.step()
    optimizer.zero_grad()
dist.destroy_process_group()
