"""What part of a model an op is: by site, head, class, surroundings and by what its module does, one at a time."""

import pytest
from msgspec.structs import replace

from loraprof.analysis.attribution.containers import Behaviour, behaves
from loraprof.analysis.attribution.roles import Context, Roles, _heads, roles_of
from loraprof.analysis.attribution.weights import Weights
from loraprof.model.recording import AdapterSite, ModuleInfo, ParameterInfo
from loraprof.model.trace import Shapes
from loraprof.model.vocabulary import Role

CLASSES = (
    "Block", "Linear", "BertEmbeddings", "LlamaRotaryEmbedding", "Embedding", "LayerNorm", "Dropout", "MeanPool",
    "SelfAttention", "GELU", "AttentionNorm", "Conv2d", "LSTM",
)  # fmt: skip
TABLE = [ModuleInfo(id=i, path=f"m.{cls}", cls=cls) for i, cls in enumerate(CLASSES)]
AT = {cls: i for i, cls in enumerate(CLASSES)}
SITE = AdapterSite(path="a", kind="lora", rank=4, in_features=8, out_features=16, dtype="float32", base_dtype="float32")


@pytest.mark.parametrize(
    ("cls", "op", "role"),
    [
        ("Linear", "aten::add", "base.linear"),
        ("Conv2d", "aten::add", "base.linear"),
        ("LSTM", "aten::mkldnn_rnn_layer", "base.linear"),
        ("BertEmbeddings", "aten::slice", "embedding"),
        ("BertEmbeddings", "aten::mm", "base.linear"),
        ("LlamaRotaryEmbedding", "aten::mm", "position"),
        ("Embedding", "aten::add", "embedding"),
        ("LayerNorm", "aten::mul", "norm"),
        ("Dropout", "aten::mul", "dropout"),
        ("MeanPool", "aten::mul", "pooling"),
        ("SelfAttention", "aten::mul", "attention"),
        ("AttentionNorm", "aten::mul", "norm"),
        ("GELU", "aten::mul", "activation"),
        ("Block", "aten::add", "residual"),
        ("Block", "aten::mm", "base.linear"),
        ("Block", "aten::strange", "other"),
    ],
)
def test_by_class_then_by_op(cls: str, op: str, role: Role) -> None:
    assert Roles(TABLE).of(AT[cls], op) == role


def test_after_the_head_containers_compute_the_loss() -> None:
    late = Context(after_head=True)
    roles = Roles(TABLE, heads=frozenset({AT["Linear"]}))
    assert roles.of(AT["Block"], "aten::mul", None, late) == "loss"
    assert roles.of(AT["LayerNorm"], "aten::mul", None, late) == "norm"
    assert roles.of(AT["Linear"], "aten::mm", None, late) == "head"


@pytest.mark.parametrize("rotary", [True, False])
@pytest.mark.parametrize("before_core", [True, False])
def test_positions_are_turned_before_the_core_where_a_model_has_them(rotary: bool, before_core: bool) -> None:
    context = Context(before_core=before_core)
    seen = Roles(TABLE, rotary=rotary, behaviour={AT["Block"]: Behaviour(attention=True)})
    expected = "position" if rotary and before_core else "attention"
    for cls in ("SelfAttention", "Block"):
        assert seen.of(AT[cls], "aten::neg", None, context) == expected
        assert seen.of(AT[cls], "aten::softmax", None, context) == "attention"


def test_the_op_that_a_module_called_names_what_it_calls() -> None:
    roles = Roles(TABLE)
    assert roles.of(AT["Block"], "aten::strange", None, Context(top="aten::gelu")) == "activation"
    assert roles.of(AT["Block"], "aten::gelu", None, Context(top="aten::strange")) == "activation"
    assert roles.of(AT["Block"], "aten::strange", None, Context(top="aten::matmul")) == "base.linear"


def given(*dims: tuple[int, ...]) -> Shapes:
    return Shapes(dims, ("float",) * len(dims))


def parameter(module: int, *shape: int, part: str | None = None) -> ParameterInfo:
    return ParameterInfo(
        id=0, name="w", module=module, shape=shape, dtype="float32", trainable=True, device="cpu", part=part
    )


def test_a_product_is_judged_by_the_shapes_of_the_op_that_names_it() -> None:
    """The module's own weight is 5 x 7: what multiplies with it is a linear layer, what does not is attention."""
    roles = Roles(TABLE, weights=Weights.of(TABLE, [parameter(AT["Block"], 5, 7)]))
    mine, none = given((3, 7), (7, 5)), given((3, 4), (4, 9))
    assert roles.of(AT["Block"], "aten::mm", mine) == "base.linear"
    assert roles.of(AT["Block"], "aten::mm", none) == "attention"
    assert roles.of(AT["Block"], "aten::mm", none, Context(top="aten::matmul", top_shapes=mine)) == "base.linear"
    assert roles.of(AT["Block"], "aten::mm", mine, Context(top="aten::strange", top_shapes=none)) == "base.linear"


@pytest.mark.parametrize(
    ("part", "kind", "op", "role"),
    [
        ("down", "lora", "aten::add", "adapter.down"),
        ("up", "dora", "aten::mm", "adapter.up"),
        ("wrapper", "lora", "aten::add", "adapter.elementwise"),
        ("wrapper", "lora", "aten::mm", "adapter.down"),  # [3, 8] x [8, 4]: one function multiplies for its layers
        ("wrapper", "conv-lora", "aten::mm", "adapter.down"),
        ("wrapper", "embedding-lora", "aten::mm", "adapter.down"),
        ("wrapper", "dora", "aten::mm", "adapter.elementwise"),
        ("wrapper", "handwritten", "aten::mm", "adapter.down"),
        ("fused", "loha", "aten::mm", "adapter.down"),
        ("base", "lora", "aten::mm", "base.linear"),
        (None, "lora", "aten::mm", "base.linear"),
    ],
)
def test_in_an_adapted_layer(part: str | None, kind: str, op: str, role: Role) -> None:
    table = [ModuleInfo(id=0, path="a", cls="Linear", site=0, part=part)]
    assert Roles(table, [replace(SITE, kind=kind)]).of(0, op, given((3, 8), (8, 4))) == role
    assert Roles(table, []).of(0, op) == "base.linear"  # the site is not known


def test_other_methods_multiply_for_their_first_factor_whatever_the_shapes() -> None:
    table = [ModuleInfo(id=0, path="a", cls="Linear", site=0, part="wrapper")]
    shapes = given((3, 4), (4, 16))
    assert Roles(table, [SITE]).of(0, "aten::mm", shapes) == "adapter.up"
    assert Roles(table, [replace(SITE, kind="loha")]).of(0, "aten::mm", shapes) == "adapter.down"


def test_gradients_of_parameters() -> None:
    roles = Roles([*TABLE, ModuleInfo(id=len(TABLE), path="a", cls="Linear", site=0, part="wrapper")], [SITE])
    site = len(TABLE)
    assert roles.of_parameter(parameter(AT["Block"], 5, part="down")) == "adapter.down"
    assert roles.of_parameter(parameter(AT["Block"], 5, part="up")) == "adapter.up"
    assert roles.of_parameter(parameter(AT["LayerNorm"], 5)) == "norm"
    assert roles.of_parameter(parameter(AT["Block"], 5)) == "activation"  # a scale
    assert roles.of_parameter(parameter(AT["Block"], 5, 7)) == "base.linear"
    assert roles.of_parameter(parameter(AT["Block"], 5, part="base")) == "base.linear"
    assert roles.of_parameter(parameter(site, 5, part="base")) == "base.linear"
    assert roles.of_parameter(parameter(site, 5, part="elementwise")) == "adapter.elementwise"
    assert roles.of_parameter(parameter(AT["Block"], 5, part="elementwise")) == "adapter.elementwise"


def heads(*modules: tuple[str, str, int | None, int | None, str | None]) -> list[int]:
    table = [
        ModuleInfo(id=i, path=path, cls=cls, in_features=k, out_features=n, part=part)
        for i, (path, cls, k, n, part) in enumerate(modules)
    ]
    return _heads(table, [(50, 8)])


def test_heads() -> None:
    assert heads(("lm_head", "Linear", 8, 9, None), ("model.lm_head.x", "Other", None, None, None)) == [0, 1]
    assert heads(
        ("out", "Linear", 8, 50, None), ("out2", "Linear", 50, 8, None), ("h.3.out", "Linear", 8, 50, None)
    ) == [0]
    assert heads(
        ("out", "Other", 8, 50, None), ("out", "Adapted", 8, 50, "base"), ("out", "Linear", 8, 50, "down")
    ) == [1]
    assert heads(("lm_head", "LayerNorm", None, None, None), ("lm_head", "Dropout", None, None, None)) == []
    assert heads(("classifier", "Tanh", None, None, None), ("score", "MeanPool", None, None, None)) == []
    assert heads(("overhead", "Mlp", None, None, None), ("head.embedding", "Embedding", None, None, None)) == [1]


def test_what_a_table_says_of_its_trace() -> None:
    assert roles_of(TABLE, None).rotary
    assert not roles_of(TABLE[:3], None).rotary
    assert roles_of(TABLE, None, [SITE]).sites == [SITE]


@pytest.mark.parametrize("above", [True, False])
def test_behaviour(above: bool) -> None:
    assert behaves(["aten::_flash_attention_forward"], False, False, above, False).attention != above
    assert behaves(["aten::mm"], True, False, above, False).attention != above
    assert not behaves(["aten::mm"], False, False, above, False).attention
    assert behaves(["aten::mul", "aten::_flash_attention_forward"], False, False, above, False).attention != above
    assert behaves(["aten::rsqrt", "aten::mul"], False, True, above, False).norm
    assert not behaves(["aten::rsqrt"], False, False, above, False).norm
    assert not behaves(["aten::mul"], False, True, above, False).norm
