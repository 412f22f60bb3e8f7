"""A small language model with PEFT LoRA and one peculiarity: ``python toy.py PECULIARITY``."""

import sys
import time
from contextlib import nullcontext

import torch
from peft import LoraConfig, get_peft_model
from peft.helpers import disable_input_dtype_casting
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

WHAT = sys.argv[1] if len(sys.argv) > 1 else "plain"
WIDTH, TOKENS = 64, 24
VOCABULARY = 50_000 if WHAT == "vocabulary" else 128


STEPS = iter(range(10**6))
MODES = {"recompile": lambda: str(time.time()), "recompile-late": lambda: str(next(STEPS) // 6)}  # two calls a step


@torch.compile(backend="eager")
def compiled(x: Tensor, mode: str) -> Tensor:
    return nn.functional.gelu(x) if mode != "none" else x


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.act = nn.Linear(WIDTH, 128), nn.Linear(128, WIDTH), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        if WHAT == "pause":
            time.sleep(0.02)
        if "compile" in WHAT:
            return x + self.down(compiled(self.up(x), MODES.get(WHAT, str)()))
        return x + self.down(self.act(self.up(x)))


class Experts(nn.Module):
    """Top-1 of eight, one after another (or all of them as one product)."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, 8)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(8)) if WHAT == "experts" else None
        self.stacked = nn.Parameter(torch.randn(8, WIDTH, WIDTH) / 8)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, WIDTH)
        weight, chosen = self.router(flat).softmax(-1).max(-1)
        if self.experts is None:
            return x + (weight[:, None] * torch.einsum("td,edf->tf", flat, self.stacked)).view_as(x)
        out = torch.zeros_like(flat)
        for i, expert in enumerate(self.experts):
            rows = (chosen == i).nonzero().flatten()
            out = out.index_add(0, rows, expert(flat[rows]))
        return x + (weight[:, None] * out).view_as(x)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(Experts() if "experts" in WHAT else Block() for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)
        self.lm_head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embed(input_ids)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=WHAT == "reentrant") if "reentrant" in WHAT else block(x)
        return self.lm_head(self.norm(x))


class Tokens(Dataset[Tensor]):
    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, index: int) -> Tensor:
        time.sleep(0.02)
        return torch.randint(VOCABULARY, (TOKENS,))


class Reading(nn.Module):
    """Reads a value on its way."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1.0 if x.sum().item() > -1e9 else 0.0)


torch.manual_seed(0)
base = Model().to(torch.bfloat16 if "autocast" in WHAT else torch.float32)
if WHAT == "reentrant":
    base.lm_head.requires_grad_(True)
names = ["router"] if "experts" in WHAT else ["up", "down"]
options = {"dora": {"use_dora": True}, "save": {"modules_to_save": ["lm_head"]}, "dropout": {"lora_dropout": 0.1}}
model = get_peft_model(base, LoraConfig(r=4, target_modules=names, **options.get(WHAT, {})))  # type: ignore[arg-type]
if WHAT == "unfrozen":
    base.requires_grad_(True)
if WHAT == "reentrant":
    base.lm_head.bias.requires_grad_(True)
if WHAT == "item":
    for block in base.blocks:
        block.up.lora_dropout["default"] = Reading()  # type: ignore[assignment, index, operator, union-attr]
if WHAT == "item-outside":
    base.norm = nn.Sequential(Reading(), base.norm)  # type: ignore[assignment]
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
CASTS = disable_input_dtype_casting if WHAT == "autocast-once" else lambda _: nullcontext()
fixed = [torch.randint(VOCABULARY, (4, TOKENS))] * 1000
workers = 4 if WHAT == "prefetched-data" else 0
for ids in DataLoader(Tokens(), batch_size=4, num_workers=workers) if "data" in WHAT else fixed:
    mask = torch.ones_like(ids)
    if WHAT == "padding":
        mask[:, TOKENS // 2 :] = 0
    if WHAT == "little-padding":
        mask[:, -4:] = 0
    with CASTS(model), torch.autocast("cpu", torch.bfloat16, enabled="autocast" in WHAT):
        logits = model(input_ids=ids, attention_mask=mask)
    nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
    optimizer.step()
    optimizer.zero_grad()
