"""What remedies of a running program are tested on: small models, their batches, and two steps that are watched."""

from collections.abc import Callable
from typing import Any

import peft
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from loraprof.live_remedies.program import Program
from loraprof.live_remedies.watch import Watch


class Handwritten(nn.Module):
    """A and B as parameters, B held as (r, out)."""

    def __init__(self, width: int = 16, rank: int = 4, drop: float = 0.0) -> None:
        super().__init__()
        self.base = nn.Linear(width, width).requires_grad_(False)
        self.A, self.B = nn.Parameter(torch.randn(rank, width) / 8), nn.Parameter(torch.randn(rank, width) / 8)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 1.5 * (self.drop(x) @ self.A.T @ self.B)


def llama(**lora: Any) -> nn.Module:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation=lora.pop("attention", "sdpa"),
    )
    base: Any = LlamaForCausalLM(config).to(lora.pop("dtype", torch.float32))
    if lora.pop("checkpointing", False):
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
        base.enable_input_require_grads()
    model: nn.Module = peft.get_peft_model(
        base, peft.LoraConfig(**{"r": 4, "target_modules": ["q_proj", "v_proj", "up_proj"], **lora})
    )
    for name, p in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(p, std=0.1)
    return model.train()


def tokens(padded: bool = False, masked: bool = False) -> dict[str, Tensor]:
    ids = torch.randint(4, 64, (2, 12))
    mask = torch.ones_like(ids)
    if padded:
        mask[0, 5:], mask[1, 8:] = 0, 0
    labels = ids.masked_fill(mask == 0, -100)
    return {"input_ids": ids, "labels": labels, **({"attention_mask": mask} if padded or masked else {})}


def observed(model: nn.Module, optimizer: torch.optim.Optimizer, step: Callable[[], Any], steps: int = 2) -> Program:
    """Steps as ``fix`` watches them."""
    watch = Watch()
    watch.install()
    try:
        for _ in range(steps):
            step()
            watch.on_step(optimizer)
        program = watch.program(optimizer)
    finally:
        watch.remove()
    assert program is not None
    return program


def base_of(model: Any) -> Any:
    """The model of transformers below PEFT's wrappers."""
    return model.base_model.model


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def causal(model: nn.Module, batch: dict[str, Tensor], keep: bool = False) -> tuple[Program, Callable[[], float]]:
    """The program after two steps of no length, and what a further step's loss is."""
    optimizer = torch.optim.AdamW(trained(model), lr=0.0)

    def step() -> float:
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=not keep)
        return float(loss.detach())

    return observed(model, optimizer, step), step


def gradients(model: nn.Module, batch: dict[str, Tensor]) -> list[Tensor]:
    model.zero_grad()
    model(**batch).loss.backward()
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return found


def same(own: list[Tensor], expected: list[Tensor], rtol: float = 1e-4, atol: float = 1e-6) -> None:
    assert len(own) == len(expected) > 0
    for a, b in zip(own, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)
