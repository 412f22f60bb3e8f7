"""Six blocks that build a mask and positions, each on its own or once for all: ``python layers.py PECULIARITY``."""

import sys

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

WHAT = sys.argv[1] if len(sys.argv) > 1 else "plain"
WIDTH, TOKENS = 32, 256


def metadata(lengths: Tensor) -> Tensor:
    """A mask of packed sequences and the distances in it."""
    place = torch.arange(TOKENS)
    owner = (place[:, None] >= lengths.cumsum(0)[None]).sum(1)
    same = (owner[:, None] == owner[None]) & (place[:, None] >= place[None])
    distance = (place[:, None] - place[None]).clamp(0).float().mul(-0.01).exp()
    return torch.where(same, distance, torch.zeros(()))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, lengths: Tensor, mixing: Tensor | None) -> Tensor:
        if mixing is None:
            mixing = metadata(lengths)
        y = x + self.down(torch.relu(mixing @ self.up(x)))
        if WHAT == "reads":
            y = y * (1.0 if y.sum().item() > -1e9 else 0.0)
        return y


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(6))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        mixing = metadata(lengths) if WHAT in ("once", "reads") else None
        for block in self.blocks:
            x = block(x, lengths, mixing)
        return x


torch.manual_seed(0)
model = get_peft_model(Model(), LoraConfig(r=4, target_modules=["up", "down"]))
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
lengths = torch.tensor([100, 56, 100])
x = torch.randn(2, TOKENS, WIDTH)
for _ in range(1000):
    model(x, lengths).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
