"""Adapters of one linear layer as people write them: each maps (…, K) to (…, N); and a counted step to look at it."""

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


def counted(run: Callable[[], Any], seen_by: Markers | None = None) -> Tables:
    """What a step that ran once is known to be made of."""
    markers = seen_by or Markers()
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
