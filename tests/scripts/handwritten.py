"""A small decoder whose LoRA is written in one of the ways scripts write it: ``python handwritten.py WAY``."""

import sys

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

WAY = sys.argv[1]
WIDTH, RANK, VOCABULARY, TOKENS = 48, 4, 80, 24


class Parameters(nn.Linear):
    """loralib's: a linear that owns A and B."""

    def __init__(self, k: int, n: int) -> None:
        super().__init__(k, n)
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(RANK, k) / 50), nn.Parameter(torch.zeros(n, RANK))
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 2.0 * (self.dropout(x) @ self.lora_A.T @ self.lora_B.T)


class Functional(nn.Module):
    def __init__(self, k: int, n: int) -> None:
        super().__init__()
        self.org, self.A, self.B = (
            nn.Linear(k, n),
            nn.Parameter(torch.randn(k, RANK) / 50),
            nn.Parameter(torch.zeros(RANK, n)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.org(x) + x @ self.A @ self.B


class Delta(nn.Module):
    def __init__(self, k: int, n: int) -> None:
        super().__init__()
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(RANK, k) / 50), nn.Parameter(torch.zeros(n, RANK))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.lora_B @ self.lora_A


class Outside(nn.Module):
    """kohya's: lives outside the model and takes the place of a layer's forward."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.lora_down = nn.Linear(base.in_features, RANK, bias=False)
        self.lora_up = nn.Linear(RANK, base.out_features, bias=False)
        self.original = base.forward
        base.forward = self.forward  # type: ignore[assignment, method-assign]

    def forward(self, x: Tensor) -> Tensor:
        return self.original(x) + 0.5 * self.lora_up(self.lora_down(x))


class Fused(nn.Module):
    """litgpt's: q and v of one projection adapted, A once, B in two groups."""

    def __init__(self, k: int, n: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(k, n)
        self.lora_A, self.lora_B = (
            nn.Parameter(torch.randn(2 * RANK, k) / 50),
            nn.Parameter(torch.zeros(2 * n // 3, RANK)),
        )

    def forward(self, x: Tensor) -> Tensor:
        after = functional.linear(x, self.lora_A).transpose(-2, -1)
        q, v = functional.conv1d(after, self.lora_B.unsqueeze(-1), groups=2).transpose(-2, -1).chunk(2, -1)
        return self.qkv(x) + torch.cat([q, torch.zeros_like(q), v], -1)


def linear(k: int, n: int) -> nn.Module:
    made = {"parameters": Parameters, "functional": Functional}.get(WAY, nn.Linear)(k, n)
    if WAY == "parametrized":
        parametrize.register_parametrization(made, "weight", Delta(k, n))
    return made


class Mixer(nn.Module):
    """Attention in einsums, under a name that does not say so."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = Fused(WIDTH, 3 * WIDTH) if WAY == "fused" else linear(WIDTH, 3 * WIDTH)
        self.out = linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (4, -1)) for part in self.qkv(x).chunk(3, -1))
        scores = torch.einsum("bthd,bshd->bhts", q, k) / 12**0.5
        scores = scores.masked_fill(torch.ones(TOKENS, TOKENS).triu(1).bool(), -1e9)
        weights = (scores - scores.logsumexp(-1, keepdim=True)).exp()
        return self.out(torch.einsum("bhts,bshd->bthd", weights, v).flatten(-2))


class Scale(nn.Module):
    """A mean-square norm, under a name that does not say so."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.gain


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.mixer, self.second = Scale(), Mixer(), Scale()
        self.up, self.down = linear(WIDTH, 2 * WIDTH), linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(self.first(x))
        return x + self.down(functional.gelu(self.up(self.second(x))))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(4 * VOCABULARY, WIDTH)
        self.blocks = nn.Sequential(Block(), Block())
        self.norm, self.unembed = Scale(), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.unembed(self.norm(self.blocks(self.tokens(ids) + self.places(torch.arange(TOKENS)))))


torch.manual_seed(0)
model = Decoder().requires_grad_(False)
if WAY == "outside":
    kept = [Outside(m) for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "unembed"]
    trained = [p for lora in kept for p in lora.parameters()]
else:
    trained = [p for n, p in model.named_parameters() if n.endswith(("lora_A", "lora_B", ".A", ".B"))]
for parameter in trained:
    parameter.requires_grad_(True)
ids = torch.randint(VOCABULARY, (4, TOKENS))


def loss() -> Tensor:
    optimizer.zero_grad()
    out = functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
    out.backward()
    return out


lbfgs = WAY == "functional"
optimizer = torch.optim.LBFGS(trained, max_iter=2) if lbfgs else torch.optim.AdamW(trained)
for _ in range(12):
    if not lbfgs:
        loss()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step(loss if lbfgs else None)
