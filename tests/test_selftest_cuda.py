"""The self-test's plants on a simulated GPU: what their own code says it did is what the report of its trace says.

And they can fail: for every quantity there is a trace that is wrong in just that.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest
import torch
from builders import Document, document_of, write
from provoke import CALIBRATION
from synthetic import faults
from synthetic.cuda import SimulatedCuda

from loraprof.diagnosis.build import build_report
from loraprof.model.recording import DeviceInfo, Recording
from loraprof.model.selftest import Row
from loraprof.selftest import device, host, rates
from loraprof.selftest.measure import recording_of, rows_of
from loraprof.selftest.plant import Plant
from loraprof.selftest.registry import PLANTS
from loraprof.selftest.run import REPEATS, Planted, plant_all
from loraprof.store.kineto.read import read_trace

CPU = torch.device("cpu")
Rows = dict[tuple[str, str], Row]


@dataclass(frozen=True)
class Ran:
    """All plants, once: tensors are on the CPU, the plants think otherwise."""

    done: Planted
    trace: Path
    recording: Recording

    def rows(self, change: Callable[[Document], Document] | None = None) -> Rows:
        path = self.trace
        if change is not None:
            path = write(self.trace.with_name("changed.json"), change(document_of(path)))
        trace = read_trace(path)
        rows = (rows_of(plant, truths, trace, self.recording, build_report) for plant, truths in self.done.truths)
        return {(row.plant, row.what): row for several in rows for row in several}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    path = tmp_path_factory.mktemp("cuda") / "trace.json"
    simulated, plants = SimulatedCuda(), [replace(plant, kinds=("cpu",)) for plant in PLANTS]
    with simulated.installed([device, host, rates]):
        done = plant_all(CPU, plants, simulated, path, simulated.machine.synchronize)
    gpu = DeviceInfo(kind="cuda", name="Synthetic GPU", index=0, sms=100, capability=(9, 0))
    recording = msgspec.structs.replace(recording_of(CPU, done.markers, CALIBRATION), device=gpu)
    return Ran(done, path, recording)


@pytest.fixture(scope="module")
def rows(ran: Ran) -> Rows:
    return ran.rows()


def on_cuda(plant: Plant) -> list[str]:
    return [q.what for q in plant.quantities if "cuda" in q.kinds]


def test_every_plant_ran(ran: Ran) -> None:
    assert ran.done.skipped == []
    assert [plant.name for plant, _ in ran.done.truths] == [plant.name for plant in PLANTS]
    assert all(len(truths) == REPEATS for _, truths in ran.done.truths)
    assert all(len(v) == len(plant.quantities) for plant, truths in ran.done.truths for v in truths.values())


@pytest.mark.parametrize(("plant", "what"), [(p.name, what) for p in PLANTS for what in on_cuda(p)])
def test_what_was_planted_is_reported(rows: Rows, plant: str, what: str) -> None:
    row = rows[plant, what]
    assert row.ok, row


def gpu(document: Document, change: Callable[[Document], Document]) -> Document:
    return faults.mapped(document, lambda e: change(e) if faults.on_gpu(e) else e)


def longer(document: Document) -> Document:
    """A clock that runs 10 % too fast."""
    return faults.mapped(document, lambda e: {**e, "ts": e["ts"] * 11 / 10, "dur": e.get("dur", 0) * 11 / 10})


def renamed(document: Document, change: Callable[[str], str]) -> Document:
    return faults.mapped(document, lambda e: {**e, "name": change(e["name"])})


def unread(document: Document) -> Document:
    """Neither a value read back nor a wait for it."""
    return renamed(document, lambda n: "other" if n in ("aten::item", "cudaStreamSynchronize") else n)


def unmarked(document: Document) -> Document:
    return renamed(document, lambda n: "aten::thing" if n.startswith("loraprof::m") else n)


def lost(document: Document) -> Document:
    """Of every step the first device record is missing."""
    starts = sorted(e["ts"] for e in faults.events(document) if e["name"].startswith("ProfilerStep"))
    records = faults.gpu_events(document)
    first = [next(e for e in records if e["ts"] >= start) for start in starts]
    return faults.without(document, *first)


def without_shapes(document: Document) -> Document:
    gone = ("Input Dims", "Input type", "Concrete Inputs")
    return faults.mapped(
        document, lambda e: {**e, "args": {k: v for k, v in e["args"].items() if k not in gone}} if "args" in e else e
    )


def late(document: Document) -> Document:
    """Device records half a millisecond after their time."""
    return gpu(document, lambda e: {**e, "ts": e["ts"] + 500})


def one_stream(document: Document) -> Document:
    """Copies from the host as if they waited for the kernel before them."""
    copies = {id(e) for e in faults.gpu_events(document) if e["cat"] == "gpu_memcpy" and e["args"]["stream"] != 7}
    return gpu(document, lambda e: {**e, "ts": e["ts"] + 26_000} if id(e) in copies else e)


WRONG: dict[str, tuple[Callable[[Document], Document], list[tuple[str, str]]]] = {
    "clock": (longer, [
        ("sleep", "idle, python"), ("loader", "idle, data"), ("spin", "idle, framework"), ("gemm", "time"),
        ("copy", "time"), ("sync", "idle, sync"), ("wait", "idle, queued"), ("overlap", "copy under compute"),
        ("queue", "longest launch call"), ("graph", "time of its module"),
    ]),
    "lost": (lost, [
        ("nulls", "kernels"), ("nulls", "records alone"), ("graph", "kernels"), ("queue", "launches"),
        ("nulls", "launches"),
    ]),
    "no shapes": (without_shapes, [("gemm", "FLOPs"), ("copy", "bytes"), ("lora", "FLOPs of A and B")]),
    "no reads": (unread, [("item", "finding L8"), ("item", "values read")]),
    "no markers": (unmarked, [
        ("lora", "adapted layers"), ("lora", "FLOPs of A and B"), ("item", "values read"), ("item", "finding L8"),
        ("graph", "time of its module"),
    ]),
    "late": (late, [("nulls", "launch floor")]),
    "in turn": (one_stream, [("overlap", "copy under compute")]),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_trace_is_off(ran: Ran, name: str) -> None:
    change, wrong = WRONG[name]
    rows = ran.rows(change)
    assert {key: rows[key].ok for key in wrong} == dict.fromkeys(wrong, False)


def test_launch_bound_and_a_full_queue_are_told_apart(ran: Ran) -> None:
    """Each with the other's trace: the finding on launches is where it must not be, and not where it must."""
    trace, known = read_trace(ran.trace), {plant.name: (plant, truths) for plant, truths in ran.done.truths}
    for name, other in (("nulls", "queue"), ("queue", "nulls")):
        plant, truths = known[name]
        swapped = dict(zip(known[other][1], truths.values(), strict=True))
        found = {row.what: row for row in rows_of(plant, swapped, trace, ran.recording, build_report)}
        assert not found["finding H1"].ok
        assert not found["launches"].ok


@pytest.mark.slow
def test_a_roof_below_what_was_reached_is_off(ran: Ran) -> None:
    """The calibration says less than the plants did: 5 % are allowed."""
    calibration = msgspec.structs.replace(
        CALIBRATION,
        gemm=[msgspec.structs.replace(g, ns=500 * g.ns) for g in CALIBRATION.gemm],
        copy=[msgspec.structs.replace(c, ns=3 * c.ns) for c in CALIBRATION.copy],
    )
    slow = replace(ran, recording=msgspec.structs.replace(ran.recording, calibration=calibration)).rows()
    assert not slow["gemm", "roof"].ok
    assert not slow["copy", "roof"].ok
