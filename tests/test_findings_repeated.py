"""H6: the same result in every layer, and values that every layer reads."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from builders import call, json_of, kernel, op, step, write
from handmade import Parts, case
from provoke import facts, found, made, shaped
from recorded import profiled
from torch import Tensor

import loraprof
from loraprof.capture.passes.counting import Counting
from loraprof.capture.passes.repeats import Repeats
from loraprof.diagnosis.findings import repeated as module
from loraprof.diagnosis.worth import Worth
from loraprof.model.recording import CountedOp, RepeatedOp
from loraprof.model.vocabulary import PHASE, HostKind


def repeated(work: Callable[[int], object], modules: int = 3) -> dict[str, int]:
    """Counts by op of what ``work(module)`` repeats over some modules."""
    here, repeats = [0], Repeats()
    counting = Counting(lambda: (here[0], "forward", -1), repeats=repeats)
    counting.open()
    try:
        for here[0] in range(modules):
            work(here[0])
    finally:
        counting.close()
    assert repeats.failed is None
    found: dict[str, int] = {}
    for one in repeats.repeated():
        assert isinstance(one, RepeatedOp)
        found[one.op] = found.get(one.op, 0) + one.count
    return found


def test_a_chain_with_the_same_result_is_repeated() -> None:
    lengths = torch.tensor([3, 5])
    assert repeated(lambda _: lengths.cumsum(0).mul(2)) == {"aten::cumsum": 2, "aten::mul": 2}


def test_equal_buffers_and_equal_python_values_are_equal() -> None:
    assert repeated(lambda _: torch.tensor([1.0, 2.0]).exp()) == {"aten::exp": 2}


def test_different_inputs_and_random_results_are_not() -> None:
    x = torch.randn(8, 1024)
    assert repeated(lambda i: x.mul(i)) == {}
    assert repeated(lambda i: torch.rand(8).exp()) == {}
    assert repeated(lambda i: x[i].exp()) == {}


def test_a_value_that_was_written_to_is_another() -> None:
    x = torch.zeros(8, 1024)

    def work(_: int) -> Tensor:
        x.add_(1)
        return x.exp()

    assert repeated(work) == {}


def test_freed_memory_is_not_taken_for_what_lay_there() -> None:
    x = torch.randn(8192)
    assert repeated(lambda i: (x * i).exp().sum()) == {}


def test_one_module_may_repeat_itself() -> None:
    x = torch.randn(8)
    assert repeated(lambda _: x.exp(), modules=1) == {}


@pytest.mark.slow
def test_metadata_built_in_every_layer_is_found_through_the_command_line() -> None:
    finding = found(profiled("layers.py", "plain"))["H6"]
    seen = facts(finding)
    assert seen["modules that compute it"] == 6
    assert seen["first of them that repeats it"].endswith("blocks.1")
    assert seen["what is repeated"].startswith("ge, ")
    assert finding.gain is not None
    assert "once per step" in finding.remedy


@pytest.mark.slow
def test_metadata_built_once_is_no_cause() -> None:
    assert "H6" not in found(profiled("layers.py", "once"))


def reading(path: Path, layers: int, frames: bool = False, idle: bool = False) -> Path:
    """A GPU step of ``layers`` modules, with_stack; each reads a value. ``idle``: the device has nothing else to do
    then, ``item`` is called by ``is_nonzero``, and each module waits for the device once more."""
    host, device = [step(0, 0, 100_000 * layers)], []
    for i in range(layers):
        at = 100_000 * i
        host.append(op("aten::mm", at + 2_000, at + 12_000))
        host.append(op("aten::item", at + 20_000, at + 80_000))
        host.append(call("cudaStreamSynchronize", at + 25_000, at + 78_000))
        device.append(kernel(at + 13_000, at + (20_000 if idle else 60_000), launch=(at + 5_000, at + 9_000)))
        if idle:
            host.append(op("aten::is_nonzero", at + 19_000, at + 81_000))
            host.append(call("cudaStreamSynchronize", at + 82_000, at + 95_000))
    document = json.loads(json.dumps(json_of(host, device), default=float))
    for i in range(layers):
        frame: dict[str, Any] = {
            "ph": "X",
            "cat": "python_function",
            "pid": 1,
            "tid": 1,
            "ts": 100.0 * i + 1,
            "dur": 98.0,
        }
        document["traceEvents"].append({**frame, "name": f"nn.Module: Block_{i}", "args": {"Python id": 2 * i}})
        if frames:
            line = {**frame, "name": "model/block.py(17): forward", "ts": frame["ts"] + 0.5, "dur": 97.0}
            document["traceEvents"].append({**line, "args": {"Python id": 2 * i + 1, "Python parent id": 2 * i}})
    return write(path, document)


def test_reads_in_every_layer_of_a_gpu_trace(tmp_path: Path) -> None:
    path = reading(tmp_path / "reads.json", 8, frames=True)
    seen, reported = facts(found(path)["H6"]), loraprof.diagnose(path).step()
    assert seen["reads of a device value outside the adapters"] == 8
    assert seen["modules that read"] == 8
    assert seen["at"] == "model/block.py:17"
    assert reported is not None
    assert 0 < reported.ns(cause="sync") < 8 * 53_000  # each call waits 53 us, part of it while the device works
    assert seen["time of the reads"] == round(7 / 8 * reported.ns(cause="sync"))  # one read has to stay


def test_reads_in_few_places_are_no_cause(tmp_path: Path) -> None:
    assert "H6" in found(reading(tmp_path / "some.json", 4))
    assert "H6" not in found(reading(tmp_path / "few.json", 3))


def test_only_waits_inside_a_read_are_its_own(tmp_path: Path) -> None:
    seen = facts(found(reading(tmp_path / "idle.json", 8, idle=True))["H6"])
    assert (seen["reads of a device value outside the adapters"], seen["modules that read"]) == (8, 8)
    assert "at" not in seen
    assert seen["time of the reads"] == 7 / 8 * 7 * 53_000  # the step ends with a kernel before the last wait


def outside(module: int, op: str = "aten::exp", count: int = 1, modules: int = 4) -> RepeatedOp:
    return RepeatedOp(module=module, op=op, count=count, modules=modules)


@pytest.mark.parametrize(
    ("repeated", "said"),
    [
        ([outside(1), outside(2), outside(3)], (3, 4, "b", "exp", 133)),
        ([outside(3, count=2), outside(0, "aten::mul", 4), outside(1, modules=5)], (7, 5, "<model>", "mul, exp", 143)),
        ([outside(1), outside(2)], None),  # four modules compute it
        ([outside(1), outside(2), outside(3, modules=3)], None),
        ([outside(1), outside(2), outside(4)], None),  # an adapter's
        ([outside(m, "aten::sin") for m in (1, 2, 3)], None),  # does not run in this step
    ],
)
def test_what_is_repeated_and_what_share_of_its_time(
    repeated: list[RepeatedOp], said: tuple[Any, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each op runs in each module for 10, 20, 30... ns; in module 3 one ``exp`` of four. 200 ns in all."""
    rows = [(m, op) for m in range(5) for op in ("aten::exp", "aten::mul")]
    names = ("aten::exp", "aten::mul")
    start = np.arange(len(rows) + 2) * 1000
    host = SimpleNamespace(
        name=np.array([*(names.index(op) for _, op in rows), 0, 0]),
        kind=np.array([HostKind.OP] * (len(rows) + 1) + [HostKind.ANNOTATION]),
        start=start,
        end=start + np.array([*(10 * m + 10 for m, _ in rows), 500, 500]),
    )

    class Table(SimpleNamespace):
        def __len__(self) -> int:
            return len(start)

    counted = [
        CountedOp(module=m, phase=phase, op="aten::exp", shapes="", count=n, flops=0, min_bytes=0)
        for m, phase, n in ((3, "forward", 4), (1, "backward", 9))
    ]
    parts = (None, None, "base", None, "down")
    table = [SimpleNamespace(path=p, part=part) for p, part in zip(("", "b", "c", "d", "e"), parts, strict=True)]
    given = case(recording=SimpleNamespace(modules=table, repeated=repeated, counted=counted))
    given.analysis.trace = SimpleNamespace(host=Table(**vars(host)), names=names)
    given.analysis.attribution.module = np.array([*(m for m, _ in rows), 1, 1])
    given.analysis.attribution.phase = np.array([PHASE["forward"]] * len(rows) + [PHASE["backward"], PHASE["forward"]])
    flags = []
    monkeypatch.setattr(module, "of_rows", lambda _, flag: flags.append(np.flatnonzero(flag).tolist()))
    monkeypatch.setattr(module, "total_ns", lambda *_: 200 if flags[-1] else 0)
    monkeypatch.setattr(module, "worth", lambda *_: Worth(400, 300, 500))
    found = module._built(given)
    if said is None:
        assert found is None
    else:
        assert found is not None
        assert found.saved is not None
        assert (found.count, found.modules, found.place, found.what, found.spent_ns) == said
        assert found.saved.ns == pytest.approx(2 * said[-1], abs=1)


def test_rows_that_take_no_time_repeat_all_of_it() -> None:
    given = case()
    given.analysis.trace = SimpleNamespace(host=SimpleNamespace(name=np.array([0]), start=np.ones(1), end=np.ones(1)))
    given.analysis.attribution.module = np.array([1])
    assert module._factor(given, np.array([True]), {(1, 0): 0.5}) == 1.0


def test_on_a_device_the_waits_inside_reads_are_saved_but_one() -> None:
    """Of 70 ns of waits in four reads; in all the device waited 100 ns, or 40."""
    names = ("aten::item", "cudaStreamSynchronize", "cudaLaunchKernel")
    rows = [(0, 9, HostKind.OP), (1, 30, HostKind.RUNTIME), (1, 40, HostKind.RUNTIME), (1, 500, HostKind.OP)]
    rows += [(2, 600, HostKind.RUNTIME), (1, 700, HostKind.RUNTIME), (1, 800, HostKind.RUNTIME)]
    name, ns, kind = (np.array(column) for column in zip(*rows, strict=True))
    host = SimpleNamespace(name=name, kind=kind, start=np.zeros(7, np.int64), end=ns)
    given = case(median=9, scale=0.5)
    given.analysis.trace = SimpleNamespace(host=host, names=names)
    given.analysis.attribution.tree = SimpleNamespace(nearest=lambda _: np.array([0, 0, 0, 0, 0, -1, 0]))
    reading, inside = np.arange(7) < 4, np.arange(7) < 6
    for waited, spent in ((100, 26), (20, 15), (0, 0)):
        given.step = Parts({"cause": "sync", "ns": waited}, {"cause": "python", "ns": 999})
        assert module._waited(given, reading, inside) == (spent, Worth(spent, 0, spent) if spent else None)


def test_on_a_cpu_all_reads_but_one_are_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "of_rows", lambda *_: None)
    monkeypatch.setattr(module, "total_ns", lambda *_: 200)
    monkeypatch.setattr(module, "worth", lambda case, _: case.value)
    given, reading = case(on_gpu=False), np.arange(6) < 4
    given.analysis.trace = SimpleNamespace(host=None, names=())
    given.value = None
    assert module._waited(given, reading, reading) == (150, None)
    given.value = Worth(400, 300, 500)
    assert module._waited(given, reading, reading) == (150, Worth(300, 225, 375))


def again(counted: int, modules: int = 4) -> Path:
    """A run whose norms compute what the first of them computed, all they do or one time of ``counted``."""
    run = shaped(hidden=512, ffn=1376, tokens=8192, vocab=1024, layers=4)
    first, *others = [m.id for m in run.recording.modules if m.cls == "RMSNorm"]
    repeated = [RepeatedOp(module=m, op="aten::rms_norm", count=1, modules=modules) for m in others]
    ops = [
        CountedOp(module=m, phase="forward", op="aten::rms_norm", shapes="", count=counted, flops=0, min_bytes=0)
        for m in (first, *others)
    ]
    return made(run, repeated=repeated, counted=ops)


def test_what_every_layer_computes_anew_is_worth_its_time_but_once() -> None:
    """Eight norms of 8.4 us forward, of 3.9 ms, of which seven repeat the first."""
    one = 2 * 8192 * 512 * 2 // 2000
    path = again(1)
    finding = found(path)["H6"]
    seen = facts(finding)
    assert seen["modules that compute it"] == 4
    assert seen["first of them that repeats it"] == "model.layers.0.norm2"
    assert seen["what is repeated"] == "rms_norm"
    assert seen["time of the repetitions"] == pytest.approx(7 * one, rel=0.01)
    assert "H6" not in found(again(2))  # half of it, 0.7 % of the step: not worth a word
