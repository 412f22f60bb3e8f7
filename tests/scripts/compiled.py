"""A LoRA model of three equal blocks, compiled in one of the usual ways: ``python compiled.py WAY [BACKEND [STEPS]]``.

``main`` runs it in the calling process, for tests that count what dynamo did.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

WIDTH, VOCABULARY, TOKENS = 16, 32, 6


class Mix(nn.Module):
    """Base and adapter in one module, by hand."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(width), requires_grad=False)
        self.lora_a, self.lora_b = nn.Parameter(torch.ones(3, width)), nn.Parameter(torch.zeros(width, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + x @ self.lora_a.T @ self.lora_b.T


class Block(nn.Module):
    def __init__(self, branches: bool) -> None:
        super().__init__()
        self.mix = Mix(24)
        self.up, self.down, self.act = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH), nn.GELU()
        self.branches = branches

    def forward(self, x: Tensor) -> Tensor:
        if self.branches and x.sum() > 1e9:
            x = 2 * x
        return x + self.down(self.act(self.mix(self.up(x))))


class Model(nn.Module):
    def __init__(self, branches: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(Block(branches and i == 0) for i in range(3))
        self.lm_head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.lm_head(x)
        return logits


def main(way: str, backend: str = "inductor") -> Callable[[int], None]:
    """One training step on so many tokens, compiled as ``way`` says."""
    torch.manual_seed(0)
    way, dropout = way.removesuffix("-dropout"), 0.1 * way.endswith("-dropout")
    config = LoraConfig(r=4, target_modules=["up", "down"], lora_dropout=dropout)
    model: Any = get_peft_model(Model("branch" in way), config)
    blocks = model.base_model.model.blocks
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    ids = torch.randint(VOCABULARY, (2, TOKENS))
    compiled: Any = model
    if way in ("whole", "branch"):
        compiled = torch.compile(model, backend=backend)
    elif way == "in-place":
        model.compile(backend=backend)
    elif way == "blocks":
        for i, block in enumerate(blocks):
            blocks[i] = torch.compile(block, backend=backend)
    elif way == "blocks-in-place":
        for block in blocks:
            block.compile(backend=backend)

    def loss(ids: Tensor) -> Tensor:
        logits = compiled(input_ids=ids)
        return nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())

    run = torch.compile(loss, backend=backend) if way == "function" else loss

    def step(tokens: int) -> None:
        run(ids[:, :tokens]).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    one = main(*sys.argv[1:3])
    for _ in range(40):
        one(TOKENS)
