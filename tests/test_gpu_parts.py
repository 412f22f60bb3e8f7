"""Parts of the GPU suite that can be held against something without a GPU: words, crossings, ncu's counters."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import reference
import torch
from provoke import CALIBRATION, timing
from recorded import recorded
from synthetic.presets import preset
from synthetic.simulate import simulate

from benchmarks.gpu import counters, models
from benchmarks.gpu.counters import Launched, matched, parsed
from benchmarks.gpu.linear import crossing
from benchmarks.gpu.models import CASES, timed_arms
from benchmarks.gpu.recorded import recorded as figures
from benchmarks.gpu.results import Layer, NotHere, Options
from benchmarks.gpu.shell import CommandError, loraprof
from benchmarks.gpu.workload import spec_of, words_of
from loraprof import diagnose
from loraprof.analysis.analyse import analyse
from loraprof.cli.workload_options import OPTIONS
from loraprof.comparison.ratios import Failure, Timed
from loraprof.errors import MeasurementError
from loraprof.model.recording import DeviceInfo
from loraprof.model.report import NvmlReport
from loraprof.runs.compare.job import Job, Outcome
from loraprof.store.kineto.read import read_trace
from loraprof.store.specs import load_workload


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(device="cpu", size="small", folder=str(tmp_path))


@pytest.mark.parametrize("size", ["small", "full"])
@pytest.mark.parametrize("case", CASES)
def test_words_give_the_same_workload(case: str, size: Any) -> None:
    workload, changes, _ = CASES[case]
    spec = spec_of(Options(device="cpu", size=size, folder="."), workload, changes)
    words = words_of(spec)
    given = dict(zip(words[:-1:2], words[1:-1:2], strict=True))
    assert all(key.removeprefix("--") in OPTIONS for key in given)
    pairs = dict(word.split("=", 1) for flag, word in pairwise(words) if flag == "--set")
    overrides = {k.removeprefix("--"): v for k, v in given.items() if k != "--set"} | pairs
    assert load_workload(words[-1], overrides) == spec


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ({1024: 2.0, 4096: 0.5}, 2048.0),
        ({1024: 1.0, 4096: 0.5}, 1024.0),
        ({1024: 2.0, 4096: 1.5}, None),
        ({1024: 0.5, 4096: 0.4}, None),
    ],
)
def test_where_lora_begins_to_gain(ratios: dict[int, float], expected: float | None) -> None:
    layers = [Layer(hidden=d, tokens=1, full_ns=1000, variants={"V1": round(1000 * x)}) for d, x in ratios.items()]
    assert crossing(layers, "V1") == (expected if expected is None else pytest.approx(expected))


NCU = """==PROF== Connected to process 4242
"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC","dram__bytes_read.sum","dram__bytes_write.sum"
"","","","","","","","","","","","byte","byte"
"0","4242","python","host","gemm, tiled","1","7","(128, 1, 1)","(32, 2, 1)","0","9.0","1,048,576","512"
"1","4242","python","host","add","1","7","(128, 1, 1)","(64, 1, 1)","0","9.0","100","20.0"
"""  # noqa: E501


def test_ncu_is_read() -> None:
    assert parsed(NCU.splitlines()) == [Launched("gemm, tiled", 64, 128, 1_049_088), Launched("add", 64, 128, 120)]
    assert parsed(["==ERROR== no kernels were profiled"]) == []


def test_counted_bytes_meet_their_kernels(tmp_path: Path) -> None:
    run = simulate(*preset("bandwidth-v1"))
    place = run.save(tmp_path)
    report = analyse(read_trace(place / "rank0.trace.json.gz"), run.recording)
    assert report.reported is not None
    step = report.ledgers[report.reported].window
    events = [e for e in run.document["traceEvents"] if e.get("cat") == "kernel"]
    mine = [e for e in events if step.start <= int(e["ts"] * 1000) < step.end]
    mine.sort(key=lambda e: e["args"]["correlation"])
    launched = [Launched(e["name"], 64, 128, 1000 + i) for i, e in enumerate(mine)]
    launched[5] = Launched("another", 1, 1, 0)
    found = matched(place, launched)
    assert (found.matched, found.of) == (len(mine) - 1, len(mine))
    longest = sorted((e for i, e in enumerate(mine) if i != 5), key=lambda e: -e["dur"])[:20]
    assert [k.ns for k in found.kernels] == [int(e["dur"] * 1000) for e in longest]
    for kernel in found.kernels:
        assert mine[kernel.dram_bytes - 1000]["name"] == kernel.name
        assert kernel.min_bytes or "gemm" not in kernel.name
    with pytest.raises(RuntimeError, match=f"has {len(mine)} kernels, ncu counted {len(mine) - 1}"):
        matched(place, launched[1:])


@pytest.mark.parametrize(
    ("says", "error", "reason"),
    [
        ("==ERROR== ERR_NVGPUCTRPERM - no permission", NotHere, "administrators"),
        ("==ERROR== LibraryNotLoaded", RuntimeError, "LibraryNotLoaded"),
        ("", RuntimeError, "ncu counted nothing: code 9"),
    ],
)
def test_what_ncu_refuses_is_told(
    options: Options, tmp_path: Path, says: str, error: type[Exception], reason: str
) -> None:
    (tmp_path / "raw").mkdir()
    ncu = tmp_path / "ncu"
    ncu.write_text(f'#!/bin/sh\necho "{says}" >&2\nexit 9\n')
    ncu.chmod(0o755)
    with pytest.raises(error, match=reason):
        counters.counted(str(ncu), options)


def answers(job: Job) -> Outcome:
    """Processes of arms: the full one does not fit."""
    if job.arm == "full":
        return Outcome(status="oom", reason="CUDA out of memory", exit_code=4)
    return Outcome(times_ns=[{"lora": 100, "frozen": 80}[job.arm]] * job.steps, clock="cuda_event")


@pytest.mark.parametrize("where", ["while built", "in a step"])
def test_arms_that_do_not_fit_side_by_side_alternate(
    where: str, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(options, "tinyllama-1.1b", {})

    def full(*given: Any) -> Any:
        if where == "while built":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        failed = {"full": Failure("CUDA out of memory")}
        return Timed(reference="lora", series={}, twin=None, clock="", stopped="", failed=failed), {}

    monkeypatch.setattr(models, "_side_by_side", full)
    monkeypatch.setattr(models, "run_job", answers)
    timed, reasons = timed_arms(spec, ("full", "frozen", "lora"), 10**9)
    assert {name: set(series.samples()) for name, series in timed.series.items()} == {"frozen": {80}, "lora": {100}}
    assert reasons == {"full": "CUDA out of memory"}


def test_an_arm_that_refuses_the_workload_is_left_out(options: Options) -> None:
    spec = spec_of(options, "tinyllama-1.1b", {"dropout": "0.1"})
    timed, reasons = timed_arms(spec, ("lora", "lora-fused"), 10**8)
    assert list(timed.series) == ["lora"]
    assert list(reasons) == ["lora-fused"]
    assert "dropout" in reasons["lora-fused"]
    with pytest.raises(MeasurementError, match="lora-fused: "):
        timed_arms(spec, ("lora-fused",), 10**8)


def test_a_bug_in_an_arm_is_no_lack_of_memory(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(models, "_side_by_side", broken)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        timed_arms(spec_of(options, "tinyllama-1.1b", {}), ("lora",), 10**8)


@pytest.mark.slow
def test_a_recordings_figures_and_its_copy_to_publish(options: Options, tmp_path: Path) -> None:
    place = recorded("tiny-llama-cpu")
    report = diagnose(place)
    found = figures(place, report, options)
    assert report.adapter is not None
    assert found.adapter_busy_ns == report.adapter.busy_ns
    assert found.flops == sum(k.flops or 0 for k in report.kernels)
    assert (found.closure_ok, found.exact) == (True, True)
    assert [f.id for f in found.findings] == [f.id for f in report.findings]
    assert (found.gpu, found.tensor_model, found.dram_model) == (None, None, None)
    assert found.recording == f"recordings/{place.name}"
    copy = tmp_path / found.recording
    assert reference.private_words(copy) == []
    assert reference.compressed_bytes(copy) <= found.recording_bytes + 1000
    assert diagnose(copy).steps == report.steps


def test_activity_is_modelled_at_the_sampled_clock(options: Options, tmp_path: Path) -> None:
    run = simulate(*preset("bandwidth-v1"))
    device = DeviceInfo(kind="cuda", name="NVIDIA H100 80GB HBM3", sms=132, memory_bytes=85_520_809_984)
    own = msgspec.structs.replace(run.recording, device=device, timing=timing(run), calibration=CALIBRATION)
    (tmp_path / "made").mkdir()
    place = run.save(tmp_path / "made")
    (place / "recording.json").write_bytes(msgspec.json.encode(own))
    report = diagnose(place)
    report = msgspec.structs.replace(report, nvml=NvmlReport(samples=9, sm_clock_mhz=1830.0 / 2))
    found = figures(place, report, options)
    assert found.gpu == "h100-sxm"
    seconds = (found.step_ns or 0) / 1e9
    assert found.tensor_model == pytest.approx(found.flops / seconds / (989.4e12 / 2), rel=0.01)
    assert found.dram_model == pytest.approx(found.min_bytes / seconds / 3.35e12, rel=0.01)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_command_without_a_result_says_why() -> None:
    with pytest.raises(CommandError, match="selftest ended with code 4: loraprof: no CUDA device"):
        loraprof("selftest", "--device", "cuda", "--format", "json", expect=(0, 3, 4))
