"""What bounds this device: its own calibration, else the data sheet of the GPU that the input names, else nothing."""

from collections.abc import Sequence

from loraprof.analysis.analyse import Analysis
from loraprof.analysis.limits.precision import compute_dtype
from loraprof.analysis.limits.roofline import Ceiling, calibrated, data_sheet
from loraprof.analysis.work.rule import Work
from loraprof.model.gpu import GpuSpec
from loraprof.model.recording import Nvml, Recording
from loraprof.model.report import Ceilings
from loraprof.model.trace import DeviceFacts
from loraprof.store.gpus import resolve_gpu


def ceiling_of(analysis: Analysis, recording: Recording | None, nvml: Nvml | None) -> tuple[Ceiling | None, str | None]:
    """The ceiling, or ``None`` and why there is none."""
    absent = "the accelerator is not known" if analysis.unread else "a CPU's roofs are calibrated ones"
    spec, reason = _spec(analysis, recording, nvml) if analysis.on_gpu else (None, absent)
    if recording is not None and recording.calibration is not None:
        device = recording.device
        found = calibrated(recording.calibration, device.sms, device.l2_bytes, analysis.on_gpu, spec)
        if found is not None:
            return found, None
    if spec is None:
        return None, f"no roofs: {reason}"
    clocks = [s.sm_clock_mhz for s in nvml.samples if s.sm_clock_mhz is not None] if nvml else []
    cache = recording.device.l2_bytes if recording else None
    return data_sheet(spec, sum(clocks) / len(clocks) if clocks else None, cache), None


def _spec(analysis: Analysis, recording: Recording | None, nvml: Nvml | None) -> tuple[GpuSpec | None, str | None]:
    limit = nvml.power_limit_mw / 1000 if nvml and nvml.power_limit_mw else None
    if recording is not None:
        device = recording.device
        return resolve_gpu(device.name, device.memory_bytes, device.sms, limit)
    facts = main_gpu(analysis)
    if facts is None or not facts.name:
        return None, "the trace does not name its GPU"
    return resolve_gpu(facts.name, facts.memory_bytes, facts.sms, limit)


def main_gpu(analysis: Analysis) -> DeviceFacts | None:
    """The device whose steps are reported; where all that are listed are alike, one listed under another number.

    A process that sees some of a machine's devices numbers them from 0, and its records may keep the machine's numbers.
    """
    gpus = analysis.trace.gpus
    if analysis.work is not None and len(analysis.work.rows):
        index = int(analysis.trace.device.device[analysis.work.rows[0]])
        if (listed := next((g for g in gpus if g.index == index), None)) is not None:
            return listed
    alike = len({(g.name, g.memory_bytes, g.sms) for g in gpus}) == 1
    return gpus[0] if alike else None


def ceilings(
    analysis: Analysis, recording: Recording | None, ceiling: Ceiling | None, works: Sequence[Work | None] = ()
) -> Ceilings | None:
    """The ceilings as reported; launch costs only where they were calibrated, matrix rates of the step's dtypes."""
    if ceiling is None:
        return None
    calibration = recording.calibration if recording else None
    launch = calibration if analysis.on_gpu else None
    peaks = ceiling.flops_per_s
    rate = peaks.get(compute_dtype(recording)) if recording and calibration else None
    used = {w.dtype for w in works if w is not None and w.flops}
    return Ceilings(
        gemm_flops_per_s=rate or peaks.get("bfloat16") or peaks.get("float16") or peaks.get("float32"),
        copy_bytes_per_s=ceiling.bytes_per_s,
        launch_floor_ns=launch.launch_floor_ns if launch else None,
        turnaround_ns=launch.turnaround_ns if launch else None,
        basis=ceiling.basis,
        flops_per_s={dtype: rate for dtype, rate in sorted(peaks.items()) if dtype in used} or None,
    )
