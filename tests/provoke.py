"""Findings of a recording by id, and small changes to recordings and traces that provoke one or nearly do."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import msgspec
from recorded import profiled
from said import say_more, say_report
from synthetic.faults import events, on_gpu, without
from synthetic.lora import Shape, program
from synthetic.machine import Hardware
from synthetic.presets import preset
from synthetic.program import Module, Op, Program
from synthetic.simulate import Synthetic, simulate

from loraprof.model.finding import Finding
from loraprof.model.recording import (
    Calibration,
    CopyRate,
    DeviceInfo,
    Environment,
    GemmRate,
    Nvml,
    Recording,
    Timing,
    Workload,
)
from loraprof.model.report import Report
from loraprof.report.export.job import Job
from loraprof.store.recordings import load_source

change = msgspec.structs.replace
CALIBRATION = Calibration(
    gemm=[GemmRate(m=4096, n=4096, k=4096, dtype="bfloat16", ns=343_597)],  # 400 TFLOP/s
    copy=[CopyRate(bytes=2_000_000_000, ns=1_000_000)],  # 2 TB/s
    launch_floor_ns=6000,
    turnaround_ns=1000,
)


def found(path: Path) -> dict[str, Finding]:
    job = Job(partial(load_source, path))
    report = job.report
    say_report(report)
    say_more(job.diagnosis)
    for finding in report.findings:
        _sound(finding)
    if path.is_file() and report.step() is not None:
        job = Job(partial(load_source, _with_timing(path, report)))
        say_report(job.report)
        say_more(job.diagnosis)
    return {f.id: f for f in report.findings}


def _with_timing(trace: Path, report: Report) -> Path:
    """A trace alone as part of a recording: without the profiler, its steps take about 0.8 of their time."""
    step, kind = report.step(), report.source.device or "cuda"
    assert step is not None
    place = Path(mkdtemp(prefix="loraprof-")) / "timed.loraprof"
    place.mkdir()
    shutil.copy(trace, place / f"rank0.trace.json{'.gz' if trace.suffix == '.gz' else ''}")
    recording = Recording(
        created="2026-01-01T00:00:00Z",
        environment=Environment(loraprof="0", python="3", torch="2.9.1", platform="Linux"),
        device=DeviceInfo(kind=kind, name="a device"),
        workload=Workload(name="a script", kind="script", argv=["train.py"], micro_batches=2),
        timing=Timing(
            samples_ns=[max(step.wall_ns * n // 100, 1) for n in (78, 79, 80, 80, 81, 84, 85)], dropped=3, clock="x"
        ),
        calibration=change(CALIBRATION, op_ns=900),
    )
    (place / "recording.json").write_bytes(msgspec.json.encode(recording))
    return place


def _sound(finding: Finding) -> None:
    """Whatever was found: a share is one, a ratio is no product, and a gain lies in its interval."""
    for one in finding.evidence:
        if isinstance(one.value, int | float):
            most = {"share": 1.0 + 1e-9, "ratio": 1e4, "FLOP/s": 1e16, "B/s": 1e14, "ns": 1e11}.get(one.unit, 1e15)
            assert 0 <= one.value <= most, (finding.id, one)
    if finding.gain:
        assert 1 <= finding.gain.low <= finding.gain.speedup <= finding.gain.high, (finding.id, finding.gain)


def advice(finding: Finding) -> str:
    """All its remedies."""
    return "; ".join(remedy.text for remedy in finding.remedies)


def facts(finding: Finding) -> dict[str, Any]:
    return {e.what: e.value for e in finding.evidence}


def made(run: Synthetic, nvml: Nvml | None = None, **changes: Any) -> Path:
    """Writes a simulated run as a recording with a calibration; ``changes`` replace fields of the recording."""
    recording = msgspec.structs.replace(run.recording, **{"calibration": CALIBRATION, "timing": timing(run), **changes})
    place = replace(run, recording=recording).save(Path(mkdtemp(prefix="loraprof-")))
    if nvml is not None:
        (place / "nvml.json").write_bytes(msgspec.json.encode(nvml))
    return place


def on_cpu(run: Synthetic, **changes: Any) -> Path:
    """The host's part of the trace, as of a step on a CPU."""
    gone = [e for e in events(run.document) if on_gpu(e) or e["cat"] == "cuda_runtime"]
    device = msgspec.structs.replace(run.recording.device, kind="cpu", name="CPU", capability=None)
    return made(replace(run, document=without(run.document, *gone)), device=device, **changes)


def timing(run: Synthetic) -> Timing:
    """Unprofiled steps as long as the simulated ones."""
    return Timing(samples_ns=[s.end - s.start for s in run.truth] * 4, dropped=3, clock="cuda_event")


def synthetic(name: str, change: Callable[[Program], Program] | None = None) -> Synthetic:
    """A named preset, its program changed."""
    made, hardware = preset(name)
    return simulate(change(made) if change else made, hardware)


def with_ops(program: Program, change: Callable[[Op], Op]) -> Program:
    """Every op of the forward pass changed, its backward with it."""

    def visit(item: Op | Module) -> Op | Module:
        return replace(item, body=tuple(map(visit, item.body))) if isinstance(item, Module) else change(item)

    root = visit(program.root)
    assert isinstance(root, Module)
    return replace(program, root=root)


def shaped(hardware: Hardware | None = None, **fields: Any) -> Synthetic:
    return simulate(program(Shape(**fields)), hardware)


def workload(recording: Recording, **changes: Any) -> dict[str, Any]:
    """For ``made``: the workload with other facts."""
    return {"workload": msgspec.structs.replace(recording.workload, **changes)}


def toy(what: str) -> Path:
    """A recording of ``scripts/toy.py`` with one peculiarity, made through the command line."""
    return profiled("toy.py", what)
