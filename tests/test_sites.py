"""Adapted layers are found by structure: PEFT's in all their forms, and those that scripts write themselves."""

from collections.abc import Callable

import pytest
import torch
from peft import AdaLoraConfig, LoHaConfig, LoraConfig, VeraConfig, get_peft_model
from peft.config import PeftConfig
from torch import Tensor, nn
from torch.nn.utils import parametrize

from loraprof.capture.modules.facts import tables_of
from loraprof.capture.modules.markers import Markers
from loraprof.model.recording import AdapterSite, ModuleInfo, ParameterInfo

D, N, R = 16, 24, 2


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, D)
        self.conv = nn.Conv2d(D, N, 3)
        self.q, self.v = nn.Linear(D, N), nn.Linear(D, N)

    def forward(self, x: Tensor) -> Tensor:
        return self.q(x) + self.v(x)


class Factors(nn.Module):
    """A and B as parameters, with or without the base weight beside them."""

    def __init__(self, a: tuple[int, int], b: tuple[int, int], weight: tuple[int, int] | None = None) -> None:
        super().__init__()
        if weight:
            self.weight = nn.Parameter(torch.zeros(weight), requires_grad=False)
        self.a, self.b = nn.Parameter(torch.zeros(a)), nn.Parameter(torch.zeros(b))

    def forward(self, w: Tensor) -> Tensor:
        return w + self.b @ self.a


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)


def around(base: nn.Module, **children: nn.Module | nn.Parameter) -> nn.Module:
    out = nn.Module()
    out.org = frozen(base)
    for name, child in children.items():
        setattr(out, name, child)
    return out


def wrapper() -> nn.Module:
    return around(nn.Linear(D, N), lora_down=nn.Linear(D, R), lora_up=nn.Linear(R, N), dropout=nn.Dropout(0.2))


def hung_inside() -> nn.Module:
    base = frozen(nn.Linear(D, N))
    base.lora = nn.Sequential(nn.Linear(D, R), nn.Linear(R, N))
    return base


def own_parameters() -> nn.Module:
    return Factors((R, D), (N, R), (N, D))


def functional() -> nn.Module:
    return around(nn.Linear(D, N), a=nn.Parameter(torch.zeros(D, R)), b=nn.Parameter(torch.zeros(R, N)))


def square() -> nn.Module:
    return around(nn.Linear(D, D), a=nn.Parameter(torch.zeros(D, R)), b=nn.Parameter(torch.zeros(R, D)))


def grouped() -> nn.Module:
    """One A of rank 2r for q and v of a fused projection, B in two groups."""
    return around(nn.Linear(D, 3 * D), a=nn.Parameter(torch.zeros(2 * R, D)), b=nn.Parameter(torch.zeros(2 * D, R)))


def parametrized() -> nn.Module:
    base = frozen(nn.Linear(D, N))
    parametrize.register_parametrization(base, "weight", Factors((R, D), (N, R)))
    return base


def convolution() -> nn.Module:
    return around(nn.Conv2d(D, N, 3), down=nn.Conv2d(D, R, 3, bias=False), up=nn.Conv2d(R, N, 1, bias=False))


def frozen_a() -> nn.Module:
    return around(nn.Linear(D, N), down=frozen(nn.Linear(D, R)), up=nn.Linear(R, N))


def found(model: nn.Module) -> tuple[list[ModuleInfo], list[AdapterSite], list[ParameterInfo]]:
    markers = Markers()
    markers.adopt([model])
    return tables_of(markers)


@pytest.mark.parametrize(
    ("make", "rank"),
    [(f, R) for f in (wrapper, hung_inside, own_parameters, functional, square, parametrized, convolution, frozen_a)]
    + [(grouped, 2 * R)],
)
def test_hand_written(make: Callable[[], nn.Module], rank: int) -> None:
    model = nn.Module()
    model.layers = nn.ModuleList([make(), make()])
    modules, sites, parameters = found(model)
    assert [s.path for s in sites] == ["layers.0", "layers.1"]
    assert {(s.kind, s.rank, s.active) for s in sites} == {("handwritten", rank, True)}
    assert {m.site for m in modules if m.path.startswith("layers.1")} == {1}
    parts = [p.part for p in parameters if p.trainable]
    assert parts.count("down") == parts.count("up") or make is frozen_a
    assert all(p.part in ("down", "up") for p in parameters if p.trainable)
    weights = {p.part: p.shape for p in parameters if p.name in ("a", "b")}
    if weights:
        assert weights["down"].index(rank) == (1 if make in (functional, square) else 0)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(D, R), nn.Linear(R, N), nn.Linear(D, N)),  # all of it trains
        frozen(nn.Sequential(nn.Linear(D, R), nn.Linear(R, N), nn.Linear(D, N))),  # nothing does: a latent projection
        around(nn.Linear(D, N), down=nn.Linear(D, R), up=nn.Linear(R + 1, N)),
        around(nn.Linear(D, N), down=nn.Linear(D, 2 * N), up=nn.Linear(2 * N, N)),  # wider, not narrower
        nn.Sequential(frozen(nn.Linear(D, N)), nn.Linear(N, R)),  # a head on a frozen base
    ],
)
def test_bottlenecks_that_are_no_adapter(model: nn.Module) -> None:
    assert found(model)[1] == []


def test_modules_hung_on_from_outside() -> None:
    """The adapter replaces a layer's ``forward`` and lives outside the model: only its calls show it."""

    class Outside(nn.Module):
        def __init__(self, base: nn.Linear) -> None:
            super().__init__()
            self.lora_down, self.lora_up = nn.Linear(D, R, bias=False), nn.Linear(R, N, bias=False)
            self.original = base.forward
            base.forward = self.forward  # type: ignore[assignment, method-assign]

        def forward(self, x: Tensor) -> Tensor:
            return self.original(x) + self.lora_up(self.lora_down(x))

    model = frozen(Net())
    kept = [Outside(model.q), Outside(model.v)]  # type: ignore[arg-type]
    markers = Markers()
    markers.install()
    try:
        model(torch.ones(1, D))
        model(torch.ones(1, D))
    finally:
        markers.remove()
    modules, sites, parameters = tables_of(markers)
    assert [(s.path, s.rank) for s in sites] == [("q", R), ("v", R)]
    assert {m.path: m.part for m in modules if m.path.startswith("q")} == {
        "q": "fused", "q.lora_down": "down", "q.lora_up": "up",
    }  # fmt: skip
    assert sum(p.trainable for p in parameters) == 2 * len(kept)
    assert {m.root for m in modules} == {0}


def test_modules_made_at_every_call_share_a_number() -> None:
    class Fresh(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.Softmax(dim=-1)(nn.Softmax(dim=-1)(x)) + nn.Identity()(x)

    markers, model = Markers(), Fresh()
    markers.install()
    try:
        for _ in range(3):
            nn.MSELoss()(model(torch.ones(2)), torch.ones(2))
    finally:
        markers.remove()
    assert [m.path for m in tables_of(markers)[0]] == ["", "Softmax", "Identity", "MSELoss"]


def adapted(config: PeftConfig, **changes: object) -> list[AdapterSite]:
    model = get_peft_model(Net(), config)
    for name, other in changes.items():
        model.add_adapter(name, other)
    if changes:
        model.base_model.set_adapter([*changes] if "third" in changes else ["default", *changes])
    return found(model)[1]


def test_peft_layers_of_every_kind() -> None:
    sites = adapted(LoraConfig(r=R, target_modules=["embed", "conv", "q"], lora_dropout=0.1, lora_alpha=4))
    assert [(s.path.rpartition(".")[2], s.kind, s.rank) for s in sites] == [
        ("embed", "embedding-lora", R), ("conv", "conv-lora", R), ("q", "lora", R),
    ]  # fmt: skip
    assert [(s.in_features, s.out_features) for s in sites] == [(32, D), (D, N), (D, N)]
    assert {s.dropout for s in sites} == {0.1}
    assert {s.scaling for s in sites} == {2.0}


def test_only_active_adapters_count() -> None:
    second, third = LoraConfig(r=3, target_modules=["q"]), LoraConfig(r=5, target_modules=["v"])
    both = adapted(LoraConfig(r=R, target_modules=["q", "v"]), second=second)
    assert [(s.rank, s.active) for s in both] == [(R + 3, True), (R, True)]
    switched = adapted(LoraConfig(r=R, target_modules=["q", "v"]), third=third)
    assert [(s.rank, s.active) for s in switched] == [(R, False), (5, True)]


def test_merged_and_disabled_adapters_are_not_active() -> None:
    model = get_peft_model(Net(), LoraConfig(r=R, target_modules=["q"]))
    model.merge_adapter()
    assert [s.active for s in found(model)[1]] == [False]
    model.unmerge_adapter()
    with model.disable_adapter():
        assert [s.active for s in found(model)[1]] == [False]
    assert [s.active for s in found(model)[1]] == [True]


@pytest.mark.parametrize(
    ("config", "kind", "rank"),
    [
        (LoraConfig(r=R, use_dora=True, target_modules=["q"]), "dora", R),
        (LoHaConfig(r=R, target_modules=["q"]), "loha", R),
        (VeraConfig(r=R, target_modules=["q"]), "vera", R),
        (AdaLoraConfig(init_r=3, total_step=9, tinit=1, tfinal=1, target_modules=["q"]), "adalora", 3),
    ],
)
def test_other_methods_of_peft(config: PeftConfig, kind: str, rank: int) -> None:
    modules, sites, parameters = found(get_peft_model(Net(), config))
    assert [(s.kind, s.rank) for s in sites] == [(kind, rank)]
    assert {p.part for p in parameters if p.trainable} <= {"down", "up", "elementwise"}
    assert [m.part for m in modules if m.path.endswith("q.base_layer")] == ["base"]
