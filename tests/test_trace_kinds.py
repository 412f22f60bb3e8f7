"""Traces that a healthy program writes and a naive reader misreads: each kind with its near miss."""

import json
import sqlite3
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from builders import Document, call, json_of, kernel, note, op, step, text_of, us
from kineto_events import event, read, read_events

import loraprof
from loraprof.analysis.analyse import analyse
from loraprof.cli.app import run
from loraprof.errors import InputError
from loraprof.model.report import Report


def diagnosed(tmp_path: Path, document: Document) -> Report:
    path = tmp_path / "t.json"
    path.write_bytes(text_of(document))
    report = loraprof.diagnose(path)
    assert all(sum(p.ns for p in one.partition) == one.wall_ns for one in report.steps)
    return report


def said(report: Report, words: str) -> bool:
    return any(words in line for line in report.closure.notes)


@pytest.mark.parametrize(
    ("category", "args"),
    [
        ("mtia_ccp_events", {"correlation": 1}),
        ("hpu_op", {}),
        ("musa_op", {}),
        ("MPS", {}),
        ("privateuse1_driver", {}),
        ("some_chip", {"device": 0, "stream": 1}),
    ],
)
def test_a_step_on_an_unknown_accelerator_is_no_cpu_step(tmp_path: Path, category: str, args: dict[str, int]) -> None:
    document = json_of([step(0, 50_000, 950_000), op("aten::mm", 60_000, 70_000)])
    document["traceEvents"].append(event(category, "gemm", pid=0, tid=3, ts=us(1000), dur=us(300_000), args=args))
    report = diagnosed(tmp_path, document)
    reported = report.step()
    assert reported is not None
    assert {p.cause for p in reported.partition} == {"unknown"}
    assert (reported.wall_ns, sum(p.ns for p in reported.partition)) == (900_000, 900_000)
    assert (report.source.device, report.findings, report.kernels) == (None, [], [])
    assert "unknown" in report.verdict.sentence
    assert said(report, category)
    assert run(["report", "--quiet", str(tmp_path / "t.json")]) == 0


def test_launch_calls_of_an_intel_gpu_are_read(tmp_path: Path) -> None:
    document = json_of([step(0, 0, 900_000), op("aten::mm", 9000, 30_000)], [kernel(40_000, 90_000, (10_000, 15_000))])
    for one in document["traceEvents"]:
        if one.get("cat") == "cuda_runtime":
            one.update(cat="xpu_runtime", name="urEnqueueKernelLaunch")
    report = diagnosed(tmp_path, document)
    reported = report.step()
    assert reported is not None
    assert report.closure.kernels_without_launch == 0
    assert reported.ns(kind="busy", role="base.linear") == 50_000


@pytest.mark.parametrize("category", ["my_app", "input_wait", "output", "maps"])
def test_an_unknown_track_of_the_host_is_no_accelerator(category: str, tmp_path: Path) -> None:
    document = json_of([step(0, 0, 900_000), op("aten::mm", 10, 20)])
    document["traceEvents"].append(event(category, "request", ts=us(1000), dur=us(300_000)))
    assert diagnosed(tmp_path, document).source.device == "cpu"


def test_kernels_below_a_whole_microsecond_count(tmp_path: Path) -> None:
    """Also the last of a step, which ends its window."""
    steps = [step(0, 0, 90_000), step(1, 100_000, 190_000), op("aten::add_", 5000, 9000)]
    short = [kernel(t + 20_000, t + 20_000, (t + 10_000, t + 12_000)) for t in (0, 20_000, 100_000, 120_000)]
    long = [kernel(t + 30_000, t + 33_000, (t + 11_000, t + 13_000), name="add") for t in (0, 100_000)]
    report = diagnosed(tmp_path, json_of(steps, short + long))
    assert report.closure.ok
    assert [sum(p.events for p in one.partition if p.kind == "busy") for one in report.steps] == [3, 3]
    assert [one.launches and one.launches.count for one in report.steps] == [3, 3]
    assert said(report, "whole microseconds: 4")
    fine = diagnosed(tmp_path, json_of([*steps, op("aten::add_", 5000, 9001)], short + long))
    assert (fine.closure.zero_timestamps, fine.closure.launches_without_kernel) == (4, 4)


def test_without_cpu_ops_nobody_knows_what_the_host_did(tmp_path: Path) -> None:
    device = [kernel(t + 8500, t + 18_625, (t, t + 4250)) for t in range(0, 200_000, 50_500)]
    report = diagnosed(tmp_path, json_of([], device))
    assert report.steps[0].ns(cause="python") == 0
    assert report.steps[0].ns(cause="unknown") > 0
    assert said(report, "no CPU ops")
    assert diagnosed(tmp_path, json_of([op("aten::mm", 0, 4500)], device)).steps[0].ns(cause="python") > 0


@pytest.mark.parametrize("on_gpu", [True, False])
def test_a_step_without_work_is_not_the_reported_one(tmp_path: Path, on_gpu: bool) -> None:
    steps = [step(1, 500, 500_500), step(2, 501_500, 503_500)]
    ops = [op("aten::mm", t, t + 20_000) for t in range(10_500, 300_000, 50_000)]
    device = [kernel(o.start + 15_000, o.start + 45_000, (o.start + 5000, o.start + 9000)) for o in ops]
    report = diagnosed(tmp_path, json_of(steps + ops, device if on_gpu else []))
    assert report.reported_step == "ProfilerStep#1"
    assert len(report.steps) == 2


def test_communication_that_runs_beside_communication_is_not_hidden(tmp_path: Path) -> None:
    """On gloo's threads and on two streams of a device; beside computation it is."""
    ranges = [note("gloo:all_reduce", 100_500, 900_500, 2), note("gloo:all_reduce", 110_500, 890_500, 3)]
    report = diagnosed(tmp_path, json_of([step(0, 500, 1_000_500), op("aten::empty", 2500, 4500), *ranges]))
    assert report.communication is not None
    assert (report.communication.exposed_ns, report.communication.overlapped_ns) == (800_000, 0)
    busy = op("aten::mm", 100_500, 300_500)
    hidden = diagnosed(tmp_path, json_of([step(0, 500, 1_000_500), busy, *ranges])).communication
    assert hidden is not None
    assert hidden.overlapped_ns == 200_000


def test_a_device_listed_under_another_number_has_its_roofs(tmp_path: Path) -> None:
    """ROCR_VISIBLE_DEVICES renumbers; two different devices leave open which it is."""
    mm = op("aten::mm", 10_000, 30_000)
    document = json_of([step(0, 0, 90_000), mm], [kernel(30_500, 60_500, (15_000, 19_000), device=5)])
    listed: dict[str, Any] = {"id": 0, "name": "AMD Instinct MI300X", "totalGlobalMem": 206158430208, "numSms": 304}
    document["deviceProperties"] = [listed]
    report = diagnosed(tmp_path, document)
    assert report.source.device_name == "AMD Instinct MI300X"
    assert report.ceilings is not None
    document["deviceProperties"].append(listed | {"id": 1, "name": "AMD Instinct MI250X"})
    assert diagnosed(tmp_path, document).ceilings is None


def test_parallel_branches_of_a_graph_are_no_programmatic_launches(tmp_path: Path) -> None:
    branches = [
        kernel(20_000 + 10_000 * i, 38_000 + 10_000 * i, correlation=1, graph_node=i + 1, name=f"b{i % 2}")
        for i in range(4)
    ]
    host = [step(0, 0, 90_000), op("aten::mm", 0, 1), call("cudaGraphLaunch", 5000, 9000, correlation=1)]
    report = diagnosed(tmp_path, json_of(host, branches))
    assert said(report, "3 device records overlap the one before on their stream: parallel branches")
    assert not said(report, "programmatic")
    eager = json_of([step(0, 0, 90_000)], [kernel(20_000, 38_000, (1000, 2000)), kernel(30_000, 40_000, (3000, 4000))])
    assert said(diagnosed(tmp_path, eager), "programmatic")
    eager["deviceProperties"][0] |= {"computeMajor": 7, "computeMinor": 0}
    assert said(diagnosed(tmp_path, eager), "nothing on this GPU explains it")


def test_launches_inside_a_capture_are_no_lost_records(tmp_path: Path) -> None:
    def captured(end: list[Any]) -> Document:
        calls = [call("cudaLaunchKernel", 30_000 + i, 30_001 + i, correlation=50 + i) for i in range(3)]
        elsewhere = call("cudaLaunchKernel", 30_000, 30_001, 2, correlation=70)
        begin = call("cudaStreamBeginCapture", 29_000, 29_500, correlation=40)
        host = [step(0, 0, 90_000), op("aten::mm", 0, 9000), begin, *calls, elsewhere, *end]
        return json_of(host, [kernel(10_000, 20_000, (1000, 2000))])

    last = call("cudaLaunchKernel", 50_000, 50_001, correlation=60)
    report = diagnosed(tmp_path, captured([call("cudaStreamEndCapture", 40_000, 41_000, correlation=41), last]))
    assert report.closure.launches_without_kernel == 2  # after the capture, and on another thread
    assert said(report, "3 launch calls were captured")


def test_a_range_that_outlasts_its_op_gives_its_role_to_nothing(tmp_path: Path) -> None:
    asked = op("c10d::alltoall_base_", 5500, 25_500)
    crossing = note("FSDP::all_to_all", 10_500, 910_500)
    work = [op("aten::addmm", t, t + 70_000) for t in range(40_500, 800_000, 80_000)]
    reported = diagnosed(tmp_path, json_of([step(0, 500, 1_000_500), asked, crossing, *work])).step()
    assert reported is not None
    assert reported.ns(kind="busy", role="comm") == 20_000
    around = note("FSDP::all_to_all", 5000, 910_500)
    reported = diagnosed(tmp_path, json_of([step(0, 500, 1_000_500), asked, around, *work])).step()
    assert reported is not None
    assert reported.ns(kind="busy", role="comm") == 20_000 + 70_000 * len(work)


def rank(pid: int, late: int, device: int, first: int, slow: int = 0) -> list[Document]:
    document = json_of(
        [step(0, late, late + 900_000), *(op("aten::mm", late + t, late + t + 20_000) for t in (0, 80_000))],
        [
            kernel(
                late + t + 15_000, late + t + 45_000 + slow, (late + t + 5000, late + t + 9000), correlation=first + t
            )
            for t in (0, 80_000)
        ],
    )
    for one in document["traceEvents"]:
        if one["cat"] == "kernel":
            one["args"]["device"] = one["pid"] = device
        else:
            one["pid"] = pid
    events: list[Document] = document["traceEvents"]
    return events


@pytest.mark.parametrize("devices", [(0, 1), (0, 0)])
@pytest.mark.parametrize("first", [1, 500_000])
def test_ranks_merged_into_one_file_are_ranks(tmp_path: Path, devices: tuple[int, int], first: int) -> None:
    """Also where their devices, or their correlation ids, have the same numbers."""
    events = rank(1, 500, devices[0], 1) + rank(2, 20_500, devices[1], first, slow=5000)
    report = diagnosed(tmp_path, {"traceEvents": events})
    assert (report.source.ranks, len(report.ranks or [])) == (2, 2)
    reported = report.step()
    assert reported is not None
    assert (report.rank_summary and report.rank_summary.slowest, reported.ns(kind="busy")) == (1, 70_000)
    assert report.closure.ok
    assert said(report, "2 ranks in one file")


def test_a_loader_process_is_no_rank(tmp_path: Path) -> None:
    loader = event("cpu_op", "aten::stack", pid=7, ts=us(1000), dur=us(3000))
    report = diagnosed(tmp_path, {"traceEvents": [*rank(1, 500, 0, 1), loader]})
    assert (report.source.ranks, report.ranks) == (1, None)


def write_sqlite(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INT)")


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("t.json", "{}")


def write_tar(path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("t.json"))


def write_pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")


CHAKRA = {"schema": "1.1.1-chakra.0.0.4", "pid": 5, "time": "x", "start_ts": 1, "nodes": []}


@pytest.mark.parametrize(
    ("name", "write", "what", "hint"),
    [
        ("a.sqlite", write_sqlite, "SQLite", "export_chrome_trace"),
        ("a.nsys-rep", lambda p: p.write_bytes(b"\x00\x01binary"), "Nsight", "export_chrome_trace"),
        ("a.zip", write_zip, "zip archive", "unzip"),
        ("a.tar.gz", write_tar, "tar archive", "unpack"),
        ("a.json.gz", write_pointer, "Git LFS pointer", "git lfs pull"),
        ("a.json", write_pointer, "Git LFS pointer", "git lfs pull"),
        ("a.json", lambda p: p.write_text(json.dumps(CHAKRA)), "Chakra", "Kineto trace of the same run"),
        ("a.et", lambda p: p.write_bytes(b"\x0a\x07"), "Chakra", "Kineto trace of the same run"),
    ],
)
def test_other_formats_are_named(tmp_path: Path, name: str, write: Any, what: str, hint: str) -> None:
    path = tmp_path / name
    write(path)
    with pytest.raises(InputError, match=what) as caught:
        loraprof.diagnose(path)
    assert hint in (caught.value.hint or "")
    assert run(["report", str(path)]) == 5


def test_nothing_is_captured_without_a_capture() -> None:
    assert analyse(read(text_of(json_of([call("cudaLaunchKernel", 1, 2, correlation=1)])))).links.captured == 0
    assert read_events(event("cpu_op")).unread == ()
