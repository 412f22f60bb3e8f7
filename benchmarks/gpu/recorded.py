"""What a recording says, in the figures of the summary; and a small copy of it that may be published."""

import gzip
import shutil
from pathlib import Path
from typing import Final

from benchmarks.gpu.results import Gain, Options, Recorded
from benchmarks.gpu.shell import loraprof
from loraprof.model.gpu import GpuSpec
from loraprof.model.recording import DeviceInfo
from loraprof.model.report import Report
from loraprof.store.gpus import load_gpu, resolve_gpu
from loraprof.store.profiles import profiles_dir
from loraprof.store.recordings import load_source

PUBLISHED_BYTES: Final = 4_000_000


def recorded(place: Path, report: Report, options: Options) -> Recorded:
    """The figures of a recording, which is also copied without paths and names where it is small enough."""
    step, own = report.step(), load_source(place).recording
    assert step is not None  # profile refuses a recording without steps
    assert own is not None
    unprofiled, adapter = report.timing.unprofiled, report.adapter
    busy, idle_hook = step.ns(kind="busy"), own.overhead_ns.get("boundary_hook")
    l2 = [kernel.l2_bytes for kernel in report.kernels if kernel.l2_bytes is not None]
    flops = sum(kernel.flops or 0 for kernel in report.kernels)
    min_bytes = sum(kernel.min_bytes or 0 for kernel in report.kernels)
    spec = _spec(own.device)
    tensor, dram = _activity(report, spec, flops, min_bytes)
    copy, nbytes = _published(place, options)
    return Recorded(
        step_ns=unprofiled.median_ns if unprofiled else None,
        inflation=report.timing.inflation,
        predicted_full_ns=adapter.predicted_full_ns if adapter else None,
        predicted_frozen_ns=adapter.predicted_frozen_ns if adapter else None,
        adapter_busy_ns=adapter.busy_ns if adapter else None,
        adapter_idle_ns=adapter.idle_ns if adapter else None,
        findings=[
            Gain(id=f.id, severity=f.severity)
            if f.gain is None
            else Gain(
                id=f.id, severity=f.severity, ns=f.gain.ns, speedup=f.gain.speedup, low=f.gain.low, high=f.gain.high
            )
            for f in report.findings
        ],
        closure_ok=report.closure.ok,
        closure_notes=report.closure.notes,
        attributed=1 - report.closure.unattributed_ns / busy if busy else None,
        exact=all(sum(part.ns for part in one.partition) == one.wall_ns for one in report.steps),
        hook_share=idle_hook / unprofiled.median_ns if unprofiled and idle_hook is not None else None,
        flops=flops,
        min_bytes=min_bytes,
        l2_bytes=sum(l2) if l2 else None,
        tensor_model=tensor,
        dram_model=dram,
        nvml=report.nvml,
        shows=report.verdict.sentence,
        gpu=_file(spec) if spec else None,
        recording=copy,
        recording_bytes=nbytes,
    )


def _spec(device: DeviceInfo) -> GpuSpec | None:
    return resolve_gpu(device.name, device.memory_bytes, device.sms)[0] if device.kind == "cuda" else None


def _file(spec: GpuSpec) -> str:
    """The name of its file, which is that of its folder of recordings."""
    folder = profiles_dir() / "gpus"
    return next(path.stem for path in sorted(folder.glob("*.toml")) if load_gpu(path).name == spec.name)


def _activity(report: Report, spec: GpuSpec | None, flops: int, min_bytes: int) -> tuple[float | None, float | None]:
    """What the model says the tensor units and the memory do of all they could, over the unprofiled step."""
    if spec is None or report.timing.unprofiled is None:
        return None, None
    seconds = report.timing.unprofiled.median_ns / 1e9
    peak = spec.peak("bfloat16", report.nvml.sm_clock_mhz if report.nvml else None)
    dram = spec.dram_bytes_per_s
    return flops / seconds / peak if peak else None, min_bytes / seconds / dram if dram else None


def _published(place: Path, options: Options) -> tuple[str | None, int]:
    """Path of the copy within the folder, ``None`` where it is too large, and its compressed bytes."""
    target = options.out / "recordings" / place.name
    target.parent.mkdir(exist_ok=True)
    loraprof("export", str(place), "--to", "recording", "-o", str(target), "--redact", "--force", "--quiet")
    nbytes = sum(_compressed(path) for path in target.rglob("*") if path.is_file())
    if nbytes > PUBLISHED_BYTES:
        shutil.rmtree(target)
        return None, nbytes
    return str(target.relative_to(options.out)), nbytes


def _compressed(path: Path) -> int:
    """Bytes of the file, as small as gzip makes it; a file that is gzip already is packed anew."""
    data = path.read_bytes()
    if path.suffix != ".gz":
        return len(gzip.compress(data, 9))
    packed = gzip.compress(gzip.decompress(data), 9, mtime=0)
    path.write_bytes(packed)
    return len(packed)
