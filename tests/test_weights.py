"""Which weight a product used: shapes of inputs against shapes of parameters."""

import numpy as np
import pytest
from builders import op, trace_of
from msgspec.structs import replace

from loraprof.analysis.attribution.behaviour import behaviour_of
from loraprof.analysis.attribution.containers import Behaviour
from loraprof.analysis.attribution.roles import Roles
from loraprof.analysis.attribution.weights import Weights, free_product, product_role, tensors_of
from loraprof.model.recording import AdapterSite, ModuleInfo, ParameterInfo
from loraprof.model.trace import NONE, Shapes
from loraprof.model.vocabulary import Role

TABLE = [
    ModuleInfo(id=0, path="", cls="Model"),
    ModuleInfo(id=1, path="block", cls="Block"),
    ModuleInfo(id=2, path="block.up", cls="Fused", site=0, part="fused"),
    ModuleInfo(id=3, path="block.experts", cls="Experts"),
    ModuleInfo(id=4, path="head", cls="Linear"),
]
SITE = AdapterSite(
    path="block.up", kind="lora", rank=4, in_features=8, out_features=16, dtype="float32", base_dtype="float32"
)


def parameter(id: int, module: int, *shape: int, part: str | None = None) -> ParameterInfo:
    return ParameterInfo(
        id=id, name="w", module=module, shape=shape, dtype="float32", trainable=True, device="cpu", part=part
    )


PARAMETERS = [
    parameter(0, 2, 16, 8, part="base"),
    parameter(1, 2, 4, 8, part="down"),
    parameter(2, 2, 16, 4, part="up"),
    parameter(3, 2, 16, part="base"),  # a bias
    parameter(4, 3, 6, 24, 12),  # six experts
    parameter(5, 4, 50, 8),
]
WEIGHTS = Weights.of(TABLE, PARAMETERS)


def given(*dims: tuple[object, ...]) -> Shapes:
    return Shapes(dims, ("float",) * len(dims))


def test_what_a_module_and_all_below_it_own() -> None:
    assert WEIGHTS.own[2] == [((16, 8), "base"), ((4, 8), "down"), ((16, 4), "up"), ((16,), "base")]
    assert WEIGHTS.below[2] == {(16, 8): 2, (4, 8): 2, (16, 4): 2}  # no vectors
    assert WEIGHTS.below[3] == {(6, 24, 12): 3, (24, 12): 3}  # all experts, and one of them
    assert WEIGHTS.below[1] == WEIGHTS.below[2] | WEIGHTS.below[3]
    assert WEIGHTS.below[0] == WEIGHTS.below[1] | {(50, 8): 4}


@pytest.mark.parametrize(
    ("op", "dims", "role"),
    [
        ("aten::mm", ((32, 8), (8, 4)), "adapter.down"),
        ("aten::mm", ((32, 4), (4, 16)), "adapter.up"),
        ("aten::mm", ((32, 8), (8, 16)), "base.linear"),
        ("aten::linear", ((2, 16, 8), (16, 8), (16,)), "base.linear"),
        ("aten::addmm", ((16,), (32, 8), (8, 4)), "adapter.down"),
        ("aten::mm", ((32, 12), (12, 4)), "adapter.down"),  # by the rank: no weight has 12 columns
        ("aten::mm", ((32, 4), (4, 12)), "adapter.up"),
        ("aten::mm", ((4, 32), (32, 12)), "adapter.down"),
        ("aten::mm", ((12, 32), (32, 4)), "adapter.down"),
        ("aten::bmm", ((2, 32, 12), (2, 12, 4)), "adapter.down"),
        ("aten::mm", ((32, 12), (12, 12)), "base.linear"),
        ("aten::mm", ((32, 8),), "other"),
        ("aten::mul", ((4, 8), (32, 8)), "adapter.down"),
        ("aten::mul", ((32, 8), (16, 8)), "base.linear"),
        ("aten::mul", ((32, 16), ()), "adapter.elementwise"),
    ],
)
def test_base_or_adapter_within_one_module(op: str, dims: tuple[tuple[object, ...], ...], role: Role) -> None:
    assert WEIGHTS.of_site(TABLE[2], SITE, op, given(*dims)) == role


def test_a_weight_is_known_from_either_side_where_no_rank_is() -> None:
    for dims, role in (((8, 4), "adapter.down"), ((4, 16), "adapter.up"), ((4, 4), "base.linear")):
        assert WEIGHTS.of_site(TABLE[2], replace(SITE, rank=None), "aten::mm", given((32, dims[0]), dims)) == role


def test_products_of_weights_and_of_activations() -> None:
    plain, whole = Behaviour(), Behaviour(whole=True)
    heads = frozenset({4})

    def role(op: str, *dims: tuple[object, ...], module: int = 0, behaviour: Behaviour = plain) -> Role:
        return product_role(op, given(*dims), WEIGHTS, module, behaviour, heads)

    assert role("aten::mm", (32, 8), (8, 50)) == "head"
    assert role("aten::mm", (32, 8), (8, 50), module=1) == "attention"  # no weight below the block
    assert role("aten::mm", (32, 8), (8, 16)) == "base.linear"
    assert role("aten::bmm", (1, 32, 8), (1, 8, 16)) == "base.linear"  # a view added a dimension
    assert role("aten::bmm", (3, 32, 12), (3, 12, 24)) == "attention"
    assert role("aten::bmm", (6, 32, 12), (6, 12, 24)) == "base.linear"  # all experts
    assert role("aten::mm", (32, 32), (32, 8), behaviour=whole) == "head"
    assert role("aten::linear", (32, 7), (7, 7)) == "base.linear"
    assert product_role("aten::bmm", None, WEIGHTS, 0, plain, heads) == "attention"
    assert product_role("aten::mm", None, WEIGHTS, 0, plain, heads) == "base.linear"
    assert product_role("aten::mm", given((2, 2), (2, 2)), Weights(), 0, plain, heads) == "base.linear"


def test_products_that_are_free_of_weights() -> None:
    assert free_product("aten::mm", given((32, 32), (32, 9)), WEIGHTS, 0)
    assert not free_product("aten::mm", given((32, 8), (8, 16)), WEIGHTS, 0)
    assert free_product("aten::bmm", None, WEIGHTS, 0)
    assert not free_product("aten::mm", None, WEIGHTS, 0)
    assert not free_product("aten::linear", given((32, 7), (7, 7)), WEIGHTS, 0)
    assert not free_product("aten::mul", given((32, 7), (7, 7)), WEIGHTS, 0)
    assert not free_product("aten::mm", given((32, 7), (7, 7)), Weights(), 0)


def test_what_modules_do_themselves() -> None:
    """Attention is what multiplies activations or calls a core; what is above it makes masks, and a norm has vectors
    alone and no children."""
    free, scores = given((3, 32, 12), (3, 12, 24)), "aten::bmm"
    modules: list[tuple[str, str, int | None, tuple[int, ...] | None, str | None]] = [  # path, class, site, weight, op
        ("", "Model", None, None, "aten::add"),
        ("layers", "ModuleList", None, None, None),
        ("layers.0", "Block", None, None, scores),  # above attention
        ("layers.0.attn", "SelfAttention", None, None, "aten::add"),
        ("layers.0.norm", "Scale", None, (8,), "aten::rsqrt"),
        ("layers.0.core", "Mixer", None, None, "aten::scaled_dot_product_attention"),
        ("layers.0.scores", "Mixer", None, None, scores),
        ("layers.0.mlp", "Mlp", None, (8, 8), "aten::rsqrt"),
        ("other", "Group", None, (8,), "aten::rsqrt"),
        ("other.child", "Scale", None, (8,), "aten::add"),
        ("adapted", "Adapted", None, None, "aten::mm"),
        ("adapted.q", "LoraAttention", 0, None, "aten::add"),
        ("outer.gone.attn", "Attention", None, None, None),  # its parent is not in the table
        ("outer", "Outer", None, None, None),
        ("fast", "Mixer", None, None, None),
        ("matrix", "Mixer", None, (8, 8), "aten::rsqrt"),
    ]
    table = [ModuleInfo(id=i, path=path, cls=cls, site=site) for i, (path, cls, site, *_) in enumerate(modules)]
    weights = [parameter(i, i, *shape) for i, (_, _, _, shape, _) in enumerate(modules) if shape]
    weights.append(parameter(99, 15, 8))  # beside a matrix
    issued = [(i, name) for i, (*_, name) in enumerate(modules) if name]
    trace = trace_of([op(name, 10 * i, 10 * i + 5) for i, name in issued])
    shapes = np.array([0 if name == scores else NONE for _, name in issued])
    trace = replace(trace, host=replace(trace.host, shapes=shapes), shapes=(free,))
    roles = Roles(table, weights=Weights.of(table, weights), compiled=frozenset({(14, scores)}))
    module = np.array([i for i, _ in issued], np.int32)
    found = behaviour_of(trace, roles, module, np.arange(len(issued)))
    assert {modules[i][0] for i, seen in found.items() if seen.attention} == {
        "layers.0.core",
        "layers.0.scores",
        "fast",
    }
    assert {modules[i][0] for i, seen in found.items() if seen.norm} == {"layers.0.norm"}
    assert {modules[i][0] for i, seen in found.items() if seen.above_attention} == {"", "layers", "layers.0", "outer"}
    assert {modules[i][0] for i, seen in found.items() if seen.whole} == {"", "layers", "outer"}


def test_tensors_of_two_dimensions_count_and_those_of_a_list() -> None:
    assert tensors_of(given((2, 3), (4,), (), (5, 6, 7))) == [(2, 3), (5, 6, 7)]
    assert tensors_of(given(((2, 3), (4, 5), (6,)))) == [(2, 3), (4, 5)]
    assert tensors_of(None) == []
