"""The self-test for real on the CPU, through the command line; how it judges; and what a plant that fails does."""

import ctypes
import json
import subprocess
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from builders import op, step, trace_of
from warm import python

from loraprof.capture.device import cuda
from loraprof.cli.app import run
from loraprof.diagnosis.build import build_report
from loraprof.errors import MeasurementError
from loraprof.model.selftest import SelfTest
from loraprof.selftest import measure
from loraprof.selftest.measure import selftest, step_alone
from loraprof.selftest.plant import TIMED, NotHere, Plant, Quantity, Work, judge
from loraprof.selftest.registry import PLANTS
from loraprof.selftest.run import REPEATS, Kineto, Planted, plant_all

CPU = torch.device("cpu")


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return python("-m", "loraprof", "selftest", *words)


@pytest.fixture(scope="module")
def done() -> subprocess.CompletedProcess[str]:
    return command("--device", "cpu", "--format", "json")


@pytest.fixture(scope="module")
def found(done: subprocess.CompletedProcess[str]) -> SelfTest:
    return msgspec.json.decode(done.stdout, type=SelfTest, strict=True)


@pytest.mark.slow
def test_counts_are_exact_on_a_cpu(found: SelfTest) -> None:
    rows = {(row.plant, row.what): row for row in found.rows}
    expected = [(p.name, q) for p in PLANTS for q in p.quantities if "cpu" in p.kinds and "cpu" in q.kinds]
    assert list(rows) == [(name, q.what) for name, q in expected]
    exact = [(name, q.what) for name, q in expected if q.unit not in TIMED]
    assert {key: (rows[key].reported, rows[key].ok) for key in exact} == {
        key: (rows[key].planted, True) for key in exact
    }
    assert all(row.reported for row in found.rows if row.unit in TIMED)


@pytest.mark.slow
def test_what_needs_a_gpu_says_so(found: SelfTest) -> None:
    gpu = [plant.name for plant in PLANTS if "cpu" not in plant.kinds]
    assert [(s.plant, s.reason, s.failed) for s in found.skipped] == [(name, "needs CUDA", False) for name in gpu]


@pytest.mark.slow
def test_the_exit_code_follows_the_result(done: subprocess.CompletedProcess[str], found: SelfTest) -> None:
    assert found.ok == all(row.ok for row in found.rows)
    assert done.returncode == (0 if found.ok else 3)
    assert json.loads(done.stdout)["schema"] == "loraprof.selftest/1"


@pytest.mark.slow
def test_the_table_marks_every_row() -> None:
    done = command("--quiet", "--only", "lora,item")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["ok", "lora"]] * 3 + [["ok", "item"]] * 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--device", "cuda"], 4, "no CUDA device"),
        (["--device", "mps"], 4, "mps devices cannot be measured"),
        (["--device", "cuda:x"], 2, "no device 'cuda:x'"),
        (["--only", "nope"], 2, "no plant 'nope'"),
        (["--only", "nulls,sync"], 4, "could not be planted: nulls: needs CUDA; sync: needs CUDA"),
    ],
)
def test_what_cannot_be_run_is_one_line(
    words: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "plant_all", nothing_runs)
    assert run(["selftest", "--quiet", *words]) == code
    error = capsys.readouterr().err.splitlines()
    assert says in error[0]
    assert len(error) == 2  # and a hint


def nothing_runs(device: Any, plants: Sequence[Plant], recorder: Any, trace: Path, wait: Any) -> Planted:
    """As on a CPU, without a profiler session in the process of the tests."""
    trace.write_text(
        '{"traceEvents": [{"ph": "X", "cat": "cpu_op", "name": "x", "pid": 1, "tid": 1, "ts": 1, "dur": 1}]}'
    )
    planted = Planted()
    planted.markers.adopt([torch.nn.ModuleDict()])
    for plant in plants:
        planted.skip(plant, NotHere("needs CUDA"))
    return planted


@pytest.mark.parametrize(
    ("unit", "relation", "planted", "reported", "off", "ok"),
    [
        ("ns", "equal", 100, 105, 0.05, True),
        ("ns", "equal", 100, 106, 0.06, False),
        ("ns", "equal", 100, 94, -0.06, False),
        ("ns", "equal", 0, 40, 0.04, True),  # of the step of 1000
        ("ns", "equal", 0, 60, 0.06, False),
        ("ns", "equal", 100, None, None, False),
        ("count", "equal", 100, 101, 0.01, False),
        ("count", "equal", 0, 0, 0.0, True),
        ("count", "equal", 0, 1, None, False),
        ("bytes/s", "at least", 100, 900, 8.0, True),
        ("bytes/s", "at least", 100, 94, -0.06, False),
        ("ns", "at most", 100, 40, -0.6, True),
        ("ns", "at most", 100, 106, 0.06, False),
        ("ns", "at most", 100, 0, -1.0, False),  # a launch that costs nothing is none
    ],
)
def test_how_a_quantity_is_judged(
    unit: Any, relation: Any, planted: float, reported: float | None, off: float | None, ok: bool
) -> None:
    quantity = Quantity("x", unit, lambda seen: None, relation)
    row = judge("p", quantity, planted, reported, 1000)
    assert row.off == (None if off is None else pytest.approx(off))
    assert row.ok is ok


class Recorder:
    """A session that records nothing."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def prepare(self) -> None: ...
    def start(self) -> None: ...
    def stop(self, trace: Path) -> None: ...

    def step(self, name: str) -> Any:
        self.steps.append(name)
        return nullcontext()


def plant(name: str, run: Callable[[], Sequence[float]] = lambda: [1.0]) -> Plant:
    return Plant(name, ("cpu",), lambda device: Work(run), (Quantity("x", "count", lambda seen: 1.0),))


def failing(after: int, error: Exception) -> Callable[[], Sequence[float]]:
    calls = iter(range(1 << 30))

    def run() -> Sequence[float]:
        if next(calls) >= after:
            raise error
        return [1.0]

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("after", "kept"),
    [(0, None), (1, None), (2, None), (3, 0), (5, 2)],
    ids=["first", "again", "warm-up", "step", "later"],
)
@pytest.mark.parametrize(
    ("error", "says"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried\nmore"), "CUDA out of memory. Tried"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_a_plant_that_fails_leaves_the_others_alone(after: int, kept: int | None, error: Exception, says: str) -> None:
    plants = [plant("before"), plant("bad", failing(after, error)), plant("after")]
    done = plant_all(CPU, plants, Recorder(), Path("trace.json"), lambda: None)
    assert [(s.plant, s.reason, s.failed) for s in done.skipped] == [("bad", says, True)]
    expected = {"before": REPEATS, "after": REPEATS} | ({} if kept is None else {"bad": kept})
    assert {one.name: len(truths) for one, truths in done.truths} == expected
    names = [name for _, truths in done.truths for name in truths]
    assert len(names) == len(set(names))


@pytest.mark.slow
def test_a_plant_that_cannot_be_made_is_left_out() -> None:
    def make(device: torch.device) -> Work:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def old(device: torch.device) -> Work:
        raise NotHere("too old")

    plants = [Plant("big", ("cpu",), make, ()), Plant("old", ("cpu",), old, ()), plant("small")]
    done = plant_all(CPU, plants, Recorder(), Path("trace.json"), lambda: None)
    assert [(s.plant, s.reason, s.failed) for s in done.skipped] == [
        ("big", "CUDA out of memory", True), ("old", "too old", False),
    ]  # fmt: skip
    assert [one.name for one, _ in done.truths] == ["small"]


def test_a_bug_is_no_plant_that_failed() -> None:
    with pytest.raises(KeyError):
        plant_all(CPU, [plant("bug", failing(0, KeyError("x")))], Recorder(), Path("trace.json"), lambda: None)


def test_only_one_profiler_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._C._autograd, "_profiler_enabled", lambda: True)
    with pytest.raises(MeasurementError, match="a profiler runs in this process already"):
        Kineto(CPU)


def test_no_kernel_on_a_gpu_means_that_another_profiler_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(device: Any, plants: Sequence[Plant], recorder: Any, trace: Path, wait: Any) -> Planted:
        planted = nothing_runs(device, [], recorder, trace, wait)
        planted.truths.append((PLANTS[0], {"ProfilerStep#0": [1.0]}))
        return planted

    monkeypatch.setattr(measure, "plant_all", blind)
    monkeypatch.setattr(measure, "_calibration", lambda device: (None, []))
    monkeypatch.setattr(measure, "Kineto", lambda device: None)
    monkeypatch.setattr(cuda.Cuda, "current", lambda self: nullcontext())
    with pytest.raises(MeasurementError, match="recorded no kernel") as raised:
        selftest(torch.device("cuda"), PLANTS, build_report)
    assert "another profiler" in (raised.value.hint or "")


def test_a_step_stands_alone() -> None:
    trace = trace_of([step(0, 0, 100), op("a", 10, 20), step(1, 100, 200), op("b", 110, 120)])
    alone = step_alone(trace, "ProfilerStep#1")
    assert [alone.names[i] for i in alone.host.name] == ["ProfilerStep#1", "b"]
    with pytest.raises(MeasurementError, match="ProfilerStep#2 is not in the trace"):
        step_alone(trace, "ProfilerStep#2")


def test_a_pause_is_a_host_function_in_the_streams_order(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, Any]] = []

    def launch(stream: Any, function: Any, data: Any) -> int:
        result = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(function.value)(data)  # as the driver would call it
        calls.append((stream.value, result))
        return 0

    library = ctypes.CDLL
    driver = SimpleNamespace(cuLaunchHostFunc=launch)
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: driver if name == "libcuda.so.1" else library(name))
    stream, gpu = SimpleNamespace(cuda_stream=3), cuda.Cuda(torch.device("cuda"))
    gpu.pause(stream, 100)
    assert calls == [(3, 0)]
    monkeypatch.setattr(driver, "cuLaunchHostFunc", lambda *given: 400)
    with pytest.raises(RuntimeError, match="CUDA error 400"):
        gpu.pause(stream, 100)
