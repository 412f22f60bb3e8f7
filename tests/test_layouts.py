"""Adapters are what the counted step does: every layout people write is found, and nothing that only looks like one."""

from collections.abc import Callable

import layouts
import layouts_models
import pytest
import torch
import torch.distributed as dist
from layouts import LAYERS, D, N, R, hooked, stack, trained
from layouts_models import NONE
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

from loraprof.capture.modules.facts import Tables, micro_batches_of
from loraprof.capture.modules.markers import Markers


def pairs(found: Tables) -> list[tuple[str, int | None]]:
    return [(s.path, s.rank) for s in found.sites]


def parts(found: Tables) -> dict[str, str | None]:
    return {m.path: m.part for m in found.modules if m.part}


def roles(found: Tables, path: str) -> dict[str, list[str | None]]:
    """Of the ops that the module issues itself."""
    number = next(m.id for m in found.modules if m.path == path)
    ops = [o for o in found.adapter_ops if o.module == number]
    return {o.op.removeprefix("aten::"): [label and label[1] for label in o.labels] for o in ops}


@pytest.mark.parametrize("make", [*LAYERS, hooked])
def test_layouts_of_a_linear(make: Callable[[int, int], nn.Module]) -> None:
    found = trained(stack(make))
    held = ".linear" if make is layouts.Reversed else ""  # its module holds another frozen layer
    assert pairs(found) == [(f"{i}{held}", 2 * R if make is layouts.Grouped else R) for i in (0, 2)]
    assert [(s.in_features, s.out_features) for s in found.sites] == [(D, N), (N, D)]
    assert {(s.kind, s.how, s.active, s.dtype) for s in found.sites} == {("handwritten", "observed", True, "float32")}
    trainable = [p for p in found.parameters if p.trainable]
    assert all(p.part in ("down", "up", "elementwise") for p in trainable)
    assert {p.part for p in trainable} >= {"down", "up"}
    assert all(p.part in ("base", None) for p in found.parameters if not p.trainable)
    assert {m.site for m in found.modules if m.path.startswith("2")} - {None} == {1}
    assert found.notes == []


def test_what_else_is_observed() -> None:
    wrapped = trained(stack(layouts.Wrapper))
    assert {(s.scaling, s.dropout) for s in wrapped.sites} == {(2.0, 0.2)}
    assert parts(wrapped) == {
        f"{i}{name}": part
        for i in (0, 2)
        for name, part in (("", "wrapper"), (".org", "base"), (".dropout", "elementwise"), (".pair.down", "down"),
                           (".pair.up", "up"))
    }  # fmt: skip
    assert {s.scaling for s in trained(stack(layouts.OwnWeight)).sites} == {0.5}
    assert {s.scaling for s in trained(stack(layouts.InFunction)).sites} == {2.0}
    assert {s.scaling for s in trained(stack(layouts.Hadamard)).sites} == {None}
    assert {s.base_dtype for s in trained(stack(layouts.Transposed)).sites} == {"int8"}


def test_ops_of_a_module_that_is_base_and_adapter_in_one() -> None:
    down, up, rest = "adapter.down", "adapter.up", "adapter.elementwise"
    own = roles(trained(stack(layouts.OwnWeight)), "0")
    assert own == {"addmm": ["base.linear"], "mm": [down, up], "mul": [rest], "add_": [rest]}
    function = roles(trained(stack(layouts.InFunction)), "0")
    assert function == {"mm": ["base.linear", down], "addmm_": [up]}
    packed = roles(trained(stack(layouts.Transposed)), "0")
    assert packed == {"_to_copy": ["dequant"], "mul": ["dequant"], "mm": ["base.linear"], "add": [rest]}
    inline = roles(trained(layouts_models.Inline()), "")
    assert inline["mm"] == ["base.linear", down, up, None, None, None, None]  # k, the scores, their sum, the output
    assert inline["bmm"] == ["base.linear", down, up]
    assert inline["add"] == [rest, rest, None]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (layouts_models.Siblings, [("qkv", R), ("out", R)]),
        (layouts_models.Processed, [("q", R), ("k", R), ("v", R)]),
        (layouts_models.Inline, [("wq", R), ("wv", R)]),
        (layouts_models.Experts, [("up", R), ("down", R)]),
        (layouts_models.Listed, [("experts.0", R), ("experts.1", R), ("experts.2", R)]),
    ],
)
def test_pairs_that_lie_elsewhere(make: Callable[[], nn.Module], expected: list[tuple[str, int]]) -> None:
    found = trained(make())
    assert pairs(found) == expected
    assert all(p.part in ("down", "up") for p in found.parameters if p.trainable)


def test_convolutions_and_tables() -> None:
    (conv,) = trained(layouts_models.Convolution(), torch.randn(2, 8, 9, 9)).sites
    assert (conv.rank, conv.in_features, conv.out_features, conv.kernel) == (R, 8, 16, (3, 3))
    (table,) = trained(layouts_models.Table(), torch.randint(0, 64, (3, 5))).sites
    assert (table.rank, table.in_features, table.out_features) == (R, 64, D)


def test_tensors_that_no_module_holds_and_an_input_that_wants_a_gradient() -> None:
    found = trained(stack(layouts.Bare), torch.randn(5, D, requires_grad=True))
    assert [(s.path, s.in_features, s.out_features) for s in found.sites] == [("0", D, N), ("2", N, D)]
    assert pairs(trained(stack(layouts.Wrapper), torch.randn(5, D, requires_grad=True))) == [("0", R), ("2", R)]


def test_a_change_made_of_a_unit_matrix() -> None:
    found = trained(stack(layouts.ByUnits), torch.randn(5, D, requires_grad=True))
    assert pairs(found) == [("0", R), ("2", R)]
    assert [p.part for p in found.parameters if p.trainable] == ["elementwise", "down", "up"] * 2
    assert {parts(found)[f"0.pair.{side}"] for side in ("down", "up")} == {"down", "up"}
    assert found.dense_ops is not None
    assert {o.op for o in found.dense_ops} >= {"aten::add", "aten::linalg_vector_norm"}


def test_a_module_that_takes_the_place_of_a_forward() -> None:
    model = nn.Sequential(layouts.frozen(D, N), nn.ReLU(), layouts.frozen(N, D))
    kept = [layouts.Replaced(model[i]) for i in (0, 2)]  # type: ignore[arg-type]
    found = trained(model)
    assert pairs(found) == [("0", R), ("2", R)]
    assert parts(found)["0.pair.down"] == "down"
    assert parts(found)["0"] == "fused"
    assert sum(p.trainable for p in found.parameters) == 2 * len(kept)
    assert {m.root for m in found.modules} == {0}


@pytest.mark.parametrize("make", NONE)
def test_what_is_no_adapter(make: Callable[[], nn.Module]) -> None:
    found = trained(make())
    assert found.sites == []
    assert not [m for m in found.modules if m.part]
    assert [("trained too (first: org)" in n) for n in found.notes] == [True] * (make is layouts_models.Unfrozen)


def test_trained_gains_make_no_adapter() -> None:
    assert trained(layouts_models.Tuned()).sites == []


def test_of_two_bases_the_last_is_read_and_said() -> None:
    found = trained(layouts_models.TwoBases())
    assert pairs(found) == [("second", R)]
    assert found.notes == [
        "adapters: the adapter was added to the products of 2 frozen weights, read as that of the last, second"
    ]


def test_micro_batches_and_calls_without_gradient_add_no_sites() -> None:
    model, x = stack(layouts.Wrapper), torch.randn(3, D)
    markers = Markers()

    def run() -> None:
        with torch.no_grad():
            model(x)
        for _ in range(3):
            model(x).sum().backward()

    assert pairs(layouts.counted(run, markers)) == [("0", R), ("2", R)]
    assert micro_batches_of(markers) == 3


def test_a_cell_whose_first_state_is_zeros() -> None:
    """Of what it makes of zeros nothing can be told: a later call says what its ops are."""

    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base, self.pair = layouts.frozen(D, D), layouts.Pair(D, D)

        def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
            return torch.tanh(self.base(h) + self.pair(h)) + x

    cell = Cell()

    def run() -> None:
        h = torch.zeros(6, D)
        for x in torch.randn(3, 6, D):
            h = cell(x, h)
        h.sum().backward()

    found = layouts.counted(run)
    assert pairs(found) == [("", R)]
    added = next(o for o in found.adapter_ops if o.op == "aten::add")
    assert added.labels == [(0, "adapter.elementwise"), None]


def test_an_op_that_cannot_be_followed_ends_the_search_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("no storage")

    monkeypatch.setattr(Markers, "frame", broken)
    model = stack(layouts.Wrapper)
    with pytest.raises(AssertionError, match="no storage"):  # the helper's own; the model ran
        trained(model)
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.filterwarnings("ignore:FSDP is switching")
def test_parts_of_a_flat_parameter() -> None:
    """FSDP's first version keeps frozen and trained weights in one tensor."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = FSDP(stack(layouts.OwnWeight), use_orig_params=True, device_id=torch.device("cpu"))
        found = trained(model)
    finally:
        dist.destroy_process_group()
    assert [(s.rank, s.in_features, s.out_features) for s in found.sites] == [(R, D, N), (R, N, D)]
    assert [p.part for p in found.parameters if p.trainable] == ["down", "up"] * 2
