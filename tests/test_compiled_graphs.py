"""Calls of compiled graphs: matched by order, given a module and a role."""

import msgspec
import numpy as np
import pytest
from builders import trace_of
from test_graph_launches import recording

from loraprof.analysis.attribution.behaviour import behaviour_of
from loraprof.analysis.attribution.compiled_graphs import Graphs, Placed, Scope, aligned, spelled
from loraprof.analysis.attribution.roles import roles_of
from loraprof.diagnosis.findings.compiled import _cut, compiled_notes
from loraprof.model.compilation import Compilation, CompiledCall, CompiledGraph, FusedOp
from loraprof.model.recording import AdapterSite, ModuleInfo, ParameterInfo, Recording
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
