"""Small models that hold adapters beside several layers or in one module with them, and some that only look so."""

import torch
from layouts import D, N, Pair, R, frozen, matrix
from torch import Tensor, nn
from torch.nn import functional


class Siblings(nn.Module):
    """One fused frozen projection; q and v have pairs of their own that lie beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = frozen(D, 3 * D), frozen(D, D)
        self.q_pair, self.v_pair, self.out_pair = Pair(D, D), Pair(D, D), Pair(D, D)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        q, v = q + self.q_pair(x), v + self.v_pair(x)
        mixed = functional.scaled_dot_product_attention(q[None], k[None], v[None])[0]
        out: Tensor = self.out(mixed) + self.out_pair(mixed)
        return out


class Processor(nn.Module):
    """diffusers' old attention processor: holds the pairs and runs the attention of another module."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = Pair(D, D), Pair(D, D), Pair(D, D)

    def forward(self, attention: nn.Module, x: Tensor) -> Tensor:
        q, k, v = (getattr(attention, n)(x) + getattr(self, n)(x) for n in "qkv")
        return functional.scaled_dot_product_attention(q[None], k[None], v[None])[0]


class Processed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.processor = frozen(D, D), frozen(D, D), frozen(D, D), Processor()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.processor(self, x)
        return out


class Inline(nn.Module):
    """Everything in one module: attention, four frozen weights, pairs on two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.wq, self.wk, self.wv, self.wo = (matrix(D, D).requires_grad_(False) for _ in range(4))
        self.aq, self.bq, self.av, self.bv = matrix(D, R), matrix(R, D), matrix(D, R), matrix(R, D)

    def forward(self, x: Tensor) -> Tensor:
        q, k = x @ self.wq + x @ self.aq @ self.bq, x @ self.wk
        v = torch.einsum("td,de->te", x, self.wv) + torch.einsum("td,dr,re->te", x, self.av, self.bv)
        weights = (q @ k.T / 6).softmax(-1)
        out: Tensor = x + weights @ v @ self.wo
        return out


class Experts(nn.Module):
    """Frozen 3-D weights, pairs as 3-D parameters; all experts in one product."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = (nn.Parameter(torch.randn(4, *s) / 6, requires_grad=False) for s in ((D, N), (N, D)))
        self.a1, self.b1, self.a2, self.b2 = matrix(4, D, R), matrix(4, R, N), matrix(4, N, R), matrix(4, R, D)

    def forward(self, x: Tensor) -> Tensor:
        routed = x.expand(4, *x.shape)
        h = functional.silu(torch.bmm(routed, self.up) + torch.bmm(torch.bmm(routed, self.a1), self.b1))
        return (torch.bmm(h, self.down) + torch.bmm(torch.bmm(h, self.a2), self.b2)).sum(0)


class Listed(nn.Module):
    """A list of frozen experts and lists of pairs; each expert has the rows routed to it."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(frozen(D, D) for _ in range(3))
        self.pairs = nn.ModuleList(Pair(D, D) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        out, chosen = torch.zeros_like(x), torch.arange(len(x)) % 3
        for i, (expert, pair) in enumerate(zip(self.experts, self.pairs, strict=True)):
            rows = (chosen == i).nonzero()[:, 0]
            out = out.index_add(0, rows, expert(x[rows]) + pair(x[rows]))
        return out


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 16, 3).requires_grad_(False)
        self.down, self.up = nn.Conv2d(8, R, 3, bias=False), nn.Conv2d(R, 16, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x) + self.up(self.down(x))
        return out


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(64, D).requires_grad_(False)
        self.a, self.b = matrix(R, 64), matrix(D, R)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.table(ids) + functional.embedding(ids, self.a.T) @ self.b.T
        return out


class Autoencoder(nn.Module):
    """A trained bottleneck: its result is the output."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(D, R), nn.Linear(R, D)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.up(torch.relu(self.down(x)))
        return out


class Behind(nn.Module):
    """A trained bottleneck with a skip, behind a frozen network: it reads what it is added to."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.bottleneck = frozen(D, D), Autoencoder()

    def forward(self, x: Tensor) -> Tensor:
        features = self.encoder(x)
        out: Tensor = features + self.bottleneck(features)
        return out


class Wide(nn.Module):
    """A trained branch beside a frozen layer, as wide as that is."""

    def __init__(self) -> None:
        super().__init__()
        self.org, self.branch = frozen(D, D), nn.Sequential(nn.Linear(D, D), nn.Linear(D, D))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.org(x) + self.branch(x)
        return out


class Joined(nn.Module):
    """The narrow branch stands beside the frozen product, not in a sum with it."""

    def __init__(self) -> None:
        super().__init__()
        self.org, self.pair = frozen(D, D), Pair(D, D)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.org(x), self.pair(x)], -1)


class Unfrozen(nn.Module):
    """The base was left trainable."""

    def __init__(self) -> None:
        super().__init__()
        self.org, self.pair = nn.Linear(D, D), Pair(D, D)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.org(x) + self.pair(x)
        return out


class TwoBases(nn.Module):
    """One chain, two frozen products of the same input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.pair = frozen(D, D), frozen(D, D), Pair(D, D)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.first(x) + self.second(x) + self.pair(x)
        return out


class Latent(nn.Module):
    """A frozen network with narrow products of its own, a trained head behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.head = frozen(D, D), Pair(D, D).requires_grad_(False), nn.Linear(D, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.q(x) + self.kv(x))
        return out


class Tuned(nn.Module):
    """Norm gains alone are trained."""

    def __init__(self) -> None:
        super().__init__()
        self.org, self.norm, self.kv = frozen(D, D), nn.LayerNorm(D), Pair(D, D).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        out: Tensor = h + self.kv(h) + self.org(torch.relu(h))
        return out


NONE = (Autoencoder, Behind, Wide, Joined, Unfrozen, Latent)
