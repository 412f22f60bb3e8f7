"""Work inside backward nodes, one kind at a time: sums of gradients, own functions, and what accumulates."""

import numpy as np
import pytest
from builders import marker, op, trace_of
from msgspec.structs import replace
from recordings import recording

from loraprof.analysis.attribution.backward import Backward
from loraprof.analysis.attribution.names import names_of
from loraprof.analysis.attribution.roles import roles_of
from loraprof.analysis.trace.call_tree import tree_of
from loraprof.model.recording import AdapterSite, ModuleCall, ModuleInfo, ParameterInfo, Recording
from loraprof.model.trace import NONE, Shapes, Trace
from loraprof.model.vocabulary import ROLE, ROLES, Role

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
