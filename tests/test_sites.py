"""Adapted layers that PEFT declares, in all their forms."""

import pytest
import torch
from peft import AdaLoraConfig, LoHaConfig, LoraConfig, OFTConfig, VeraConfig, get_peft_model
from peft.config import PeftConfig
from torch import Tensor, nn

from loraprof.capture.modules.facts import Tables, tables_of
from loraprof.capture.modules.markers import Markers
from loraprof.model.recording import AdapterSite

D, N, R = 16, 24, 2


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, D)
        self.conv = nn.Conv2d(D, N, 3)
        self.q, self.v = nn.Linear(D, N), nn.Linear(D, N)

    def forward(self, x: Tensor) -> Tensor:
        return self.q(x) + self.v(x)


def found(model: nn.Module) -> Tables:
    markers = Markers()
    markers.adopt([model])
    return tables_of(markers)


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
    assert [m.path for m in tables_of(markers).modules] == ["", "Softmax", "Identity", "MSELoss"]


def adapted(config: PeftConfig, **changes: object) -> list[AdapterSite]:
    model = get_peft_model(Net(), config)
    for name, other in changes.items():
        model.add_adapter(name, other)
    if changes:
        model.base_model.set_adapter([*changes] if "third" in changes else ["default", *changes])
    return found(model).sites


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
    assert [s.active for s in found(model).sites] == [False]
    model.unmerge_adapter()
    with model.disable_adapter():
        assert [s.active for s in found(model).sites] == [False]
    assert [s.active for s in found(model).sites] == [True]


@pytest.mark.parametrize(
    ("config", "kind", "rank"),
    [
        (LoraConfig(r=R, use_dora=True, target_modules=["q"]), "dora", R),
        (LoHaConfig(r=R, target_modules=["q"]), "loha", R),
        (VeraConfig(r=R, target_modules=["q"]), "vera", R),
        (AdaLoraConfig(init_r=3, total_step=9, tinit=1, tfinal=1, target_modules=["q"]), "adalora", 3),
        (OFTConfig(r=0, oft_block_size=8, target_modules=["q"]), "oft", None),  # its r counts blocks
    ],
)
def test_other_methods_of_peft(config: PeftConfig, kind: str, rank: int | None) -> None:
    modules, sites, parameters, *_ = found(get_peft_model(Net(), config))
    assert [(s.kind, s.rank) for s in sites] == [(kind, rank)]
    assert {p.part for p in parameters if p.trainable} <= {"down", "up", "elementwise"}
    assert [m.part for m in modules if m.path.endswith("q.base_layer")] == ["base"]
