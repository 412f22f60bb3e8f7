"""A training of 160 steps whose later steps are slower, or not: ``python drifts.py WHAT``."""

import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

WHAT = sys.argv[1] if len(sys.argv) > 1 else "steady"
STEPS, SHIFT, WIDTH = 160, 90, 16


class Rows(Dataset[Tensor]):
    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, index: int) -> Tensor:
        if WHAT == "loader" and index >= SHIFT:
            time.sleep(0.1)
        return torch.randn(64 if WHAT == "longer" and index >= SHIFT else 8, WIDTH)


class Paced(nn.Module):
    """Takes 30 ms whatever else the machine does, four times that for long rows."""

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.03 * (4 if x.shape[1] > 8 else 1))
        return x


torch.manual_seed(0)
model = get_peft_model(nn.Sequential(Paced(), nn.Linear(WIDTH, WIDTH)), LoraConfig(r=2, target_modules=["1"]))
optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
for x in DataLoader(Rows()):
    model(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
if WHAT == "fails":
    sys.exit(7)
