"""The Python API around a loop of one's own: python examples/loop.py RECORDING.loraprof"""

import sys

import torch
from torch import nn

import loraprof


class LoRALinear(nn.Module):
    def __init__(self, width: int, out: int, rank: int = 8) -> None:
        super().__init__()
        self.base = nn.Linear(width, out).requires_grad_(False)
        self.lora_a = nn.Linear(width, rank, bias=False)
        self.lora_b = nn.Linear(rank, out, bias=False)
        nn.init.zeros_(self.lora_b.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + 2.0 * self.lora_b(self.lora_a(x))


torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
model = nn.Sequential(LoRALinear(256, 1024), nn.GELU(), LoRALinear(1024, 256)).to(device)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)

with loraprof.profile(sys.argv[1], progress=print) as profile:
    while not profile.done:  # or `for batch in loader:` and a break; or let the loop go on
        x = torch.randn(512, 256, device=device)
        loss = nn.functional.mse_loss(model(x), x)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

report = profile.report
print(report.verdict.sentence)
for finding in report.findings:
    print(f"{finding.id}: {finding.title}; {finding.remedy}")
