"""Changes to a whole trace whose effect on the report is known: over random synthetic traces and real ones."""

import gzip
from pathlib import Path
from typing import Any

import msgspec
import pytest
import transforms as t
from builders import Document, text_of
from relations import ABSENT, SEEDS, TRACES, Case, busy, case_of, causes, diagnosed
from synthetic import faults
from synthetic.kineto import document
from synthetic.machine import Hardware, Machine
from synthetic.program import Trainer
from synthetic.randomised import random_run

NAMES = ("h100_bert_small", "mi300_norm_layers_fwdbwd", "a100_event_sync_multistream")
missing = pytest.mark.skipif(not TRACES.is_dir(), reason=ABSENT)
both = pytest.mark.parametrize("name", [*SEEDS, *(pytest.param(name, marks=missing) for name in NAMES)])
synthetic = pytest.mark.parametrize("name", SEEDS)


@pytest.fixture
def case(name: str | int, tmp_path: Path) -> Case:
    return case_of(name, tmp_path)


def first(rows: Document) -> int:
    return min(t.begin(e) for e in faults.events(rows))


@both
@pytest.mark.parametrize("by", [7_000_000_123, -997])
def test_m1_shifted_in_time(case: Case, by: int) -> None:
    assert case.after(t.shifted(case.document, max(by, 1 - first(case.document)))) == case.report


@both
@pytest.mark.parametrize("factor", [2, 7])
def test_m2_scaled_in_time(case: Case, factor: int) -> None:
    early = t.shifted(case.document, 1_000_000 - first(case.document))  # seven times a date would not fit in 64 bits
    after = case.after(t.scaled(early, factor))
    for field in ("steps", "modules"):
        assert plain(getattr(after, field)) == times(plain(getattr(case.report, field)), factor)
    expected = [(k.name, k.role, k.phase, k.module, k.count, factor * k.total_ns) for k in case.report.kernels]
    assert [(k.name, k.role, k.phase, k.module, k.count, k.total_ns) for k in after.kernels] == expected
    assert after.reported_step == case.report.reported_step
    closure = plain(case.report.closure)
    assert plain(after.closure) == closure | {"unattributed_ns": factor * closure["unattributed_ns"]}


def plain(value: Any) -> Any:
    return msgspec.to_builtins(value)


def times(value: Any, factor: int) -> Any:
    """Every number under a key that ends in ``ns``, times ``factor``."""
    if isinstance(value, list):
        return [times(item, factor) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: item * factor if key.endswith("ns") and isinstance(item, int) else times(item, factor)
        for key, item in value.items()
    }


@both
def test_m3_order_layout_and_compression(case: Case) -> None:
    expected = msgspec.json.encode(case.report)
    text = text_of(faults.shuffled(case.document, seed=3))
    for other, suffix in ((text, ""), (msgspec.json.format(text, indent=2), ""), (gzip.compress(text, 1), ".gz")):
        assert msgspec.json.encode(diagnosed(other, case.recording, case.folder, suffix)) == expected


@both
def test_m4_other_ids(case: Case) -> None:
    recording = case.recording
    if recording:
        calls = [msgspec.structs.replace(c, thread=int(t.renumbered_thread(c.thread))) for c in recording.calls]
        recording = msgspec.structs.replace(recording, calls=calls)
    assert case.after(t.renumbered(case.document), recording) == case.report


@both
@pytest.mark.parametrize("cat", ["kernel", "cpu_op", "cuda_runtime"])
def test_m9_a_duplicate(case: Case, cat: str) -> None:
    event = next(e for e in faults.events(case.document) if e["cat"] == cat)
    after = case.after(faults.plus(case.document, dict(event)))
    assert after.steps == case.report.steps
    assert after.kernels == case.report.kernels
    assert not after.closure.ok
    assert any("counted once" in note for note in after.closure.notes)


@both
def test_m13_records_that_are_no_work(case: Case) -> None:
    assert case.after(t.with_annotations(case.document)) == case.report


@both
def test_m13_profiler_overhead(case: Case) -> None:
    after = case.after(t.with_overhead(case.document))
    assert after.kernels == case.report.kernels
    for one, other in zip(case.report.steps, after.steps, strict=True):
        assert other.wall_ns == one.wall_ns
        assert busy(other) == busy(one)
        assert other.overlap == one.overlap


@pytest.mark.parametrize("name", [*SEEDS, *(pytest.param(n, marks=missing) for n in (*NAMES, "a100_resnet_ddp_train"))])
def test_m14_a_late_start_leaves_orphans(case: Case) -> None:
    """Cut between a launch call and its kernel; the steps after the one the cut leaves first are as before."""
    calls = {faults.correlation(e): t.begin(e) for e in faults.events(case.document) if t.is_call(e)}
    records = [(t.begin(r), calls.get(faults.correlation(r))) for r in faults.gpu_events(case.document)]
    kernel, call = next((s, c) for s, c in records[len(records) // 5 :] if c is not None and c < s)
    time = (kernel + call) // 2 + 1
    after = case.after(t.opened_at(case.document, time))
    orphans = sum(s >= time and (c is None or c < time) for s, c in records)
    assert after.closure.kernels_without_launch == orphans > 0
    assert after.closure.launches_without_kernel == case.report.closure.launches_without_kernel
    before = {step.name: step.partition for step in case.report.steps}
    for step in after.steps[1:]:
        assert step.partition == before[step.name]
    assert len(after.steps) >= min(2, len(before))


@synthetic
def test_m14_an_early_end_loses_the_running_record(case: Case) -> None:
    records = faults.gpu_events(case.document)
    time = t.end(records[-4]) - 1
    kept = {faults.correlation(r) for r in records if t.end(r) <= time}
    calls = [faults.launch_of(case.document, r) for r in records if t.end(r) > time]
    lost = {faults.correlation(c) for c in calls if t.end(c) <= time and "Memset" not in c["name"]} - kept
    after = case.after(t.closed_at(case.document, time))
    assert after.closure.launches_without_kernel == len(lost)
    assert [s.partition for s in after.steps[:2]] == [s.partition for s in case.report.steps[:2]]


@both
def test_m15_whole_microseconds(case: Case) -> None:
    after = case.after(faults.whole_microseconds(case.document))
    most = 1000 * len(faults.gpu_events(case.document))
    for one, other in zip(case.report.steps, after.steps, strict=True):
        assert abs(other.wall_ns - one.wall_ns) <= 1000
        assert sum(p.ns for p in other.partition) == other.wall_ns
        assert all(abs(causes(other)[cls] - causes(one)[cls]) <= most for cls in ("compute", "comm", "copy"))


@synthetic
def test_m20_kernels_without_names(case: Case) -> None:
    after = case.after(t.renamed_kernels(case.document))
    assert after.steps == case.report.steps
    assert after.modules == case.report.modules


@pytest.mark.parametrize("order", [(1, 0, 2, 3), (3, 2, 1, 0), (2, 3, 0, 1)])
def test_m22_steps_in_another_order(order: tuple[int, ...], tmp_path: Path) -> None:
    """Four different pairs of steps, each followed by one without work that ends once the device is idle."""
    rows: list[Document] = []
    machine, edges = Machine(Hardware(), rows.append), []
    programs = [random_run(2000 + i)[0] for i in range(4)]
    for i, program in enumerate(programs):
        edges.append(machine.now)
        trainer = Trainer(machine, program)
        trainer.run_step(10 * i)
        trainer.run_step(10 * i + 1)
        with machine.step(f"ProfilerStep#{10 * i + 8}"):
            machine.synchronize()
    edges.append(machine.now)
    whole = document(rows)
    one = diagnosed(text_of(whole), None, tmp_path)
    other = diagnosed(text_of(t.reordered_steps(whole, edges, list(order))), None, tmp_path)
    assert {s.name: s for s in other.steps} == {s.name: s for s in one.steps}
    assert [s.name for s in other.steps] != [s.name for s in one.steps]
    assert other.reported_step == one.reported_step
    assert other.kernels == one.kernels != []
    assert other.closure == one.closure
