"""Almost nothing in the file, or one source of facts missing: unknown is null with a note, never 0."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from builders import Document, json_of, kernel, note, op, step, text_of
from relations import diagnosed
from synthetic import faults
from synthetic.presets import preset
from synthetic.simulate import simulate

from loraprof.model.recording import Recording
from loraprof.model.report import Report

RUN = simulate(*preset("launch-bound"))


def without_args(*keys: str) -> Document:
    def change(event: Document) -> Document:
        args = {k: v for k, v in event.get("args", {}).items() if k not in keys}
        return {**event, "args": args} if "args" in event else event

    return faults.mapped(RUN.document, change)


def without_names(*prefixes: str) -> Document:
    rows = RUN.document["traceEvents"]
    return faults.with_events(RUN.document, [e for e in rows if not e["name"].startswith(prefixes)])


def report_of(folder: Path, document: Document, recording: Recording | None = RUN.recording) -> Report:
    report = diagnosed(text_of(document), recording, folder)
    for s in report.steps:
        assert sum(p.ns for p in s.partition) == s.wall_ns
    return report


def said(report: Report, words: str) -> bool:
    return sum(words in line for line in report.closure.notes) == 1


def totals(report: Report) -> list[tuple[int, int]]:
    return [(s.wall_ns, s.ns(kind="busy")) for s in report.steps]


def test_without_shapes(tmp_path: Path) -> None:
    report = report_of(tmp_path, without_args("Input Dims", "Input type"))
    assert all(k.flops is None and k.min_bytes is None and k.roof_ns is None for k in report.kernels)
    assert report.traffic is None
    assert report.adapter is not None
    assert (report.adapter.flops, report.adapter.min_bytes) == (None, None)
    assert said(report, "no shapes were recorded")
    assert report.adapter.busy_ns == report_of(tmp_path, RUN.document).adapter.busy_ns > 0  # type: ignore[union-attr]


def test_without_markers(tmp_path: Path) -> None:
    whole, report = report_of(tmp_path, RUN.document), report_of(tmp_path, without_names("loraprof::"))
    assert report.adapter is None
    assert report.closure.attribution_disagreements is None
    assert said(report, "no module markers")
    assert report.closure.unattributed_ns > 0
    assert totals(report) == totals(whole)


def test_without_sequence_numbers(tmp_path: Path) -> None:
    recording = msgspec.structs.replace(RUN.recording, calls=[])
    whole, report = report_of(tmp_path, RUN.document), report_of(tmp_path, without_args("Sequence number"), recording)
    assert report.closure.attribution_disagreements is None
    assert report.closure.unattributed_ns > 0
    assert totals(report) == totals(whole)


def test_without_device_properties(tmp_path: Path) -> None:
    document = {k: v for k, v in RUN.document.items() if k != "deviceProperties"}
    report = report_of(tmp_path, document, None)
    assert report.source.device == "cuda"
    assert report.source.device_name is None
    assert all(k.roof_ns is None and k.bound == "unknown" for k in report.kernels)
    assert said(report, "does not name its GPU")


def test_without_timing_memory_calibration_and_nvml(tmp_path: Path) -> None:
    report = report_of(tmp_path, RUN.document)
    assert (report.timing.unprofiled, report.timing.inflation) == (None, None)
    assert (report.memory, report.nvml, report.ceilings) == (None, None, None)
    assert (report.verdict.speedup_vs_full, report.verdict.basis) == (None, None)
    assert all(f.gain is None for f in report.findings)
    for words in ("no unprofiled timing", "no memory figures", "NVML was not sampled", "no calibration"):
        assert said(report, words)


def test_without_a_recording(tmp_path: Path) -> None:
    whole, report = report_of(tmp_path, RUN.document), report_of(tmp_path, RUN.document, None)
    assert (report.adapter, report.source.torch, report.timing.tokens_per_step) == (None, None, None)
    assert said(report, "without a recording")
    assert totals(report) == totals(whole)


def test_without_step_annotations(tmp_path: Path) -> None:
    inferred = report_of(tmp_path, without_names("ProfilerStep#"))
    assert [s.name for s in inferred.steps] == ["OptimizerStep#0", "OptimizerStep#1", "OptimizerStep#2"]
    assert said(inferred, "inferred from the ends of Optimizer.step")
    whole = report_of(tmp_path, without_names("ProfilerStep#", "Optimizer."))
    assert [s.name for s in whole.steps] == ["trace"]
    assert said(whole, "the whole trace is one window")


def test_a_gpu_that_left_no_records(tmp_path: Path) -> None:
    """Recorded on a GPU, nothing from it in the file: the launch calls are all there without a kernel."""
    document = faults.without(RUN.document, *faults.gpu_events(RUN.document))
    report = report_of(tmp_path, document)
    calls = sum(faults.is_launch(e) and "Memset" not in e["name"] for e in faults.events(document))
    assert report.closure.launches_without_kernel == calls > 0
    assert not report.closure.ok
    assert said(report, "no device activity was recorded although a GPU ran")
    assert report.source.device == "cpu"
    assert all(s.launches is None for s in report.steps)


def test_only_device_records(tmp_path: Path) -> None:
    records = faults.gpu_events(RUN.document)
    report = report_of(tmp_path, faults.with_events(RUN.document, records), None)
    (only,) = report.steps
    assert only.ns(kind="busy") == sum(s.ns(kind="busy") for s in report_of(tmp_path, RUN.document).steps)
    assert only.ns(kind="idle") == only.ns(cause="unknown") == only.wall_ns - only.ns(kind="busy")
    assert report.closure.kernels_without_launch == len(records)


# What is in the file, the walls of its steps, and a note that must be there.
SMALL: dict[str, tuple[Document, list[int], str]] = {
    "one kernel": (json_of([], [kernel(1000, 2000)]), [1000], "no launch record"),
    "one kernel and its call": (json_of([], [kernel(1000, 2000, (10, 20))]), [1990], "one window"),
    "one op": (json_of([op("aten::mm", 0, 10)]), [10], "analysed as a CPU trace"),
    "one step": (json_of([step(0, 0, 1000), op("aten::mm", 0, 10)]), [1000], "analysed as a CPU trace"),
    "a step of nothing": (json_of([step(0, 0, 1000)]), [1000], "analysed as a CPU trace"),
    "a step of no length": (json_of([step(0, 5, 5)], [kernel(10, 20, (6, 7))]), [0], "without a recording"),
    "no step": (json_of([note("x", 0, 1000)]), [], "the trace holds no work"),
    "an idle GPU": (json_of([step(0, 0, 900), step(1, 900, 1000)], [kernel(100, 200, (50, 60))]), [200, 800], ""),
    "steps that overlap": (
        json_of(
            [step(0, 0, 1500), step(1, 1000, 2000)], [kernel(100, 200, (50, 60)), kernel(1300, 1400, (1200, 1220))]
        ),
        [1400, 0],
        "1 step annotations overlap",
    ),
    "a step is missing": (json_of([step(0, 0, 10), step(2, 10, 20)]), [10, 10], "jump 1 times"),
    "programmatic launch": (
        json_of([step(0, 0, 99)], [kernel(100, 300, (1, 2)), kernel(250, 400, (3, 4))]),
        [400],
        "1 device records overlap the one before",
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_almost_nothing(name: str, tmp_path: Path) -> None:
    document, walls, words = SMALL[name]
    report = report_of(tmp_path, document, None)
    assert [s.wall_ns for s in report.steps] == walls
    assert not words or said(report, words)
    assert report.verdict.sentence.endswith(".")
    assert ", ." not in report.verdict.sentence


def test_the_clock_error_of_a_call_after_its_kernel(tmp_path: Path) -> None:
    document = json_of([step(0, 0, 900), op("x", 40, 70)], [kernel(100, 200, (50, 60)), kernel(400, 500, (400, 420))])
    report = report_of(tmp_path, document, None)
    assert report.steps[0].ns(cause="unknown") == 200
    assert report.closure.negative_latency == 1
    assert not report.closure.ok


READ: Callable[[Path], list[str]] = lambda path: [  # noqa: E731
    sys.executable,
    "-c",
    f"import sys, loraprof, msgspec; r = loraprof.diagnose({str(path)!r}); assert 'torch' not in sys.modules; "
    "sys.stdout.buffer.write(msgspec.json.encode(r))",
]


def test_two_processes_without_torch_write_the_same_bytes(tmp_path: Path) -> None:
    place = RUN.save(tmp_path)
    one, two = (subprocess.run(READ(place), capture_output=True, check=True).stdout for _ in range(2))
    assert one == two
    assert len(one) > 10_000
