"""A child forked in a step ends with sys.exit, as data pipelines and loggers do; the parent waits for it.

Expected: parent and child end as without loraprof (codes 0 and 5), one recording, no orphan.
Argument: the step of the fork.
"""

import os
import sys

import torch
from torch import nn

at = int(sys.argv[1]) if len(sys.argv) > 1 else 9


class LoRALinear(nn.Module):
    def __init__(self, width: int, rank: int = 4) -> None:
        super().__init__()
        self.base = nn.Linear(width, width).requires_grad_(False)
        self.lora_A, self.lora_B = nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.base(x) + self.lora_B(self.lora_A(x))
        return out


torch.manual_seed(0)
model = nn.Sequential(LoRALinear(64), nn.GELU(), LoRALinear(64))
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
for i in range(26):
    x = torch.randn(64, 64)
    loss = model(x).pow(2).mean()
    loss.backward()
    if i == at:
        child = os.fork()
        if child == 0:
            sys.exit(5)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
    optimizer.step()
    optimizer.zero_grad()
print("done", loss.item().hex())
