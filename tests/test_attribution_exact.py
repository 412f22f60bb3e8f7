"""Attribution, one kind of work at a time: inside backward nodes, ops that the counted step saw, compiled code."""

from typing import Any

import numpy as np
import pytest
from builders import call, marker, note, op, trace_of
from msgspec.structs import replace
from recordings import recording

from loraprof.analysis.attribution import attribute
from loraprof.analysis.attribution.backward import Backward
from loraprof.analysis.attribution.compiled import Compiled
from loraprof.analysis.attribution.compiled_graphs import Scope
from loraprof.analysis.attribution.names import names_of
from loraprof.analysis.attribution.observed import place_observed
from loraprof.analysis.attribution.roles import roles_of
from loraprof.analysis.attribution.sequence import counted
from loraprof.analysis.trace.call_tree import tree_of
from loraprof.model.recording import AdapterOps, AdapterSite, ModuleCall, ModuleInfo, ParameterInfo, Recording
from loraprof.model.trace import NONE, Shapes, Trace
from loraprof.model.vocabulary import PHASE, PHASES, ROLE, ROLES, Role

LAYER = (  # of site 0; of site 1, which is no activation's; of site 2, which is off; of none
    ModuleInfo(id=0, path="q", cls="Lora", site=0, part="wrapper"),
    ModuleInfo(id=1, path="q.base", cls="Linear", site=0, part="base"),
    ModuleInfo(id=2, path="q.down", cls="Linear", site=0, part="down"),
    ModuleInfo(id=3, path="v", cls="Lora", site=1, part="wrapper"),
    ModuleInfo(id=4, path="v.base", cls="Linear", site=1, part="base"),
    ModuleInfo(id=5, path="o", cls="Lora", site=2, part="wrapper"),
    ModuleInfo(id=6, path="mlp", cls="Mlp"),
)


def site(kind: str, active: bool = True) -> AdapterSite:
    one = AdapterSite(path="", kind="", rank=4, in_features=8, out_features=8, dtype="float32", base_dtype="float32")
    return replace(one, kind=kind, active=active)


def backward(trace: Trace, unmarked: bool = False, told: Recording | None = None) -> Backward:
    roles = roles_of([*LAYER], told, [site("lora"), site("dora"), site("lora", active=False)])
    tree, names = tree_of(trace), names_of(trace)
    evaluate = tree.nearest(names.evaluate[trace.host.name])
    return Backward(trace, told, roles, names, tree, evaluate, evaluate != NONE, unmarked)


@pytest.mark.parametrize("base_first", [True, False])
@pytest.mark.parametrize(
    ("module", "now", "said"),
    [
        (1, "base.linear", ("adapter.elementwise", "residual")),  # where A read first, the base's sum is the last
        (2, "adapter.down", ("residual", "adapter.elementwise")),
        (0, "adapter.elementwise", ("residual", "adapter.elementwise")),
        (0, "dropout", ("adapter.elementwise", "dropout")),
        (3, "adapter.elementwise", ("adapter.elementwise", "adapter.elementwise")),  # matrices add up inside
        (4, "base.linear", ("adapter.elementwise", "adapter.elementwise")),
        (5, "adapter.elementwise", ("residual", "residual")),
        (6, "base.linear", ("residual", "residual")),
        (6, "activation", ("activation", "activation")),
        (NONE, "base.linear", ("base.linear", "base.linear")),
    ],
)
def test_a_sum_of_gradients_is_of_the_path_that_read_first(
    base_first: bool, module: int, now: Role, said: tuple[Role, Role]
) -> None:
    """Site 0 is read by its base at 10 and by A at 5 or 20, site 1 by none that the trace holds."""
    forward = [op("aten::mm", 10, 12), op("aten::mm", 20 if base_first else 5, 22 if base_first else 7)]
    node = op("autograd::engine::evaluate_function: MmBackward0", 100, 200)
    inside = [op("aten::add", 110, 120), op("MmBackward0", 130, 180), op("aten::add_", 140, 150)]
    inside += [op("aten::mul", 185, 190), op("aten::add", 250, 260)]
    trace = trace_of([*forward, node, *inside])
    state = backward(trace)
    at = {int(start): row for row, start in enumerate(trace.host.start)}
    modules, roles = np.full(len(trace.host), module, np.int32), np.full(len(trace.host), ROLE[now], np.int8)
    modules[at[10]], roles[at[10]] = 1, ROLE["base.linear"]
    down = at[5 + 15 * base_first]
    modules[down], roles[down] = 2, ROLE["adapter.down"]
    state._sums(np.flatnonzero(state.flag), modules, roles)
    assert ROLES[roles[at[110]]] == said[not base_first]
    assert {ROLES[roles[at[start]]] for start in (100, 130, 140, 185, 250)} == {now}


def test_a_sum_without_a_module_joins_two_branches_where_modules_are_layers_alone() -> None:
    trace = trace_of([op("autograd::engine::evaluate_function: X", 100, 200), op("aten::add", 110, 120)])
    for unmarked, said in ((True, "residual"), (False, "other")):
        state, roles = backward(trace, unmarked), np.full(2, ROLE["other"], np.int8)
        state._sums(np.arange(2), np.full(2, NONE, np.int32), roles)
        assert ROLES[roles[1]] == said


@pytest.mark.parametrize(
    ("node", "name", "module", "dims", "said"),
    [
        ("OwnBackward", "aten::mm", 0, ((32, 4), (4, 8)), "adapter.down"),
        ("OwnBackward", "aten::mm", 0, ((32, 8), (8, 4)), "adapter.up"),
        ("OwnBackward", "aten::mm", 0, ((32, 8), (8, 8)), "base.linear"),
        ("OwnBackward", "aten::mm", 2, ((32, 8), (8, 4)), "norm"),
        ("OwnBackward", "aten::mm", 1, ((32, 8), (8, 4)), "norm"),
        ("OwnBackward", "aten::mm", 6, ((32, 8), (8, 4)), "norm"),
        ("OwnBackward", "aten::mm", NONE, ((32, 8), (8, 4)), "norm"),
        ("OwnBackward", "aten::mul", 0, ((32, 8), (8, 4)), "norm"),
        ("MmBackward0", "aten::mm", 0, ((32, 8), (8, 4)), "norm"),
    ],
)
def test_a_function_of_the_script_s_own_multiplies_with_several_weights(
    node: str, name: str, module: int, dims: tuple[tuple[int, ...], ...], said: Role
) -> None:
    trace = trace_of([op(f"autograd::engine::evaluate_function: {node}", 100, 200), op(name, 110, 120)])
    host = replace(trace.host, shapes=np.array([NONE, 0]))
    state = backward(replace(trace, host=host, shapes=(Shapes(dims, ("float", "float")),)))
    roles = np.full(2, ROLE["norm"], np.int8)
    state._functions(np.arange(2), np.full(2, module, np.int32), roles)
    assert [ROLES[r] for r in roles] == ["norm", said]


def test_a_gradient_is_accumulated_after_the_node_that_made_it() -> None:
    """Of its own thread; known only where modules are layers alone."""
    kinds = [("A", 1), ("AccumulateGrad", 1), ("B", 1), ("AccumulateGrad", 2), ("A", 2), ("AccumulateGrad", 2)]
    rows = [
        op(f"autograd::engine::evaluate_function: {name}", 10 * i, 10 * i + 5, thread)
        for i, (name, thread) in enumerate([("AccumulateGrad", 1), *kinds])
    ]
    trace = trace_of(rows)
    for unmarked in (True, False):
        module, role = np.arange(7, dtype=np.int32), np.arange(7, dtype=np.int8)
        backward(trace, unmarked)._follow(np.arange(7), module, role)
        assert module.tolist() == role.tolist() == ([0, 1, 1, 3, 4, 5, 5] if unmarked else [*range(7)])


def test_a_marker_names_the_parameter_of_a_gradient() -> None:
    weights = [
        ParameterInfo(id=i, name="w", module=m, shape=(8, 8), dtype="float32", trainable=True, device="cpu", part=part)
        for i, (m, part) in enumerate(((6, None), (2, "down")))
    ]
    told = replace(recording(), modules=[*LAYER], parameters=weights, calls=[])
    node = "autograd::engine::evaluate_function: AccumulateGrad"
    rows = [one for i in range(3) for one in (op(node, 10 * i, 10 * i + 8), marker(f"g{i}", 10 * i + 1, 10 * i + 2))]
    trace = trace_of([*rows, marker("g0", 90, 95)])  # the last is outside of any node; of the third no weight is known
    for known, expected in ((told, [6, 2, NONE]), (replace(told, parameters=[]), [NONE] * 3), (None, [NONE] * 3)):
        module, role = np.full(7, NONE, np.int32), np.full(7, ROLE["other"], np.int8)
        backward(trace, told=known)._gradients(module, role)
        assert module.tolist() == [one for m in expected for one in (m, NONE)] + [NONE]
        assert [ROLES[r] for r in role[[0, 2, 4]]] == [
            {6: "base.linear", 2: "adapter.down"}.get(m, "other") for m in expected
        ]


EVALUATE = "autograd::engine::evaluate_function: "


def test_forward_ops_have_a_number_and_no_forward_thread() -> None:
    rows = [
        op("a", 0, 1, sequence=0),
        op("b", 2, 3, sequence=-1, fwd_thread=0),
        op("c", 4, 5, 1, 3, 2),
        note("d", 6, 7),
    ]
    trace = trace_of(rows)
    host = replace(trace.host, sequence=np.array([0, NONE, 3, 4]), fwd_thread=np.array([0, 0, 2, 0]))
    assert counted(host).tolist() == [True, False, False, False]


def numbered() -> tuple[Trace, np.ndarray[tuple[int], np.dtype[np.int32]], np.ndarray[tuple[int], np.dtype[np.int8]]]:
    """Numbers 0 of a module and 1 of none; their nodes, one of a number unknown and one without; then what each holds,
    and an op with a number that is a node's own."""
    rows = [op("aten::mm", 0, 5, sequence=0), op("aten::nll_loss", 10, 15, sequence=1)]
    for i, (name, sequence) in enumerate(
        (("NllLossBackward0", 1), ("MmBackward0", 0), ("X", 9), ("ReluBackward0", -1))
    ):
        start = 100 + 20 * i
        rows += [op(EVALUATE + name, start, start + 15, 1, sequence, 1 if sequence >= 0 else -1)]
        rows += [op("aten::mul", start + 1, start + 9)]
    rows.append(op("MmBackward0", 300, 305, sequence=9))
    trace = trace_of(rows)
    module, role = np.full(len(rows), NONE, np.int32), np.full(len(rows), ROLE["other"], np.int8)
    module[0], role[0], role[1] = 6, ROLE["base.linear"], ROLE["norm"]
    return trace, module, role


def test_what_a_node_does_is_of_its_forward_op() -> None:
    """What ran outside all modules is the loss, where there are modules."""
    trace, module, role = numbered()
    state = backward(trace)
    assert state.fill(module, role) is None
    assert module.tolist() == [6, NONE, NONE, NONE, 6, 6, NONE, NONE, NONE, NONE, NONE]
    says = ["base.linear", "norm", "loss", "loss", "base.linear", "base.linear", *["other"] * 5]
    assert [ROLES[r] for r in role] == says
    assert np.flatnonzero(state.unplaced_loss).tolist() == [2, 3]
    trace, module, role = numbered()
    module[0], role[0] = NONE, ROLE["attention"]
    state = backward(trace)
    state.fill(module, role)
    assert [ROLES[r] for r in role[2:6]] == ["norm", "norm", "attention", "attention"]
    assert not state.unplaced_loss.any()
    trace, module, role = numbered()
    state = backward(trace, unmarked=True)
    state.fill(module, role)
    says[2:10] = ["norm", "norm", "base.linear", "base.linear", "other", "other", "activation", "activation"]
    assert [ROLES[r] for r in role] == says
    assert not state.unplaced_loss.any()


@pytest.mark.parametrize(
    ("calls", "module", "differ"),
    [
        ([(6, 0, 1)], 6, 0),
        ([(2, 0, 1)], 2, 1),
        ([(5, 0, 1)], 5, 1),  # whose role is that of the op
        ([(2, 1, 2)], 6, None),  # the loss ran in no module: nothing to compare
        ([], 6, None),
    ],
)
def test_a_recorded_call_goes_before_the_op_s_module(
    calls: list[tuple[int, int, int]], module: int, differ: int | None
) -> None:
    trace, modules, role = numbered()
    made = [ModuleCall(of, 1, before, after, False, 0) for of, before, after in calls]
    state = backward(trace, told=replace(recording(), modules=[*LAYER], parameters=[], calls=made, sites=[]))
    assert state.fill(modules, role) == differ
    assert (modules[4], ROLES[role[4]]) == (module, "base.linear")
    assert modules[2] == (2 if calls == [(2, 1, 2)] else NONE)


def test_ops_that_the_counted_step_saw_have_their_roles_by_order() -> None:
    """Of each call of module 0 the first product is A's and the second of none, and so on; sums are an adapter's."""
    rows = [
        marker("m0", 0, 300),
        op("aten::linear", 1, 20), op("aten::addmm", 2, 10), op("aten::addmm", 4, 8), call("cudaLaunchKernel", 5, 6),
        op("aten::mul", 30, 35),
        op("aten::linear", 40, 60), op("aten::t", 41, 42), op("aten::addmm", 43, 50),
        op("aten::linear", 70, 90), op("aten::add", 71, 73), op("aten::addmm", 75, 80), op("aten::add", 81, 83),
        op("aten::outer", 100, 120), op("aten::add", 101, 105), op("aten::add", 107, 109),
        marker("m1", 130, 150), op("aten::addmm", 131, 139), marker("m0", 132, 138), op("aten::addmm", 133, 137),
        marker("m0", 400, 500), op("aten::addmm", 410, 420),
        op("aten::addmm", 600, 610),
    ]  # fmt: skip
    trace = trace_of(rows)
    host, tree = trace.host, tree_of(trace)
    opens = names_of(trace).module[host.name]
    around = tree.nearest(opens != NONE)
    module = np.append(opens, NONE)[around].astype(np.int32)
    labels = [
        AdapterOps(0, "aten::addmm", [(0, "adapter.down"), None]),
        AdapterOps(0, "aten::add", [(0, "adapter.elementwise")]),
        AdapterOps(0, "aten::gone", [(0, "adapter.up")]),
        AdapterOps(7, "aten::mul", [(0, "adapter.up")]),
    ]
    down, add = ("adapter.down", {1, 2, 4, 5, 70, 75, 133, 410}), ("adapter.elementwise", {71, 81, 100, 101, 107})
    for ops, expected in ((labels, dict([down, add])), ([], {})):
        role = np.full(len(host), ROLE["other"], np.int8)
        place_observed(trace, ops, module, around, tree, role)
        said = {int(start): ROLES[r] for start, r in zip(host.start, role, strict=True)}
        assert {start: r for start, r in said.items() if r != "other"} == {
            start: name for name, at in expected.items() for start in at
        }


def test_what_compiled_code_says_of_its_rows() -> None:
    """A graph in a region in module 6, cut where module 5 runs as it is; its backward in the node of its number; one
    more backward whose forward the trace does not hold."""
    node = "autograd::engine::evaluate_function: CompiledFunctionBackward"
    rows = [
        marker("m6", 0, 100), note("Torch-Compiled Region: 0/1", 5, 95),
        op("CompiledFunction", 10, 60, sequence=4), note("## Call CompiledFxGraph f0 ##", 12, 58),
        op("aten::mm", 14, 20), call("cudaLaunchKernel", 15, 16), op("triton_poi_fused_gelu_0", 22, 30),
        op("triton_red_fused_native_layer_norm_1", 31, 32), marker("m5", 70, 90), op("aten::mul", 75, 80),
        op("aten::mm", 150, 160, sequence=4),
        op(node, 200, 260, sequence=4, fwd_thread=1), op("CompiledFunctionBackward", 205, 255),
        note("## Call CompiledFxGraph f1 ##", 210, 250), op("triton_poi_fused_gelu_0", 220, 230),
        op("aten::mm", 232, 240),
        op(node, 300, 360, sequence=9, fwd_thread=1), op("CompiledFunctionBackward", 305, 355),
        note("## Call CompiledFxGraph f2 ##", 310, 350), op("triton_poi_fused_gelu_0", 320, 330),
    ]  # fmt: skip
    trace = trace_of(rows)
    shapes = np.select([trace.host.start == 14, trace.host.start == 232], [0, 1], NONE)
    products = Shapes(((32, 8), (8, 4)), ("float", "float")), Shapes(((32, 4), (4, 8)), ("float", "float"))
    trace = replace(trace, host=replace(trace.host, shapes=shapes), shapes=products)
    host, tree, names = trace.host, tree_of(trace), names_of(trace)
    marked, evaluate = tree.nearest(names.module[host.name] != NONE), tree.nearest(names.evaluate[host.name])
    module = np.append(names.module[host.name], NONE)[marked].astype(np.int32)
    phase, role = np.full(len(host), PHASE["other"], np.int8), np.full(len(host), ROLE["norm"], np.int8)
    phase[host.start > 200] = PHASE["backward"]
    code = Compiled(trace, None, roles_of([*LAYER], None, [site("lora")]), tree, marked, evaluate)
    at = {int(start): row for row, start in enumerate(host.start)}
    inside = {10, 12, 14, 15, 22, 31, 205, 210, 220, 232, 305, 310, 320}
    assert {start for start, row in at.items() if code.inside[row]} == inside
    found = code.fill(99, module, phase, role)
    assert found is not None
    assert found.scopes == {
        at[12]: Scope("0/1", False, 6), at[210]: Scope("0/1", True, 6), at[310]: Scope("", True, NONE)
    }  # fmt: skip
    calls = {14, 15, 22, 31, 220, 232, 320}
    assert {start for start, row in at.items() if found.call[row]} == calls
    assert not found.known.any()
    assert not found.mixed.any()
    gelu, outside = "activation", inside - calls
    says = {14: "adapter.down", 15: "adapter.down", 22: gelu, 31: "norm", 220: gelu, 232: "adapter.down", 320: gelu}
    said = {start: ROLES[role[row]] for start, row in at.items()}
    assert said == {start: says.get(start, "other" if start in outside else "norm") for start in at}
    assert {start: int(module[at[start]]) for start in calls} == dict.fromkeys(calls, 6) | {320: NONE}
    forward = {5, 10, 12, 14, 15, 22, 31, 70, 75}
    assert {start for start, row in at.items() if PHASES[phase[row]] == "forward"} == forward


def test_a_region_alone_is_compiled() -> None:
    """Without gradients there is no function of autograd."""
    rows = [note("Torch-Compiled Region: 0/0", 0, 90), note("## Call CompiledFxGraph f ##", 10, 60)]
    trace = trace_of([*rows, op("aten::gelu", 22, 30)])
    none = np.full(3, NONE, np.int32)
    code = Compiled(trace, None, roles_of([*LAYER], None), tree_of(trace), none, none)
    found = code.fill(99, none.copy(), np.zeros(3, np.int8), np.zeros(3, np.int8))
    assert found is not None
    assert found.scopes == {1: Scope("0/0", False, NONE)}


def test_without_ranges_of_calls_the_function_is_the_scope() -> None:
    rows = [note("CompiledFunction", 0, 100), op("CompiledFunction", 10, 60, sequence=4), op("aten::mm", 14, 20)]
    trace = trace_of([*rows, op("aten::gelu", 22, 30), op("aten::exp", 23, 25)])
    none = np.full(5, NONE, np.int32)
    code = Compiled(trace, None, roles_of([*LAYER], None), tree_of(trace), none, none)
    found = code.fill(99, none.copy(), np.zeros(5, np.int8), np.zeros(5, np.int8))
    assert found is not None
    assert found.scopes == {1: Scope("", False, NONE)}
    assert found.call.tolist() == [False, False, True, True, True]


def test_nothing_compiled_says_nothing() -> None:
    trace = trace_of([op("aten::mm", 0, 10)])
    none = np.full(1, NONE, np.int32)
    code = Compiled(trace, None, roles_of([*LAYER], None), tree_of(trace), none, none)
    assert code.fill(99, none, np.zeros(1, np.int8), np.zeros(1, np.int8)) is None


def test_forward_work_begins_with_calls_of_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[Any]()
    monkeypatch.setattr(attribute, "_outside", lambda *given: seen.append(given[4]))
    told = replace(recording(), modules=[ModuleInfo(id=0, path="", cls="A")], parameters=[], calls=[], sites=[])
    attribute.attribute(trace_of([marker("m0", 0, 50), op("aten::mm", 5, 20), op("aten::mm", 60, 70)]), told)
    assert seen[0][0].tolist() == [True, False, False]
