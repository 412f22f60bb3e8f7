"""How much memory does a step need, how much did this process take at most, and how much may others still take?"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch
from torch import nn

from loraprof import units
from loraprof.errors import MeasurementError

SMALLER: Final = "--batch, --seq, --layers or --rank smaller, or --checkpointing non-reentrant"
CGROUP: Final = Path("/sys/fs/cgroup")


def peak_bytes(device: torch.device, status: Path = Path("/proc/self/status")) -> int | None:
    """CUDA: the allocator's peak. CPU: the whole process's high-water mark (VmHWM), ``None`` where there is none."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        lines = status.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def available_bytes(device: torch.device, meminfo: Path = Path("/proc/meminfo"), cgroup: Path = CGROUP) -> int | None:
    """What is free now: of the device, or of the machine and the container on a CPU; ``None`` where unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = meminfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    limit, used = (_number(cgroup / name) for name in ("memory.max", "memory.current"))
    if limit is None or used is None or free is None:
        return free
    return max(0, min(free, limit - used))


def is_out_of_memory(error: BaseException) -> bool:
    """torch's CUDA error, the CPU allocator's RuntimeError, or Python's own."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


@contextmanager
def enough_memory() -> Iterator[None]:
    """Around building and running a workload: running out of memory becomes a MeasurementError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = str(error).splitlines() or ["Python has none left"]
        raise MeasurementError(f"out of memory: {said[0]}", SMALLER) from None


def require_room(what: str, nbytes: int, device: torch.device) -> None:
    """Raises MeasurementError when that is more than there is: a system that kills for memory says nothing."""
    free = available_bytes(device)
    if free is not None and nbytes > free:
        text = f"{what} need {units.nbytes(nbytes)}, {units.nbytes(free)} are free"
        raise MeasurementError(f"out of memory: {text}", SMALLER)


def memory_plan(model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> str:
    """What a step of a built model takes at least; raises MeasurementError when it cannot have that."""
    held = _bytes(model.parameters()) + _bytes(model.buffers())
    trained = _bytes(p for p in model.parameters() if p.requires_grad)
    moments = 2 if isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW) else 0
    coming = trained * (1 + moments)
    require_room("gradients and optimizer", coming, device)
    return f"at least {units.nbytes(held + coming)} of memory, activations on top"


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _number(path: Path) -> int | None:
    """A cgroup v2 figure; ``None`` for "max" and where there is no such file."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
