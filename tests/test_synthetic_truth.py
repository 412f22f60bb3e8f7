"""The report against the truth of simulated runs: windows, every row of every partition, modules, floors, faults.

The truth is counted by the generator while its machine runs; it shares no code with the analysis.
"""

from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from functools import cache
from pathlib import Path
from statistics import median_low
from tempfile import TemporaryDirectory

import pytest
from builders import Document
from synthetic import faults
from synthetic.ledger import StepTruth
from synthetic.presets import PRESETS, preset
from synthetic.randomised import random_run
from synthetic.simulate import Synthetic, simulate

import loraprof
from loraprof.diagnosis import load
from loraprof.diagnosis.build import Diagnosis
from loraprof.model.report import Report, Step
from loraprof.store.recordings import load_source

SEEDS = range(60)
Rows = Counter[tuple[str, str, str]]


@cache
def run_of(name: str | int) -> Synthetic:
    return simulate(*(preset(name) if isinstance(name, str) else random_run(name)))


@cache
def diagnosis_of(name: str | int) -> Diagnosis:
    with TemporaryDirectory() as folder:
        return load.diagnosis_of(load_source(run_of(name).save(Path(folder))))


def faulty(run: Synthetic, document: Document, folder: Path) -> Report:
    changed = Synthetic(run.program, run.hardware, document, run.recording, run.truth)
    return loraprof.diagnose(changed.save(folder))


def rows(step: Step, kind: str, field: str = "ns") -> Rows:
    out: Rows = Counter()
    for part in step.partition:
        if part.kind == kind:
            out[part.class_ or part.cause or "", part.phase, part.role] += getattr(part, field)
    return +out


def assert_step(step: Step, truth: StepTruth) -> None:
    assert (step.name, step.wall_ns) == (truth.name, truth.wall_ns)
    assert rows(step, "busy") == +truth.busy
    assert rows(step, "idle") == +truth.idle
    assert rows(step, "busy", "events") == +truth.records
    assert {(o.over, o.under): o.ns for o in step.overlap} == +truth.overlap
    assert step.launches is not None
    assert step.launches.count == len(truth.launches)


@pytest.mark.parametrize("name", [*PRESETS, *SEEDS])
def test_report_is_the_truth(name: str | int) -> None:
    run, report = run_of(name), diagnosis_of(name).report
    for step, truth in zip(report.steps, run.truth, strict=True):
        assert_step(step, truth)
    reported = next(t for t in run.truth if t.name == report.reported_step)
    assert sorted(t.wall_ns for t in run.truth)[1] == reported.wall_ns
    assert modules(report) == Counter(
        {path or "<model>": ns for path, ns in reported.modules.items() if path is not None}
    )
    closure = report.closure
    assert closure.ok
    assert closure.unattributed_ns == 0
    assert closure.attribution_disagreements == 0


def modules(report: Report) -> Counter[str]:
    out: Counter[str] = Counter()
    for row in report.modules:
        out[row.path] += row.busy_ns
    return +out


@pytest.mark.parametrize("name", [*PRESETS, *SEEDS])
def test_floors_and_launch_calls(name: str | int) -> None:
    run, analysis = run_of(name), diagnosis_of(name).analysis
    assert analysis.floor_ns == run.hardware.latency_ns
    assert analysis.tau_ns == run.hardware.turnaround_ns
    calls = {faults.correlation(e): ns(e["dur"]) for e in faults.events(run.document) if e["cat"] == "cuda_runtime"}
    for step, truth in zip(analysis.steps, run.truth, strict=True):
        assert step.launches is not None
        assert step.launches.api_median_ns == median_low(calls[c] for c in truth.launches)
        assert step.launches.latency_floor_ns == run.hardware.latency_ns


def ns(us: Decimal) -> int:
    return int(us * 1000)


@pytest.mark.parametrize("name", PRESETS)
def test_the_adapter_is_the_sum_of_its_rows(name: str) -> None:
    run, report = run_of(name), diagnosis_of(name).report
    truth = next(t for t in run.truth if t.name == report.reported_step)
    if not run.recording.sites:
        assert report.adapter is None
        return
    assert report.adapter is not None
    assert report.adapter.modules == len(run.recording.sites)

    def of(counter: Rows) -> int:
        return sum(count for (_, _, role), count in counter.items() if role.startswith("adapter."))

    assert report.adapter.busy_ns == of(truth.busy)
    assert report.adapter.idle_ns == of(truth.idle)
    assert report.adapter.launches == of(truth.records)


def lost_records(d: Document) -> Document:
    return faults.without(d, *[e for e in faults.gpu_events(d)[10:40:10] if e["name"] != "cudaMemsetAsync"])


def lost_launches(d: Document) -> Document:
    return faults.without(d, *[faults.launch_of(d, e) for e in faults.gpu_events(d)[10:40:10]])


def negative(d: Document) -> Document:
    """Launch calls that begin when their record does, or later."""
    for record in faults.gpu_events(d)[10:40:10]:
        d = faults.swapped(d, faults.launch_of(d, record), ts=record["ts"])
    return d


def duplicated(d: Document) -> Document:
    return faults.plus(d, *[dict(e) for e in faults.gpu_events(d)[10:40:10]])


FAULTS: dict[str, tuple[Callable[[Document], Document], dict[str, int]]] = {
    "lost records": (lost_records, {"launches_without_kernel": 3}),
    "lost launches": (lost_launches, {"kernels_without_launch": 3}),
    "zero timestamps": (lambda d: faults.zero_timestamps(d, 3), {"zero_timestamps": 3, "launches_without_kernel": 3}),
    "negative latency": (negative, {"negative_latency": 3}),
    "duplicates": (duplicated, {}),
}
HARMLESS: dict[str, Callable[[Document], Document]] = {
    "reordered": faults.shuffled,
    "2021 categories": faults.legacy,
    "nothing optional": faults.sparse,
    "records that are no work": faults.decorated,
    "hostile names": faults.hostile_names,
}
FIELDS = ("launches_without_kernel", "kernels_without_launch", "negative_latency", "zero_timestamps")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["launch-bound", "bandwidth-v1", 3, 17])
def test_a_fault_is_counted_exactly_and_noted(fault: str, name: str | int, tmp_path: Path) -> None:
    change, counts = FAULTS[fault]
    run = run_of(name)
    report = faulty(run, change(run.document), tmp_path)
    assert {f: getattr(report.closure, f) for f in FIELDS} == dict.fromkeys(FIELDS, 0) | counts
    assert not report.closure.ok
    assert any("3 " in note for note in report.closure.notes)
    for step in report.steps:
        assert sum(p.ns for p in step.partition) == step.wall_ns
    if fault == "duplicates":
        for step, truth in zip(report.steps, run.truth, strict=True):
            assert_step(step, truth)


@pytest.mark.parametrize("change", HARMLESS)
@pytest.mark.parametrize("name", ["launch-bound", "comm-bound", "checkpoint", 0, 17])
def test_what_is_only_unusual_changes_nothing(change: str, name: str | int, tmp_path: Path) -> None:
    run = run_of(name)
    report = faulty(run, HARMLESS[change](run.document), tmp_path)
    for step, truth in zip(report.steps, run.truth, strict=True):
        assert_step(step, truth)
    assert report.closure.ok


def test_a_late_opening_leaves_orphans_and_the_later_steps_alone(tmp_path: Path) -> None:
    run = run_of("bandwidth-v1")
    cut = run.document
    first, second = run.truth[:2]
    inside = next(e for e in faults.gpu_events(cut) if ns(e["ts"]) > first.start + first.wall_ns // 2)
    report = faulty(run, faults.opened_at(cut, inside["ts"]), tmp_path)
    assert report.closure.kernels_without_launch > 0
    assert report.closure.launches_without_kernel == 0
    assert any("before the trace began" in note for note in report.closure.notes)
    later = {s.name: s for s in report.steps}
    assert_step(later[run.truth[2].name], run.truth[2])
    assert second.name in later
