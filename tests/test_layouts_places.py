"""Adapters in unusual places and forms, each in a line or two, and networks that only look like adapted ones."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from layouts import D, Delta, N, Pair, R, Wrapper, counted, frozen, matrix, stack, trained
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

Apply = Callable[[Any, Tensor], Tensor]
Fill = Callable[[Any], object]


class Layer(nn.Module):
    """A frozen ``base`` and whatever ``fill`` adds; ``apply`` is its forward pass."""

    def __init__(self, k: int, n: int, apply: Apply, fill: Fill) -> None:
        super().__init__()
        self.k, self.n, self.apply_, self.base = k, n, apply, frozen(k, n)
        fill(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.apply_(self, x)


def ab(m: Any) -> None:
    m.a, m.b = matrix(R, m.k), matrix(m.n, R)


def quiet_base(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        y: Tensor = m.base(x)
    return y + x @ m.a.T @ m.b.T


def gated(m: Any, x: Tensor) -> Tensor:
    g, y = m.router(x).softmax(-1), m.base(x)
    for i in range(3):
        y = y + g[:, i : i + 1] * (x @ m.a[i].T @ m.b[i].T)
    return y


def in_one(m: Any, x: Tensor) -> Tensor:
    y = F.linear(x, torch.cat([m.base.weight, m.a]))
    return y[:, : m.n] + y[:, m.n :] @ m.b.T


def halves(m: Any, x: Tensor) -> Tensor:
    a, b = m.ab[: R * m.k].view(R, m.k), m.ab[R * m.k :].view(m.n, R)
    return m.base(x) + x @ a.T @ b.T


def autocast(m: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return m.base(x) + 2 * F.linear(F.linear(F.dropout(x, 0.1), m.a), m.b)


def frozen_ab(m: Any) -> None:
    ab(m)
    m.a.requires_grad_(False), m.b.requires_grad_(False)
    m.r, m.d, m.v = matrix(R, R), nn.Parameter(torch.ones(R)), nn.Parameter(torch.ones(m.n))


def trained_base(m: Any) -> None:
    ab(m)
    m.base.requires_grad_(True)


def several(m: Any) -> None:
    m.router = nn.Linear(m.k, 3)
    m.a = nn.ParameterList(matrix(R, m.k) for _ in range(3))
    m.b = nn.ParameterList(matrix(m.n, R) for _ in range(3))


def one_a(m: Any) -> None:
    m.router, m.a, m.b = nn.Linear(m.k, 3), matrix(R, m.k), matrix(3, m.n, R)


def kron(m: Any) -> None:
    m.w1, m.w2a, m.w2b = matrix(4, 4), matrix(m.n // 4, R), matrix(R, m.k // 4)


def add(m: Any, change: Tensor) -> Tensor:
    return m.base.weight + change


FORMS: dict[str, tuple[Apply, Fill]] = {
    "one packed parameter": (halves, lambda m: setattr(m, "ab", matrix(R * (m.k + m.n)))),
    "vectors between frozen A and B": (lambda m, x: m.base(x) + m.v * ((m.d * (x @ m.a.T)) @ m.b.T), frozen_ab),
    "a square between frozen A and B": (lambda m, x: m.base(x) + x @ m.a.T @ m.r @ m.b.T, frozen_ab),
    "addmm to the output": (lambda m, x: torch.addmm(m.base(x), x @ m.a.T, m.b.T, alpha=2.0), ab),
    "addmm to the weight": (lambda m, x: F.linear(x, torch.addmm(m.base.weight, m.b, m.a), m.base.bias), ab),
    "dropout of the change": (lambda m, x: F.linear(x, add(m, F.dropout(m.b @ m.a, 0.1))), ab),
    "dropout of A": (lambda m, x: m.base(x) + x @ F.dropout(m.a, 0.1).T @ m.b.T, ab),
    "stack and sum": (lambda m, x: torch.stack([m.base(x), x @ m.a.T @ m.b.T]).sum(0), ab),
    "W and A in one product": (in_one, ab),
    "W and B in one product": (
        lambda m, x: F.linear(torch.cat([x, x @ m.a.T], -1), torch.cat([m.base.weight, m.b], 1), m.base.bias),
        ab,
    ),
    "lerp": (lambda m, x: torch.lerp(m.base(x), x @ m.a.T @ m.b.T, 0.5), ab),
    "einsum": (lambda m, x: m.base(x) + torch.einsum("td,rd,nr->tn", x, m.a, m.b), ab),
    "columns": (lambda m, x: (m.base.weight @ x.T + m.b @ (m.a @ x.T)).T, ab),
    "by rows": (lambda m, x: torch.cat([m.base(c) + c @ m.a.T @ m.b.T for c in x.chunk(2)]), ab),
    "the base's weight detached": (lambda m, x: F.linear(x, m.base.weight.detach()) + x @ m.a.T @ m.b.T, trained_base),
    "the base's data": (lambda m, x: F.linear(x, m.base.weight.data) + x @ m.a.T @ m.b.T, trained_base),
    "the base without gradient": (quiet_base, trained_base),
    "autocast": (autocast, ab),
    "a router over pairs": (gated, several),
    "one A, a router over Bs": (
        lambda m, x: m.base(x) + torch.einsum("te,tr,enr->tn", m.router(x).softmax(-1), x @ m.a.T, m.b),
        one_a,
    ),
    "kron": (lambda m, x: F.linear(x, add(m, torch.kron(m.w1, m.w2a @ m.w2b))), kron),
    "convolutions of one": (
        lambda m, x: F.linear(x, m.base.weight) + F.conv1d(F.conv1d(x.T[None], m.a[..., None]), m.b[..., None])[0].T,
        ab,
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_a_layer(form: str) -> None:
    found = trained(nn.Sequential(Layer(D, N, *FORMS[form]), nn.GELU(), Layer(N, D, *FORMS[form])))
    rank = 3 * R if form == "a router over pairs" else R
    assert [(s.path, s.rank, s.in_features, s.out_features) for s in found.sites] == [
        ("0", rank, D, N),
        ("2", rank, N, D),
    ]
    own = [p for p in found.parameters if p.trainable and "router" not in found.modules[p.module].path]
    assert all(p.part for p in own if len(p.shape) > 1)
    assert found.notes == []


class Net(nn.Module):
    """One module with children; ``apply`` is its forward pass."""

    def __init__(self, apply: Apply, **children: Any) -> None:
        super().__init__()
        self.apply_ = apply
        for name, child in children.items():
            setattr(self, name, child)

    def forward(self, x: Tensor) -> Tensor:
        return self.apply_(self, x)


def pairs_of(count: int, k: int = D, n: int = D) -> nn.ModuleList:
    return nn.ModuleList(Pair(k, n) for _ in range(count))


def tasks() -> nn.Module:
    named = nn.ModuleDict({t: nn.ModuleDict({"q": Pair(D, D), "v": Pair(D, D)}) for t in ("a", "b")})

    def apply(m: Any, x: Tensor) -> Tensor:
        h = torch.relu(m.q(x) + m.tasks["b"]["q"](x))
        return m.v(h) + m.tasks["b"]["v"](h)

    return Net(apply, q=frozen(D, D), v=frozen(D, D), tasks=named)


def functional() -> nn.Module:
    def apply(m: Any, x: Tensor) -> Tensor:
        weights = dict(m.net.named_parameters())
        for i in (0, 2):
            weights[f"{i}.weight"] = weights[f"{i}.weight"] + m.pairs[f"b{i}"] @ m.pairs[f"a{i}"]
        return torch.func.functional_call(m.net, weights, (x,))

    pairs = nn.ParameterDict({"a0": matrix(R, D), "b0": matrix(N, R), "a2": matrix(R, N), "b2": matrix(D, R)})
    return Net(apply, net=nn.Sequential(frozen(D, N), nn.GELU(), frozen(N, D)), pairs=pairs)


def merged_before() -> nn.Module:
    def merge(m: Any, _: Any) -> None:
        m.weight = m.w0 + m.b @ m.a

    net = nn.Sequential(frozen(D, N), nn.GELU(), frozen(N, D))
    for m in (net[0], net[2]):
        weight, m.k, m.n = m._parameters.pop("weight"), m.in_features, m.out_features
        m.register_parameter("w0", weight)
        ab(m)
        m.register_forward_pre_hook(merge)
    return net


def three_bs() -> nn.Module:
    def apply(m: Any, x: Tensor) -> Tensor:
        low = m.a(x)
        q, k, v = (m.qkv(x) + torch.cat([b(low) for b in m.bs], -1)).chunk(3, -1)
        return m.out(F.scaled_dot_product_attention(q[None], k[None], v[None])[0])

    bs = nn.ModuleList(nn.Linear(R, D, bias=False) for _ in range(3))
    return Net(apply, qkv=frozen(D, 3 * D), out=frozen(D, D), a=nn.Linear(D, R, bias=False), bs=bs)


def into_slices() -> nn.Module:
    def apply(m: Any, x: Tensor) -> Tensor:
        y = m.qkv(x)
        y[..., :D] += m.pairs[0](x)
        y[..., -D:] += m.pairs[1](x)
        q, k, v = y.chunk(3, -1)
        return m.out(F.scaled_dot_product_attention(q[None], k[None], v[None])[0])

    return Net(apply, qkv=frozen(D, 3 * D), out=frozen(D, D), pairs=pairs_of(2))


def shared_base() -> nn.Module:
    def apply(m: Any, x: Tensor) -> Tensor:
        for pair in m.pairs:
            x = torch.relu(m.base(x) + pair(x))
        return x

    return Net(apply, base=frozen(D, D), pairs=pairs_of(3))


def gathered() -> nn.Module:
    def apply(m: Any, x: Tensor) -> Tensor:
        e = torch.arange(len(x)) % 4
        low = torch.einsum("td,tdr->tr", x, m.a[e])
        return torch.einsum("td,tdn->tn", x, m.up[e]) + torch.einsum("tr,trn->tn", low, m.b[e])

    return Net(apply, up=matrix(4, D, N).requires_grad_(False), a=matrix(4, D, R), b=matrix(4, R, N))


def ensemble() -> nn.Module:
    def apply(m: Any, x: Tensor) -> Tensor:
        each = torch.func.vmap(lambda a, b: m.base(x) + x @ a.T @ b.T)
        return each(m.a, m.b).mean(0)

    return Net(apply, base=frozen(D, D), a=matrix(3, R, D), b=matrix(3, D, R))


def attention() -> nn.Module:
    inner = nn.MultiheadAttention(D, 2, batch_first=True).requires_grad_(False)
    parametrize.register_parametrization(inner, "in_proj_weight", Delta(D, 3 * D))
    return Net(lambda m, x: m.inner(x[None], x[None], x[None], need_weights=False)[0][0], inner=inner)


def checkpointed(reentrant: bool) -> Callable[[], nn.Module]:
    def apply(m: Any, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        for layer in m.net:
            x = checkpoint(layer, x, use_reentrant=reentrant)
        return x

    return lambda: Net(apply, net=stack(Wrapper))


def recurrent() -> nn.Module:
    def apply(m: Any, x: Tensor) -> Tensor:
        h = torch.zeros(1, D)
        for row in x[:, None]:
            h = torch.tanh(m.ih(row) + m.pair(row) + m.hh(h))
        return h

    return Net(apply, ih=frozen(D, D), hh=frozen(D, D), pair=Pair(D, D))


PLACES = [
    (tasks, ["q", "v"]),
    (functional, ["net.0", "net.2"]),
    (merged_before, ["0", "2"]),
    (three_bs, ["qkv"]),
    (into_slices, ["qkv"]),
    (shared_base, [""]),
    (gathered, [""]),
    (ensemble, [""]),
    (attention, ["inner"]),
    (checkpointed(True), ["net.0", "net.2"]),
    (checkpointed(False), ["net.0", "net.2"]),
    (recurrent, ["ih"]),
]


@pytest.mark.parametrize(("make", "expected"), PLACES)
def test_places_of_a_pair(make: Callable[[], nn.Module], expected: list[str]) -> None:
    assert [(s.path, s.rank) for s in trained(make()).sites] == [(path, R) for path in expected]


def test_a_tied_head_is_a_layer_of_its_own() -> None:
    def apply(m: Any, ids: Tensor) -> Tensor:
        h = m.table(ids) + F.embedding(ids, m.a.T) @ m.b.T
        return m.head(h) + m.pair(h)

    net = Net(apply, table=nn.Embedding(64, D).requires_grad_(False), head=nn.Linear(D, 64, bias=False),
              a=matrix(R, 64), b=matrix(D, R), pair=Pair(D, 64))  # fmt: skip
    net.get_submodule("head").weight = net.get_submodule("table").weight
    found = trained(net, torch.randint(0, 64, (3, 5))).sites
    assert [(s.path, s.in_features, s.out_features) for s in found] == [("table", 64, D), ("head", D, 64)]


def test_a_program_without_modules() -> None:
    weights = [torch.randn(D, D) for _ in range(2)]
    pairs = [tuple(torch.randn(*s, requires_grad=True) for s in ((D, R), (R, D))) for _ in weights]

    def run() -> None:
        x = torch.randn(6, D)
        for w, (a, b) in zip(weights, pairs, strict=True):
            x = torch.relu(x @ w + x @ a @ b)
        x.sum().backward()

    assert [(s.path, s.rank) for s in counted(run).sites] == [("layer 0", R), ("layer 1", R)]


@pytest.mark.parametrize("transposed", [False, True])
def test_the_change_of_a_convolution(transposed: bool) -> None:
    if transposed:
        parts: dict[str, Any] = {
            "base": nn.ConvTranspose1d(8, 16, 3),
            "a": nn.ConvTranspose1d(8, 2, 3),
            "b": nn.Conv1d(2, 16, 1),
        }
        net, x = Net(lambda m, x: m.base(x) + m.b(m.a(x)), **parts), torch.randn(2, 8, 9)
    else:
        parts = {"base": nn.Conv2d(8, 16, 3), "a": matrix(2, 72), "b": matrix(16, 2)}
        net = Net(lambda m, x: F.conv2d(x, m.base.weight + (m.b @ m.a).view_as(m.base.weight)), **parts)
        x = torch.randn(2, 8, 9, 9)
    net.base.requires_grad_(False)
    (found,) = trained(net, x).sites
    assert (found.rank, found.in_features, found.out_features, found.how) == (2, 8, 16, "observed")


def narrow(k: int = D, n: int = D) -> nn.Sequential:
    return nn.Sequential(nn.Linear(k, R), nn.ReLU(), nn.Linear(R, n))


PLAIN: dict[str, Callable[[], nn.Module]] = {
    "squeeze and excite": lambda: Net(
        lambda m, x: m.w(x) * torch.sigmoid(m.n(x.mean(0))), w=nn.Linear(D, D), n=narrow()
    ),
    "the same on a frozen one": lambda: Net(
        lambda m, x: m.w(x) * (1 + torch.sigmoid(m.n(m.w(x)))), w=frozen(D, D), n=narrow()
    ),
    "mixer": lambda: Net(lambda m, x: x + m.t(x.T).T + m.n(x), t=nn.Linear(6, 6), n=narrow()),
    "factorised": lambda: Net(lambda m, x: x + m.p(torch.relu(m.w(x))), w=frozen(D, D), p=Pair(D, D)),
    "linear attention": lambda: Net(
        lambda m, x: x + m.o(F.elu(m.q(x)[:, :R]) @ (F.elu(m.k(x)).T @ m.v(x))),
        q=frozen(D, D), k=nn.Linear(D, R), v=nn.Linear(D, D), o=nn.Linear(D, D),
    ),
    "latent attention": lambda: Net(
        lambda m, x: F.scaled_dot_product_attention(m.q(x)[None], *m.kv(m.low(x))[None].chunk(2, -1))[0],
        q=nn.Linear(D, D), low=nn.Linear(D, R), kv=nn.Linear(R, 2 * D),
    ),
    "a bottleneck behind a frozen layer": lambda: Net(
        lambda m, x: x + m.w(x) + m.n(m.w(x)), w=frozen(D, D), n=narrow()
    ),
    "conditions from elsewhere": lambda: Net(
        lambda m, x: m.w(x) + m.p(torch.randn(6, D)), w=frozen(D, D), p=Pair(D, D)
    ),
    "times looked up": lambda: Net(
        lambda m, x: m.w(x) + m.p(m.t(torch.arange(6))), w=frozen(D, D), t=nn.Embedding(9, R), p=nn.Linear(R, D)
    ),
    "a decoder with skips": lambda: Net(
        lambda m, x: m.w(x) + m.n(torch.relu(m.v(m.w(x)))), w=frozen(D, D), v=frozen(D, D), n=narrow()
    ),
    "random features": lambda: Net(lambda m, x: x + m.p(torch.relu(m.w(x))), w=frozen(D, 4 * D), p=Pair(4 * D, D)),
}  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_narrow_layers_that_are_no_adapters(name: str) -> None:
    found = trained(PLAIN[name]())
    assert (found.sites, found.notes) == ([], [])
