"""D7: the host's time in DTensor's dispatch."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from builders import json_of, op, step, trace_of, write
from handmade import Parts, case
from provoke import facts, found
from recorded import profiled

from loraprof.analysis.trace.call_tree import tree_of
from loraprof.diagnosis.findings import dtensor
from loraprof.diagnosis.worth import Worth
from loraprof.model.vocabulary import ROLE, HostKind, Role


@pytest.mark.slow
def test_sharded_adapters_are_found_through_the_command_line() -> None:
    finding = found(profiled("dtensors.py", "sharded"))["D7"]
    seen = facts(finding)
    assert seen["ops that DTensor dispatched"] >= 4 * 5
    assert seen["redistributions"] >= 4
    assert 0.05 < seen["of the step"] < 1
    assert "replicate" in finding.remedy
    assert finding.gain is not None


@pytest.mark.slow
def test_plain_adapters_are_no_cause() -> None:
    assert "D7" not in found(profiled("dtensors.py", "replicated"))


def dispatched(path: Path, spent: int, *, name: str = "Redistribute") -> Path:
    """A step of 1 ms on a CPU: a dispatch that takes ``spent`` besides the op in it, and a redistribution."""
    host = [
        step(0, 0, 1_000_000),
        op("PythonSubclass", 100_000, 150_000 + spent),
        op("aten::mm", 120_000, 170_000),
        op("aten::view", 130_000, 160_000),  # inside the product: no child of the dispatch
        op(name, 600_000, 610_000),
        op("aten::mm", 700_000, 900_000),
        op("PythonSubclass", 1_100_000, 1_400_000),  # after the step
    ]
    return write(path, json_of(host, []))


def test_what_lies_in_the_first_row_is_not_the_dispatchs_own() -> None:
    """Rows 0 and 3 dispatch; in the first lie an op of 30 ns and, in that, one more, in the other a frame."""
    start, end = np.array([0, 10, 15, 100, 110]), np.array([100, 40, 20, 150, 120])
    kind = np.array([HostKind.OP, HostKind.OP, HostKind.RUNTIME, HostKind.OP, HostKind.PYTHON])
    given = case()
    given.analysis.trace = SimpleNamespace(host=SimpleNamespace(start=start, end=end, kind=kind))
    given.analysis.attribution.tree = SimpleNamespace(parent=np.array([-1, 0, 1, -1, 3]))
    own = dtensor._own_ns(given, np.array([True, False, False, True, False]))
    assert own.tolist() == [70, 0, 0, 50, 0]


def test_a_dispatch_is_what_it_takes_besides_its_ops(tmp_path: Path) -> None:
    seen = facts(found(dispatched(tmp_path / "much.json", 60_000))["D7"])
    assert (seen["ops that DTensor dispatched"], seen["redistributions"]) == (1, 1)
    assert (seen["time in its dispatch alone"], seen["of the step"]) == (60_000, 0.06)
    assert seen["of it for the adapters"] is None  # which ops are theirs is not known
    assert "D7" not in found(dispatched(tmp_path / "little.json", 49_000))
    assert "D7" not in found(dispatched(tmp_path / "other.json", 60_000, name="aten::add"))  # another subclass


@pytest.mark.parametrize(
    ("roles", "on_gpu", "saved", "known"),
    [
        (("adapter.down", "norm"), False, 70, [70, 1]),
        (("adapter.down", "norm"), True, 50, [70, 1]),  # what Python and the framework keep the device waiting
        (("base.linear", "norm"), False, 120, [None, None]),
    ],
)
def test_what_the_adapters_dispatch_takes(
    roles: tuple[Role, Role], on_gpu: bool, saved: int, known: list[int | None]
) -> None:
    """Dispatches of 70 and 50 ns besides their ops, and a redistribution in each; before the step and after it more."""
    name = "PythonSubclass"
    rows = [op(name, 90, 99), op(name, 100, 180), op("Redistribute", 120, 130), op(name, 300, 360)]
    trace = trace_of([*rows, op("Redistribute", 310, 320), op("aten::mm", 400, 420), op(name, 1100, 1200)])
    host = trace.host
    played = np.array([ROLE[roles[int(at >= 300)]] for at in host.start.tolist()])
    parts = Parts({"cause": "python", "ns": 30}, {"cause": "framework", "ns": 20}, {"cause": "sync", "ns": 999})
    window = SimpleNamespace(noted_start=100, end=1100)
    given = case(median=1000, on_gpu=on_gpu, step=parts, ledger=SimpleNamespace(window=window))
    given.analysis.trace = trace
    given.analysis.attribution = SimpleNamespace(role=played, tree=tree_of(trace))
    seen = dtensor.dispatch(given)
    assert seen is not None
    assert [e.value for e in seen.evidence] == [2, 120, 0.12, known[0], 2, known[1]]
    assert seen.saved == Worth(saved, 0, saved)
