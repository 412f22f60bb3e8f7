"""What ran in which network: shares, tokens and predictions of the trained one, sampling as a phase of its own."""

from typing import Any

import pytest
import torch
from layouts import D, Wrapper, counted, stack
from msgspec.structs import replace
from recordings import recording
from torch import Tensor, nn

from loraprof.analysis.attribution.networks import SAMPLED, _runs, networks_of
from loraprof.capture.device.training_cost import frozen_parameters
from loraprof.capture.modules.facts import missing_gradients, tables_of, tokens_of
from loraprof.capture.modules.markers import COUNTED, Markers
from loraprof.capture.passes.counting import Counting
from loraprof.model.recording import AdapterSite, ModuleInfo, ParameterInfo


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.body = nn.Embedding(50, D).requires_grad_(False), stack(Wrapper)
        self.unused = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Linear(8, 8)).requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.body(self.table(ids))
        return out


def seen(*calls: tuple[nn.Module, bool]) -> Markers:
    """The markers of a step that calls these models, with or without gradient."""
    markers = Markers()
    markers.install()
    markers.step = COUNTED
    counting = Counting(markers.where, markers.follow())
    counting.open()
    try:
        for model, gradient in calls:
            with torch.set_grad_enabled(gradient):
                model(torch.randint(50, (2, 6)))
    finally:
        counting.close()
        markers.followed()
        markers.remove()
    return markers


def test_tokens_are_those_of_the_trained_network_s_passes_with_gradient() -> None:
    model, reference = Tokens(), Tokens().requires_grad_(False)
    assert tokens_of(seen((reference, False), (model, True))) == 12
    assert tokens_of(seen((model, False), (model, True))) == 12  # its own reference, adapters off
    assert tokens_of(seen((model, True), (model, True))) == 24
    assert tokens_of(seen((reference, False))) == 12  # nothing trains


def test_full_fine_tuning_trains_no_other_network_and_nothing_unused() -> None:
    model, reference = Tokens(), Tokens().requires_grad_(False)
    markers = seen((reference, False), (model, True))
    own = {id(p) for name, p in model.named_parameters() if not p.requires_grad and "unused" not in name}
    assert {id(f.tensor) for f in frozen_parameters(markers)} == own
    assert markers.trained() == [model]


class Scaled(torch.autograd.Function):
    """Makes a node wherever it is called, as a library's fused kernels do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2


class Fused(Tokens):
    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = Scaled.apply(super().forward(ids))
        return out


@pytest.mark.parametrize("make", [Tokens, Fused])
def test_a_teacher_that_nobody_froze_is_not_trained(make: type[Tokens]) -> None:
    model, teacher, idle = make(), make(), make()
    markers = seen((teacher, False), (model, True), (idle, False), (idle, True))
    assert markers.trained() == [model, idle]
    tables = tables_of(markers)
    trained = {tables.modules[p.module].root for p in tables.parameters if p.trainable}
    assert [markers.roots[i] for i in sorted(trained)] == [model, idle]
    assert {markers.root_of()[m] for m, i in markers.ids.items() if tables.modules[i].site is not None} == {1, 2}
    missing = missing_gradients(markers)  # nothing ran backward; the first root's names have no prefix
    assert [name.startswith(make.__name__) for name in missing] == [True] * 8


@pytest.mark.parametrize(
    ("calls", "runs"),
    [
        ([True] * SAMPLED, [slice(0, SAMPLED)]),
        ([True] * (SAMPLED - 1), []),
        ([False, *[True] * 5, False, True], [slice(1, 6)]),
        ([True, False] * 4, []),
    ],
)
def test_sampling_is_several_silent_calls_in_a_row(calls: list[bool], runs: list[slice]) -> None:
    assert _runs(calls) == runs


def test_a_step_counted_without_adapters_has_no_sites() -> None:
    model = Tokens().requires_grad_(False)
    assert counted(lambda: model(torch.randint(50, (2, 6)))).sites == []


def test_networks_of_one_name_are_numbered() -> None:
    """A root that owns no parameter is none; an active layer whose A and B no module holds trains its network."""
    modules = [ModuleInfo(id=i, path=path, cls="Net", root=i) for i, path in enumerate(("a", "", "", "", "b", "b.c"))]
    modules[5] = replace(modules[5], root=4, site=0)
    weights = [
        ParameterInfo(id=i, name="w", module=i, shape=(2,), dtype="float32", trainable=i == 1, device="cpu")
        for i in (1, 2, 3, 4)
    ]
    one = AdapterSite(
        path="", kind="lora", rank=2, in_features=2, out_features=2, dtype="float32", base_dtype="float32"
    )
    made = replace(recording(), modules=modules, parameters=weights, sites=[one], adapter_ops=[])
    named = [(n.name, n.root, n.trained, n.adapters) for n in networks_of(made)]
    assert named == [("Net", 1, True, 0), ("Net_2", 2, False, 0), ("Net_3", 3, False, 0), ("b", 4, True, 1)]
    assert networks_of(None) == ()
