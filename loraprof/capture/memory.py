"""How much memory did this process take at most, and how much may others still take?"""

from pathlib import Path
from typing import Final

import torch

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


def _number(path: Path) -> int | None:
    """A cgroup v2 figure; ``None`` for "max" and where there is no such file."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
