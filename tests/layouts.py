"""Adapters as people write them, small: each a module that maps (…, D) to itself, and a counted step to look at it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from loraprof.capture.modules.facts import Tables, tables_of
from loraprof.capture.modules.markers import COUNTED, Markers
from loraprof.capture.passes.counting import Counting

D, N, R = 32, 48, 4


def counted(run: Callable[[], Any]) -> Tables:
    """What a step that ran once is known to be made of."""
    markers = Markers()
    markers.install()
    markers.step = COUNTED
    counting = Counting(markers.where, markers.follow())
    counting.open()
    try:
        run()
    finally:
        counting.close()
        markers.followed()
        markers.remove()
    assert markers.flow is not None
    assert markers.flow.failed is None, markers.flow.failed
    return tables_of(markers)


def trained(model: nn.Module, x: Tensor | None = None) -> Tables:
    """One forward and backward pass; ``x`` is a batch of vectors unless given."""
    batch = torch.randn(6, D) if x is None else x
    return counted(lambda: model(batch).pow(2).mean().backward())


def matrix(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * 0.1)


def frozen(k: int, n: int) -> nn.Linear:
    return nn.Linear(k, n).requires_grad_(False)


class Pair(nn.Module):
    def __init__(self, k: int, n: int, r: int = R) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(k, r, bias=False), nn.Linear(r, n, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.up(self.down(x))
        return out


class Wrapper(nn.Module):
    """A, B and the base are children; dropout, a scale and a cast between."""

    def __init__(self, k: int, n: int) -> None:
        super().__init__()
        self.org, self.pair, self.dropout = frozen(k, n), Pair(k, n), nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.org(x) + 2.0 * self.pair(self.dropout(x).double().float())
        return out


class OwnWeight(nn.Linear):
    """torchtune's and loralib's: the layer holds the frozen weight itself."""

    def __init__(self, k: int, n: int) -> None:
        super().__init__(k, n)
        self.requires_grad_(False)
        self.a, self.b = matrix(R, k), matrix(n, R)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.linear(x, self.weight, self.bias)
        out += (x @ self.a.T @ self.b.T) * 0.5
        return out


class Grouped(nn.Module):
    """litgpt's: A of rank 2r for two parts of one projection, B in two groups, padded with zeros."""

    def __init__(self, k: int, n: int) -> None:
        super().__init__()
        self.linear, self.a, self.b = frozen(k, n), matrix(2 * R, k), matrix(n // 2, R)

    def forward(self, x: Tensor) -> Tensor:
        after = functional.conv1d((x @ self.a.T).T[None], self.b.unsqueeze(-1), groups=2)[0].T
        padded = after.new_zeros(*x.shape[:-1], self.linear.out_features)
        padded[..., torch.arange(after.shape[-1])] = after
        out: Tensor = self.linear(x) + padded
        return out


class MergedPair(nn.Module):
    """loralib's MergedLinear: the whole difference is built, then applied to the input."""

    def __init__(self, k: int, n: int) -> None:
        super().__init__()
        self.linear, self.a, self.b = frozen(k, n), matrix(R, k), matrix(n, R)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x) + x @ (self.b @ self.a).T
        return out


class Delta(nn.Module):
    def __init__(self, k: int, n: int) -> None:
        super().__init__()
        self.a, self.b = matrix(R, k), matrix(n, R)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.b @ self.a


def parametrized(k: int, n: int) -> nn.Module:
    base = frozen(k, n)
    parametrize.register_parametrization(base, "weight", Delta(k, n))
    return base


class Hadamard(nn.Module):
    """LyCORIS's LoHa: the weight plus an elementwise product of two products."""

    def __init__(self, k: int, n: int) -> None:
        super().__init__()
        self.linear = frozen(k, n)
        self.a1, self.b1, self.a2, self.b2 = matrix(R, k), matrix(n, R), matrix(R, k), matrix(n, R)

    def forward(self, x: Tensor) -> Tensor:
        change = (self.b1 @ self.a1) * (self.b2 @ self.a2) * torch.tensor(0.5)
        return functional.linear(x, self.linear.weight + change, self.linear.bias)


class Magnitude(nn.Module):
    """DoRA's: the sum is scaled with a trained vector over the norm of the merged weight."""

    def __init__(self, k: int, n: int) -> None:
        super().__init__()
        self.linear, self.pair, self.magnitude = frozen(k, n), Pair(k, n), nn.Parameter(torch.ones(n))

    def forward(self, x: Tensor) -> Tensor:
        change = self.pair.up.weight @ self.pair.down.weight
        norm = (self.linear.weight + change).norm(dim=1).detach()
        out: Tensor = (functional.linear(x, self.linear.weight) + self.pair(x)) * (self.magnitude / norm)
        return out


class Gated(nn.Module):
    """A learned gate per token, and a mixer between A and B."""

    def __init__(self, k: int, n: int) -> None:
        super().__init__()
        self.linear, self.a, self.mix, self.b = frozen(k, n), matrix(k, R), matrix(R, R), matrix(R, n)
        self.gate = nn.Linear(k, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x) + torch.sigmoid(self.gate(x)) * (x @ self.a @ self.mix @ self.b)
        return out


class InFunction(nn.Module):
    """A function with a backward pass of its own, as fused kernels have; the sum is a product's."""

    class Apply(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, w: Tensor, a: Tensor, b: Tensor) -> Tensor:
            ctx.save_for_backward(x, w, a, b)
            return (x @ w.T).addmm_(x @ a.T, b.T, alpha=2.0)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:
            x, w, a, b = ctx.saved_tensors
            return grad @ w + grad @ b @ a, None, (grad @ b).T @ x, grad.T @ (x @ a.T)

    def __init__(self, k: int, n: int) -> None:
        super().__init__()
        self.linear, self.a, self.b = frozen(k, n), matrix(R, k), matrix(n, R)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.Apply.apply(x, self.linear.weight, self.a, self.b)
        return out


class Reversed(nn.Module):
    """The residual comes first, the adapter before the base."""

    def __init__(self, k: int, n: int) -> None:
        super().__init__()
        self.linear, self.pair, self.skip = frozen(k, n), Pair(k, n), frozen(k, n)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.relu(self.skip(x)) + self.pair(x) + self.linear(x)
        return out


class Transposed(nn.Module):
    """GPT-2's Conv1D: the weight is stored as (in, out); it is quantised to bytes and expanded at each call."""

    def __init__(self, k: int, n: int) -> None:
        super().__init__()
        self.register_buffer("packed", torch.randint(-127, 127, (k, n), dtype=torch.int8))
        self.register_buffer("scales", torch.rand(n) / 127)
        self.pair = Pair(k, n)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.get_buffer("packed").to(x.dtype) * self.get_buffer("scales")
        out: Tensor = x @ weight + self.pair(x)
        return out


class Bare(nn.Module):
    """A and B are tensors that no module holds."""

    def __init__(self, k: int, n: int) -> None:
        super().__init__()
        self.linear = frozen(k, n)
        self.pair = [torch.randn(n, R, requires_grad=True), torch.randn(R, k, requires_grad=True)]

    def forward(self, x: Tensor) -> Tensor:
        b, a = self.pair
        out: Tensor = self.linear(x) + x @ (b @ a).T + x @ a.T @ b.T
        return out


LAYERS = (Wrapper, OwnWeight, Grouped, MergedPair, parametrized, Hadamard, Magnitude, Gated, InFunction, Reversed,
          Transposed)  # fmt: skip


def hooked(k: int, n: int) -> nn.Module:
    """The pair hangs on the linear; a hook adds it."""
    base = frozen(k, n)
    base.lora = Pair(k, n)
    base.register_forward_hook(lambda module, args, out: out + module.lora(args[0]))
    return base


class Replaced(nn.Module):
    """kohya's: lives outside the model and takes the place of a layer's forward."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.pair = Pair(base.in_features, base.out_features)
        self.original = base.forward
        base.forward = self.forward  # type: ignore[method-assign, assignment]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.original(x) + self.pair(x)
        return out


def stack(make: Callable[[int, int], nn.Module]) -> nn.Module:
    return nn.Sequential(make(D, N), nn.GELU(), make(N, D))


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


class ByUnits(nn.Module):
    """PEFT's and torchtune's DoRA: the change is what the pair makes of a unit matrix; the input wants a gradient."""

    def __init__(self, k: int, n: int) -> None:
        super().__init__()
        self.linear, self.pair, self.magnitude = frozen(k, n), Pair(k, n), nn.Parameter(torch.ones(n))

    def forward(self, x: Tensor) -> Tensor:
        change = self.pair(torch.eye(x.shape[-1])).T
        factor = self.magnitude / (self.linear.weight + change).norm(dim=1).detach()
        out: Tensor = self.linear(x) + (factor - 1) * functional.linear(x, self.linear.weight) + factor * self.pair(x)
        return out
