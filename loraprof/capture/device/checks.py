"""What can be measured here, what cannot, and what would change that? One ``Check`` per ability.

``ok`` is ``True`` (works), ``False`` (does not, see ``remedy``) or ``None`` (not needed here, or cannot be known
without trying). No check changes a setting or starts a profiler session.
"""

import importlib.metadata
import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import torch
import torch.profiler

from loraprof import units
from loraprof.capture.device.cpu import cpu_name
from loraprof.capture.device.cuda import driver_version
from loraprof.capture.device.kinds import KINDS, accelerators, measured
from loraprof.capture.nvml.client import probe
from loraprof.model.recording import DeviceInfo, Nvml

DISK_BYTES: Final = 2 << 30  # a large trace and its temporary copy
PARAMETERS: Final = Path("/proc/driver/nvidia/params")
ABSENT_HERE: Final = "only for NVIDIA GPUs"
CPU_BUILD: Final = "install a CUDA build: https://pytorch.org/get-started/locally"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``loraprof doctor``. ``remedy`` is ``None`` where there is nothing to do."""

    name: str
    ok: bool | None
    detail: str
    remedy: str | None = None


def checks(nvml_library: str | None = None, directory: Path | None = None) -> list[Check]:
    """Every check, in the order in which a user would look. ``nvml_library`` replaces pynvml."""
    cards = [measured(place).info() for place in accelerators()]
    found = [_torch(), *_devices(cards), _profiler(bool(cards)), _driver(bool(cards))]
    if not cards:
        found += [Check(name=name, ok=None, detail=ABSENT_HERE) for name in ("NVML", "GPM")]
    for card in cards:
        found += _nvml(card, nvml_library)
    return [*found, _counters(bool(cards)), *_packages(), _disk(directory or Path.cwd())]


def _torch() -> Check:
    if torch.version.cuda:
        build = f"CUDA {torch.version.cuda}"
    elif torch.version.hip:
        build = f"ROCm {torch.version.hip}"
    else:
        build = "CPU only"
    return Check(name="torch", ok=True, detail=f"{torch.__version__}, {build}")


def _devices(cards: list[DeviceInfo]) -> Iterator[Check]:
    threads = torch.get_num_threads()
    yield Check(name="CPU", ok=True, detail=f"{cpu_name()}, {threads} thread(s) in torch")
    for card in cards:
        memory = units.nbytes(card.memory_bytes)
        yield Check(name=f"GPU {card.index}", ok=True, detail=f"{card.name}, {memory}, {card.uuid or 'no UUID'}")
    if not cards:
        built = torch.version.cuda or torch.version.hip
        remedy = "check the driver with nvidia-smi, and CUDA_VISIBLE_DEVICES" if built else CPU_BUILD
        detail = "torch sees none" if built else "this torch cannot use one"
        yield Check(name="GPU", ok=False, detail=f"{detail}; CPU steps can be profiled", remedy=remedy)
    for kind in ("xpu", "mps"):
        if kind not in KINDS and getattr(torch, kind).is_available():
            detail = f"{kind}: torch knows this device, loraprof cannot measure it"
            yield Check(name=kind, ok=False, detail=detail, remedy="profile with --device cpu")


def _profiler(gpu: bool) -> Check:
    """Kineto records the trace; CUPTI, inside it, the kernels."""
    if not torch.profiler.kineto_available():
        remedy = "install a torch wheel from pytorch.org: this one was built without Kineto"
        return Check(name="profiler", ok=False, detail="Kineto is not in this torch", remedy=remedy)
    activities = torch.profiler.supported_activities()  # type: ignore[no-untyped-call]
    names = ", ".join(sorted(one.name for one in activities))
    if gpu and not activities - {torch.profiler.ProfilerActivity.CPU}:
        remedy = "install a CUDA build of torch with CUPTI"
        return Check(name="profiler", ok=False, detail=f"Kineto without GPU records ({names})", remedy=remedy)
    return Check(name="profiler", ok=True, detail=f"Kineto, records {names}")


def _driver(gpu: bool) -> Check:
    version = driver_version()
    if version is None:
        detail = "the NVIDIA kernel module is not loaded" if gpu else ABSENT_HERE
        return Check(name="driver", ok=None, detail=detail)
    if not gpu:
        remedy = CPU_BUILD if torch.version.cuda is None else "check CUDA_VISIBLE_DEVICES and nvidia-smi"
        return Check(name="driver", ok=False, detail=f"NVIDIA {version}, but torch uses no GPU", remedy=remedy)
    return Check(name="driver", ok=True, detail=f"NVIDIA {version}")


def _nvml(card: DeviceInfo, library: str | None) -> Iterator[Check]:
    name, gpm = f"NVML, GPU {card.index}", f"GPM, GPU {card.index}"
    if card.uuid is None:
        yield Check(name=name, ok=False, detail="torch does not tell the UUID", remedy="update torch")
        return
    nvml, reason = probe(card.uuid, library)
    if nvml is None:
        remedy = "clocks, power and energy will be missing; check nvidia-smi in this container"
        yield Check(name=name, ok=False, detail=reason or "no answer", remedy=remedy)
        yield Check(name=gpm, ok=False, detail="NVML is not available")
        return
    yield _nvml_figures(name, nvml)
    yield _gpm(gpm, nvml)


def _nvml_figures(name: str, nvml: Nvml) -> Check:
    # A quarter of a second is too short for some energy counters to move; that says nothing about a loop.
    gaps = {
        figure: why
        for figure, why in nvml.missing.items()
        if figure not in ("tensor_active", "dram_active") and "did not move" not in why
    }
    if not gaps:
        return Check(name=name, ok=True, detail=f"{len(nvml.samples)} samples, every figure can be read")
    listed = "; ".join(f"{figure}: {why}" for figure, why in gaps.items())
    remedy = None
    if any("permission" in why for why in gaps.values()):
        remedy = "run as a user who may read the GPU's counters"
    return Check(name=name, ok="samples" not in gaps, detail=f"missing: {listed}", remedy=remedy)


def _gpm(name: str, nvml: Nvml) -> Check:
    why = nvml.missing.get("tensor_active") or nvml.missing.get("dram_active")
    if why is None:
        return Check(name=name, ok=True, detail="tensor and DRAM activity can be read")
    return Check(name=name, ok=False, detail=why, remedy="ncu gives the same per kernel" if "Hopper" in why else None)


def _counters(gpu: bool) -> Check:
    """Hardware counters of single kernels need ncu and the driver's permission."""
    ncu = shutil.which("ncu")
    if not gpu:
        return Check(name="counters", ok=None, detail=ABSENT_HERE)
    if ncu is None:
        remedy = "install Nsight Compute and put ncu on PATH; only counters per kernel need it"
        return Check(name="counters", ok=False, detail="ncu is not on PATH", remedy=remedy)
    restricted = counters_restricted()
    if restricted is None:
        return Check(name="counters", ok=None, detail=f"ncu is there; {PARAMETERS} does not tell who may use it")
    if restricted:
        remedy = "as root, or: options nvidia NVreg_RestrictProfilingToAdminUsers=0 in /etc/modprobe.d, reboot"
        return Check(name="counters", ok=False, detail="ncu is there, for administrators only", remedy=remedy)
    return Check(name="counters", ok=True, detail="ncu is there, for every user")


def counters_restricted(path: Path = PARAMETERS) -> bool | None:
    """Whether the driver keeps counters for administrators (RmProfilingAdminOnly)."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    values = [line.partition(":")[2].strip() for line in lines if line.startswith("RmProfilingAdminOnly:")]
    return values[0] != "0" if values else None


def _packages() -> Iterator[Check]:
    for package, use, extra in (
        ("transformers", "built-in models", "loraprof[hf]"),
        ("peft", "built-in adapters", "loraprof[hf]"),
        ("tensorboard", "export --to tensorboard; its loraprof tab works offline", "tensorboard"),
        ("torch-tb-profiler", "TensorBoard's PYTORCH_PROFILER tab: its charts need the internet", "torch-tb-profiler"),
    ):
        try:
            version = importlib.metadata.version(package)
            yield Check(name=package, ok=True, detail=f"{version} ({use})")
        except importlib.metadata.PackageNotFoundError:
            remedy = f"pip install '{extra}'"
            yield Check(name=package, ok=False, detail=f"not installed ({use})", remedy=remedy)


def _disk(directory: Path) -> Check:
    free = shutil.disk_usage(directory).free
    enough = free >= DISK_BYTES
    remedy = None if enough else "free some space, or choose another place with --record"
    return Check(name="disk", ok=enough, detail=f"{units.nbytes(free)} free in {directory}", remedy=remedy)
