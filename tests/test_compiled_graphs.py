"""Calls of compiled graphs: matched by order, given a module and a role."""

from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from builders import trace_of
from test_graph_launches import recording

from loraprof.analysis.attribution.behaviour import behaviour_of
from loraprof.analysis.attribution.compiled_graphs import Graphs, Placed, Scope, _Order, aligned, spelled
from loraprof.analysis.attribution.roles import roles_of
from loraprof.diagnosis.findings.compiled import _cut, compiled_notes
from loraprof.model.compilation import Compilation, CompiledCall, CompiledGraph, FusedOp
from loraprof.model.recording import AdapterOps, AdapterSite, ModuleInfo, ParameterInfo, Recording
from loraprof.model.report import CompiledReport
from loraprof.model.vocabulary import LOSS, ROLE, ROLES

SITE = AdapterSite(path="blocks.0.up", kind="lora", rank=4, in_features=8, out_features=8, dtype="float32",
                   base_dtype="float32")  # fmt: skip


def table(blocks: int = 3) -> list[ModuleInfo]:
    rows: list[tuple[str, str, str | None]] = [("", "Model", None)]
    for i in range(blocks):
        rows += [(f"blocks.{i}", "Block", None), (f"blocks.{i}.up", "Linear", "wrapper")]
        rows += [(f"blocks.{i}.up.lora_A", "Linear", "down"), (f"blocks.{i}.act", "GELU", None)]
    rows += [("lm_head", "Linear", None)]
    return [
        ModuleInfo(id=i, path=path, cls=cls, part=part, site=0 if part else None)
        for i, (path, cls, part) in enumerate(rows)
    ]


UP, DOWN, ACT, HEAD = 2, 3, 4, 13  # of block 0; the head


def made(*calls: CompiledCall, root: int = 1, backward: bool = False) -> Recording:
    graph = CompiledGraph(region="0/1", backward=backward, root=root, calls=list(calls))
    return msgspec.structs.replace(recording(), modules=table(), sites=[SITE], compilation=Compilation(graphs=[graph]))


def placed(recording: Recording, *names: str, inside: int = 1, region: str = "0/1") -> list[Placed | None] | None:
    return Graphs(recording, roles_of(recording.modules, recording)).place(Scope(region, False, inside), names)


def test_spelling() -> None:
    assert spelled("extern_kernels.addmm") == spelled("aten::addmm") == "addmm"
    assert spelled("torch.ops.aten._flash.default") == spelled("aten::_flash") == "_flash"
    assert spelled("torch.ops.mkldnn._linear_pointwise.default") == spelled("mkldnn::_linear_pointwise")
    assert spelled("graph_12_cpp_fused_add_3") == spelled("cpp_fused_add_3") == "cpp_fused_add_3"
    assert spelled("cpp_fused_add_3") != spelled("cpp_fused_add_13")
    assert spelled("torch.ops.sort") == "sort"


def test_calls_are_matched_by_order() -> None:
    kernels = ["cpp_fused_a_0", "extern_kernels.mm", "cpp_fused_a_0", "extern_kernels.mm"]
    seen = ["graph_0_cpp_fused_a_0", "aten::mm", "graph_0_cpp_fused_a_0", "aten::mm"]
    assert aligned(kernels, seen) == [0, 1, 2, 3]
    assert aligned(kernels, ["aten::empty", *seen[:2], "aten::empty", *seen[2:]]) == [None, 0, 1, None, 2, 3]
    assert aligned(kernels, ["aten::mm", "aten::mm"]) == [1, 3]  # fused kernels without ranges of their own
    assert aligned(kernels, [seen[0], seen[2], seen[1], seen[3]]) is None
    assert aligned(kernels, seen[:3]) is None
    assert aligned(kernels, ["aten::add"]) is None
    assert aligned([], []) is None


def test_a_kernel_is_the_adapters_only_where_all_of_it_is() -> None:
    own = CompiledCall("cpp_fused_add_mul_0", [FusedOp(UP, "aten::mul", 5, 1), FusedOp(UP, "aten::add", 6, 1)])
    mixed = CompiledCall("cpp_fused_add_gelu_1", [*own.ops, FusedOp(ACT, "aten::gelu", 7, 1)])
    result = placed(made(own, mixed), "cpp_fused_add_mul_0", "cpp_fused_add_gelu_1")
    assert result == [
        Placed(UP, ROLE["adapter.elementwise"], mixed=False),
        Placed(1, ROLE["activation"], mixed=True),  # the block is the innermost module around both
    ]


def test_products_follow_their_module() -> None:
    call = CompiledCall("extern_kernels.mm", [FusedOp(DOWN, "aten::mm", 5, 1)])
    assert placed(made(call), "aten::mm") == [Placed(DOWN, ROLE["adapter.down"], mixed=False)]


def test_equal_blocks_share_a_graph() -> None:
    call = CompiledCall("extern_kernels.mm", [FusedOp(DOWN, "aten::mm", 5, 1)])
    recording = made(call)
    modules = [placed(recording, "aten::mm", inside=block) for block in (1, 5, 9)]
    assert [row[0].module for row in modules if row and row[0]] == [DOWN, DOWN + 4, DOWN + 8]
    assert [row[0].module for row in (placed(recording, "aten::mm", inside=0),) if row and row[0]] == [DOWN]


def test_what_follows_the_head_is_the_loss() -> None:
    head = CompiledCall("extern_kernels.mm", [FusedOp(HEAD, "aten::mm", 8, 1)])
    loss = CompiledCall("cpp_fused_nll_0", [FusedOp(0, "aten::nll_loss_forward", 9, 3)])
    early = CompiledCall("cpp_fused_mask_1", [FusedOp(0, "aten::add", 2, 1)])
    outside = CompiledCall("cpp_fused_x_2", [FusedOp(-1, "aten::mul", 9, 1)])
    calls = made(early, head, loss, outside, root=0)
    result = placed(calls, "cpp_fused_mask_1", "aten::mm", "cpp_fused_nll_0", "cpp_fused_x_2")
    assert [(p.module, p.role) for p in result or [] if p] == [
        (0, ROLE["residual"]), (HEAD, ROLE["head"]), (LOSS, ROLE["loss"]), (LOSS, ROLE["loss"])
    ]  # fmt: skip


def test_a_module_is_what_its_compiled_ops_make_it() -> None:
    """A block that multiplies activations is attention; a product with a weight is not, whoever issues it."""
    core = CompiledCall("extern_kernels.bmm", [FusedOp(1, "aten::bmm", 5, 1)])
    scale = CompiledCall("cpp_fused_mul_0", [FusedOp(1, "aten::mul", 6, 1)])
    product = CompiledCall("extern_kernels.mm", [FusedOp(1, "aten::mm", 7, 1)])
    weight = ParameterInfo(id=0, name="weight", module=1, shape=(8, 8), dtype="float32", trainable=False, device="cpu")
    recording = msgspec.structs.replace(made(core, scale, product), parameters=[weight])
    roles = roles_of(recording.modules, recording)
    roles.behaviour = behaviour_of(trace_of(), roles, np.zeros(0, np.int32), np.zeros(0, np.int64))
    names = ("aten::bmm", "cpp_fused_mul_0", "aten::mm")
    result = Graphs(recording, roles).place(Scope("0/1", False, 1), names)
    assert [ROLES[p.role] for p in result or [] if p] == ["attention", "attention", "base.linear"]


def test_an_op_comes_before_the_core_of_its_module_and_after_the_head_by_its_number() -> None:
    graphs: Any = Graphs.__new__(Graphs)
    graphs._told, graphs._several = {}, set()
    graphs._roles = SimpleNamespace(of=lambda module, op, shapes, context: (context.after_head, context.before_core))
    order = _Order("0/0", {1: 3}, 5)
    for number, seen in ((-1, (0, 0)), (0, (0, 1)), (2, (0, 1)), (3, (0, 0)), (5, (0, 0)), (6, (1, 0))):
        assert graphs._role(FusedOp(1, "aten::mul", number, 1), order) == seen
        assert graphs._role(FusedOp(-1, "aten::mul", number, 1), order) == ("loss" if seen[0] else "other")
    assert graphs._role(FusedOp(2, "aten::mul", 0, 1), order) == (False, False)


def test_a_product_of_base_and_adapter_in_one_has_no_role_without_shapes() -> None:
    whole = msgspec.structs.replace(table()[UP], part="fused")
    modules = [whole if m.id == UP else m for m in table()]
    calls = [CompiledCall("extern_kernels.mm", [FusedOp(UP, "aten::mm", 5, 1)])]
    calls.append(CompiledCall("cpp_fused_add_0", [FusedOp(UP, "aten::add", 6, 1)]))
    result = placed(msgspec.structs.replace(made(*calls), modules=modules), "aten::mm", "cpp_fused_add_0")
    assert [p.role for p in result or [] if p] == [ROLE["other"], ROLE["adapter.elementwise"]]


def test_an_unknown_region_places_nothing() -> None:
    call = CompiledCall("extern_kernels.mm", [FusedOp(DOWN, "aten::mm", 5, 1)])
    assert placed(made(call), "aten::mm", region="7/0") is None
    assert placed(made(call), "aten::bmm") is None
    assert Graphs(None, roles_of([], None)).place(Scope("", False, -1), ["aten::mm"]) is None


def test_captured_kernels_without_a_match_are_left_alone() -> None:
    call = CompiledCall("triton_poi_fused_gelu_0", [FusedOp(ACT, "aten::gelu", 5, 1)])
    recording = made(call)
    graphs = Graphs(recording, roles_of(recording.modules, recording))
    assert graphs.place_kernels(Scope("0/1", False, 1), ["a", "b"]) == [None, None]
    found = graphs.place_kernels(Scope("0/1", False, 1), ["memset", "triton_poi_fused_gelu_0"])
    assert [p and p.role for p in found] == [None, ROLE["activation"]]


def roles_in(*calls: CompiledCall, **changes: Any) -> list[tuple[int | str, str, bool]]:
    recording = msgspec.structs.replace(made(*calls, root=0), **changes)
    found = placed(recording, *(call.kernel for call in calls), inside=0)
    return [(p.module, ROLES[p.role], p.mixed) for p in found or [] if p]


def test_most_ops_of_a_known_role_decide() -> None:
    strange, gelu, norm = (FusedOp(1, f"aten::{name}", 5, n) for name, n in (("strange", 9), ("gelu", 2), ("rsqrt", 3)))
    own = FusedOp(UP, "aten::add", 5, 20)
    assert roles_in(CompiledCall("cpp_fused_0", [strange, gelu])) == [(1, "activation", False)]
    assert roles_in(CompiledCall("cpp_fused_0", [strange, gelu, norm, own])) == [(1, "norm", True)]
    assert roles_in(CompiledCall("cpp_fused_0", [strange])) == [(1, "other", False)]
    assert roles_in(CompiledCall("cpp_fused_0", [])) == [(-1, "other", False)]
    even = [FusedOp(1, "aten::gelu", 5, 3), norm]
    first = min(("activation", "norm"), key=lambda role: ROLES.index(role))
    assert (
        roles_in(CompiledCall("cpp_fused_0", even))
        == roles_in(CompiledCall("cpp_fused_0", even[::-1]))
        == [(1, first, False)]
    )


def test_the_module_around_all() -> None:
    def around(*modules: int) -> int | str:
        return roles_in(CompiledCall("cpp_fused_0", [FusedOp(m, "aten::gelu", 5, 1) for m in modules]))[0][0]

    assert [around(ACT), around(ACT, ACT), around(ACT, 1), around(ACT, DOWN)] == [ACT, ACT, 1, 1]
    assert around(ACT, ACT + 4) == -1  # "blocks" is no module of its own
    assert around(ACT, -1) == ACT


def test_the_loss_begins_after_the_last_op_of_the_head() -> None:
    head = [CompiledCall(f"extern_kernels.mm{i}", [FusedOp(HEAD, "aten::mm", n, 1)]) for i, n in enumerate((4, 8, -1))]
    mul = [CompiledCall(f"cpp_fused_{n}", [FusedOp(0, "aten::mul", n, 1)]) for n in (3, 6, 8, 9)]
    assert [role for _, role, _ in roles_in(*head, *mul)][3:] == ["activation"] * 3 + ["loss"]
    assert [role for _, role, _ in roles_in(*mul)] == ["activation"] * 4


def test_modules_whose_names_begin_alike_stay() -> None:
    call = CompiledCall("extern_kernels.mm", [FusedOp(4 * 10 + DOWN, "aten::mm", 5, 1)])  # of block 10
    graph = CompiledGraph(region="0/1", backward=False, root=5, calls=[call])  # made for block 1
    recording = msgspec.structs.replace(made(), modules=table(12), compilation=Compilation(graphs=[graph]))
    assert placed(recording, "aten::mm", inside=9) == [Placed(43, ROLE["adapter.down"], mixed=False)]
    other = msgspec.structs.replace(recording.modules[9], cls="Other")
    swapped = [other if m.id == 9 else m for m in recording.modules]
    inner = CompiledCall("extern_kernels.mm", [FusedOp(4 + DOWN, "aten::mm", 5, 1)])
    graph = msgspec.structs.replace(graph, calls=[inner])
    moved = msgspec.structs.replace(recording, compilation=Compilation(graphs=[graph]))
    assert placed(moved, "aten::mm", inside=9) == [Placed(8 + DOWN, ROLE["adapter.down"], mixed=False)]
    unlike = msgspec.structs.replace(moved, modules=swapped)
    assert placed(unlike, "aten::mm", inside=9) == [Placed(4 + DOWN, ROLE["adapter.down"], mixed=False)]


@pytest.mark.parametrize(
    ("kernels", "roles"),
    [
        (["F0", "x", "y", "F1", "z"], ["activation", "adapter.down", "base.linear", "norm", "head"]),
        (["F0", "x", "F1"], ["activation", None, "norm"]),  # two operators of two owners made one kernel
        (["F0", "x", "y", "w", "F1"], ["activation", None, None, None, "norm"]),
        (["F0", "x", "y", "F1", "z", "w"], ["activation", "adapter.down", "base.linear", "norm", "head", "head"]),
        (["F0", "x", "y", "F1"], ["activation", "adapter.down", "base.linear", "norm"]),
        (["F0", "x", "y"], [None, None, None]),
        (["F1", "F0"], [None, None]),
    ],
)
def test_captured_kernels_between_fused_ones(kernels: list[str], roles: list[str | None]) -> None:
    names = {"F0": "triton_poi_fused_gelu_0", "F1": "triton_poi_fused_rsqrt_1"}
    calls = [
        CompiledCall(names["F0"], [FusedOp(ACT, "aten::gelu", 5, 1)]),
        CompiledCall("extern_kernels.mm", [FusedOp(DOWN, "aten::mm", 5, 1)]),
        CompiledCall("extern_kernels.addmm", [FusedOp(1, "aten::mm", 5, 1)]),
        CompiledCall(names["F1"], [FusedOp(1, "aten::rsqrt", 5, 1)]),
        CompiledCall("extern_kernels.mm", [FusedOp(HEAD, "aten::mm", 9, 1)]),
    ]
    recording = made(*calls)
    graphs = Graphs(recording, roles_of(recording.modules, recording))
    found = graphs.place_kernels(Scope("0/1", False, 1), [names.get(k, k) for k in kernels])
    assert [p and ROLES[p.role] for p in found] == roles


def test_captured_kernels_before_the_first_fused_one() -> None:
    calls = [
        CompiledCall("extern_kernels.mm", [FusedOp(DOWN, "aten::mm", 5, 1)]),
        CompiledCall("triton_poi_fused_gelu_0", [FusedOp(ACT, "aten::gelu", 5, 1)]),
        CompiledCall("extern_kernels.addmm", [FusedOp(HEAD, "aten::mm", 9, 1)]),
    ]
    recording = made(*calls)
    graphs = Graphs(recording, roles_of(recording.modules, recording))
    for before in (["x"], ["x", "y"]):
        found = graphs.place_kernels(Scope("0/1", False, 1), [*before, "triton_poi_fused_gelu_0", "z"])
        assert [p and ROLES[p.role] for p in found] == ["adapter.down"] * len(before) + ["activation", "head"]


@pytest.mark.parametrize(
    ("numbers", "known"), [((5, 6), True), ((9, 5, 7, 6), True), ((5, 6, 7), False), ((5, -1), False)]
)
def test_ops_that_the_counted_step_told_apart(numbers: tuple[int, ...], known: bool) -> None:
    """A layer issues a product of its base, then one of its adapter: forward graphs have them in the same order."""
    told = AdapterOps(UP, "aten::mm", ((0, "base.linear"), (0, "adapter.down")))  # type: ignore[arg-type]
    calls = [CompiledCall(f"extern_kernels.mm{n}", [FusedOp(UP, "aten::mm", n, 1)]) for n in numbers]
    found = {n: role for n, (_, role, _) in zip(numbers, roles_in(*calls, adapter_ops=[told]), strict=True)}
    order = ["base.linear", "adapter.down"] * 2 if known else ["other"] * 4
    assert [found[n] for n in sorted(numbers)] == order[: len(numbers)]


def part(**changes: int) -> CompiledReport:
    """A compiled part of 1000 ns."""
    ns: dict[str, int] = {"busy_ns": 1000, "known_ns": 500, "host_ns": 0, "other_ns": 0, "mixed_ns": 0, **changes}
    return CompiledReport(regions=1, share=0.5, kernels=3, **ns)


UNKNOWN = "compiled regions carry no modules: roles inside them come from kernel names and shapes alone"


@pytest.mark.parametrize(
    ("made", "found", "notes"),
    [
        (None, None, []),
        (None, Compilation(notes=["cut"]), ["cut"]),
        (part(busy_ns=0, known_ns=0), None, []),
        (part(), None, []),
        (part(known_ns=0), None, [UNKNOWN]),
        (part(known_ns=0), Compilation(notes=["cut"]), ["cut", UNKNOWN]),
        (part(known_ns=0), Compilation(graphs=[CompiledGraph(region="0", backward=False, root=0, calls=[])]), []),
        (part(other_ns=300), None, ["30.0 % of the time in compiled regions has no role"]),
        (
            part(other_ns=300, host_ns=200),
            None,
            ["30.0 % of the time in compiled regions has no role, 20.0 % is their own Python between kernels"],
        ),
        (
            part(mixed_ns=40),
            None,
            [
                "adapter ops are fused into kernels of other roles (40 ns): "
                "their part of that time is not counted as the adapter's"
            ],
        ),
    ],
)
def test_what_the_attribution_of_compiled_code_leaves_open(
    made: CompiledReport | None, found: Compilation | None, notes: list[str]
) -> None:
    assert compiled_notes(made, found) == notes


def test_a_cut_is_told_by_its_place_or_by_its_reason() -> None:
    assert _cut("in train.py:3") == "a graph is cut"
    assert _cut("a print") == "a graph is cut because"
