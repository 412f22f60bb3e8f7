"""Which GPU is this, and what does its data sheet promise? ``profiles/gpus/*.toml`` -> GpuSpec.

A name must match exactly one file; what contradicts the match (memory size, power limit, a slice of the GPU)
refuses it, with the reason. A wrong peak is worse than none.
"""

import re
from functools import cache
from pathlib import Path

import msgspec

from loraprof.errors import InputError
from loraprof.model.gpu import GpuSpec
from loraprof.store.profiles import profiles_dir, read_profile

# Plausible values; a TFLOP/s figure written without e12, or MHz written as GHz, falls outside.
RANGES = {
    "sms": (1, 1000),
    "flops_per_clock_sm": (64, 100_000),
    "tensor_mhz": (300, 4000),
    "max_sm_mhz": (300, 4000),
    "dram_bytes_per_s": (1e10, 1e14),
    "l2_bytes": (10**5, 10**10),
} | {f"{d}_flops_per_s": (1e12, 1e17) for d in ("bf16", "fp16", "tf32", "fp32", "fp8")}


def load_gpu(path: Path) -> GpuSpec:
    """One file. Raises InputError naming the file and the key for unknown keys, types and units."""
    spec = read_profile(path, GpuSpec)
    for key, (low, high) in RANGES.items():
        value = getattr(spec, key)
        if value is not None and not low <= value <= high:
            raise InputError(f"{path}: $.{key} = {value} is not within {low:g} and {high:g}", "check the unit")
    for capacity in spec.memory_bytes:
        if not 1e9 <= capacity <= 1e13:
            raise InputError(f"{path}: $.memory_bytes has {capacity}", "write bytes")
    tensor = spec.bf16_flops_per_s or spec.fp16_flops_per_s
    clocked = spec.sms * spec.flops_per_clock_sm * spec.tensor_mhz * 1e6
    if tensor is not None and abs(tensor / clocked - 1) > 0.05:
        key = "bf16_flops_per_s" if spec.bf16_flops_per_s else "fp16_flops_per_s"
        message = f"{path}: $.{key} = {tensor:g}, but sms x flops_per_clock_sm x tensor_mhz is {clocked:g}"
        raise InputError(message, "write the dense figure, with FP32 accumulation")
    try:
        re.compile(spec.match)
    except re.error as error:
        raise InputError(f"{path}: $.match: {error}") from error
    return spec


def gpu_files() -> dict[str, Path]:
    """The shipped data sheets by file name without its suffix."""
    return {path.stem: path for path in sorted((profiles_dir() / "gpus").glob("*.toml"))}


@cache
def load_gpus(folder: Path | None = None) -> tuple[GpuSpec, ...]:
    """All specs in file-name order. Raises InputError for the first bad file or a name used twice."""
    paths = sorted((folder or profiles_dir() / "gpus").glob("*.toml"))
    specs = tuple(load_gpu(path) for path in paths)
    for i, spec in enumerate(specs):
        if spec.name in {s.name for s in specs[:i]}:
            raise InputError(f"{paths[i]}: $.name = {spec.name!r} is used by another file")
    return specs


def resolve_gpu(
    name: str,
    memory_bytes: int | None = None,
    sms: int | None = None,
    power_limit_w: float | None = None,
    specs: tuple[GpuSpec, ...] | None = None,
) -> tuple[GpuSpec | None, str | None]:
    """The spec for the name a driver reports, or ``None`` and why it is refused.

    A slice (MIG) keeps the full GPU's name: its tensor peaks are scaled by the SMs it has, its bandwidth, L2
    and capacity are unknown.
    """
    found = [s for s in (load_gpus() if specs is None else specs) if re.search(s.match, without_slice(name))]
    if not found:
        return None, f"no data sheet for a GPU named {name!r}"
    if len(found) > 1:
        return None, f"{name!r} is ambiguous: " + ", ".join(s.name for s in found)
    spec = found[0]
    if name.endswith("H200") and power_limit_w is not None and 400 <= power_limit_w <= 600:
        return None, f"{name!r} with a limit of {power_limit_w:g} W may be an H200 NVL"
    if without_slice(name) != name or (sms is not None and sms < spec.sms):
        if sms is None or sms >= spec.sms:
            return None, f"{name!r} is a slice of unknown size"
        return _sliced(spec, sms), None
    if sms is not None and sms != spec.sms:
        return None, f"{name!r} has {sms} SMs, the data sheet says {spec.sms}"
    if memory_bytes is not None and not any(0.85 < memory_bytes / c < 1.15 for c in spec.memory_bytes):
        return None, f"{name!r} has {memory_bytes} B of memory, which is not a {spec.name}"
    return spec, None


def match_gpu(
    name: str, memory_bytes: int | None = None, sms: int | None = None, power_limit_w: float | None = None
) -> GpuSpec | None:
    """``resolve_gpu`` without its reason."""
    return resolve_gpu(name, memory_bytes, sms, power_limit_w)[0]


def without_slice(name: str) -> str:
    return re.sub(r" MIG .*$", "", name)


def _sliced(spec: GpuSpec, sms: int) -> GpuSpec:
    rates = [f"{d}_flops_per_s" for d in ("bf16", "fp16", "tf32", "fp32", "fp8")]
    scaled = {k: getattr(spec, k) * sms / spec.sms for k in rates if getattr(spec, k) is not None}
    note = f"{sms} of {spec.sms} SMs; bandwidth of the slice unknown"
    return msgspec.structs.replace(
        spec, sms=sms, dram_bytes_per_s=None, l2_bytes=None, memory_bytes=(), note=note, **scaled
    )
