"""Is this device's calibration known already? One JSON per device under the user's cache directory.

A file counts only for the same device (GPU UUID; on CPU the model name and the number of threads), driver, power
limit and torch version. A file that does not match, or cannot be read, is measured anew and replaced; shapes it
lacks are measured and added. A calibration that contradicts itself is not kept. Files are written to a temporary name
and renamed, so a reader never sees half a one. No trouble with the cache ends a capture: it becomes a note.
"""

import hashlib
import os
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Final

import msgspec
import torch

from loraprof.analysis.limits.rates import unsteady
from loraprof.capture.device.calibrate import Shape, best_flops_per_s, calibrate, gemm_rates, measuring
from loraprof.capture.device.kinds import measured
from loraprof.capture.device.profiler_cost import event_cost_ns
from loraprof.capture.nvml.client import probe
from loraprof.errors import UsageError
from loraprof.model.recording import Calibration, DeviceInfo
from loraprof.store.writing import write

SQUARE: Final = 2  # of the device's squares, the one that is measured in another dtype too
BESIDE: Final = 3  # shapes of those asked for
BESIDE_NS: Final = 3e8


class CalibrationKey(msgspec.Struct, frozen=True, kw_only=True):
    """All that a calibration depends on. ``power_limit_mw`` is ``None`` where NVML does not tell."""

    device: str
    driver: str | None
    power_limit_mw: int | None
    torch: str
    format: int = 1


class Cached(msgspec.Struct, frozen=True, kw_only=True):
    """The cache file."""

    key: CalibrationKey
    calibration: Calibration


def cached_calibration(
    device: torch.device,
    shapes: Sequence[Shape] = (),
    dtype: str = "float32",
    budget_s: float = 5.0,
    *,
    fresh: bool = False,
    event_cost: bool = True,
    beside: str | None = None,
    directory: Path | None = None,
) -> tuple[Calibration, list[str]]:
    """The calibration of ``device`` with GEMMs of ``shapes`` in ``dtype``, and notes about what went otherwise.

    ``beside``: another dtype, in which one of the squares and the largest of the shapes are measured too, to tell what
    changing to it would give.
    ``fresh`` measures whatever the cache says. ``directory`` replaces the user's cache directory. Raises
    MeasurementError for a device that cannot be measured, UsageError for an unknown dtype.
    """
    key = calibration_key(measured(device).info())
    path = _place(key.device, directory)
    notes: list[str] = []
    known = None if fresh else _read(path, key, notes)
    if known is None or not any(one.dtype == dtype for one in known.gemm):
        found = calibrate(device, shapes, dtype, budget_s, event_cost=event_cost and known is None)
        found = found if known is None else _merged(known, found)
    else:
        found = _merged(known, _missing_gemms(known, device, shapes, dtype, budget_s))
    if event_cost and found.event_ns is None:
        found = msgspec.structs.replace(found, event_ns=event_cost_ns(device))
    if beside is not None:
        found = _with_other_dtype(found, device, shapes, beside, measured(device).squares(budget_s)[SQUARE])
    doubt = unsteady(found)
    if doubt is not None:
        notes.append(f"the calibration contradicts itself, the machine was busy: {doubt}; it is not cached")
    elif found != known:
        _write(path, Cached(key=key, calibration=found), notes)
    absent = _absent(found, shapes, dtype)
    if absent:
        listed = ", ".join("x".join(map(str, shape)) for shape in absent)
        notes.append(f"GEMM shapes (m x n x k) too large for the calibration's {budget_s:g} s: {listed}")
    return found, notes


def calibration_key(info: DeviceInfo) -> CalibrationKey:
    """The key of a device; where it has a UUID, NVML is asked for the power limit, in another process."""
    limit = None
    if info.uuid is not None:
        nvml, _ = probe(info.uuid)
        limit = nvml.power_limit_mw if nvml is not None else None
    return CalibrationKey(device=_name(info), driver=info.driver, power_limit_mw=limit, torch=str(torch.__version__))


def is_cached(info: DeviceInfo) -> bool:
    """Whether there is a file for the device; whether that counts, only reading it tells."""
    return _place(_name(info)).exists()


def _name(info: DeviceInfo) -> str:
    return info.uuid or f"{info.name}, {info.cpu_threads or info.index} {'threads' if info.cpu_threads else ''}".strip()


def _place(device: str, directory: Path | None = None) -> Path:
    return (directory or cache_directory()) / f"calibration-{_digest(device)}.json"


def cache_directory() -> Path:
    """``$XDG_CACHE_HOME/loraprof``, else ``~/.cache/loraprof``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "loraprof"


def _missing_gemms(
    known: Calibration, device: torch.device, shapes: Sequence[Shape], dtype: str, budget_s: float
) -> Calibration:
    wanted = _absent(known, shapes, dtype)
    rate = best_flops_per_s([one for one in known.gemm if one.dtype == dtype])
    with measuring(device):
        gemm = gemm_rates(device, wanted, dtype, budget_s * 1e9, rate)
    return msgspec.structs.replace(known, gemm=gemm)


def _with_other_dtype(
    known: Calibration, device: torch.device, shapes: Sequence[Shape], dtype: str, square: int
) -> Calibration:
    """With the largest of ``shapes`` in another ``dtype``."""
    largest = sorted(dict.fromkeys(shapes), key=prod, reverse=True)[:BESIDE]
    wanted = _absent(known, [(square, square, square), *largest], dtype)
    with measuring(device):
        more = gemm_rates(device, wanted, dtype, BESIDE_NS)
    return msgspec.structs.replace(known, gemm=[*known.gemm, *more]) if more else known


def _absent(known: Calibration, shapes: Sequence[Shape], dtype: str) -> list[Shape]:
    have = {(one.m, one.n, one.k) for one in known.gemm if one.dtype == dtype}
    return [shape for shape in dict.fromkeys(shapes) if shape not in have]


def _merged(known: Calibration, new: Calibration) -> Calibration:
    """``known`` with the GEMMs of ``new`` behind its own; everything else is known already."""
    return msgspec.structs.replace(known, gemm=[*known.gemm, *(one for one in new.gemm if one not in known.gemm)])


def _read(path: Path, key: CalibrationKey, notes: list[str]) -> Calibration | None:
    try:
        cached = msgspec.json.decode(path.read_bytes(), type=Cached)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        notes.append(f"the calibration cache {path} cannot be read ({error}): measured anew")
        return None
    for name in key.__struct_fields__:
        old, new = getattr(cached.key, name), getattr(key, name)
        if old != new:
            notes.append(f"the cached calibration was measured with {name} {old}, now {new}: measured anew")
            return None
    return cached.calibration


def _write(path: Path, cached: Cached, notes: list[str]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, msgspec.json.format(msgspec.json.encode(cached), indent=1))
    except (OSError, UsageError) as error:
        notes.append(f"the calibration was not cached: {error}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
