"""The CPU: calls return when their work is done, memory is the machine's and the container's."""

import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Final

import torch
from torch.profiler import ProfilerActivity

from loraprof.capture.device.heap import keep_freed_memory, release, touch
from loraprof.capture.device.protocol import Allocator, DeviceState, Overheads, Sizes, Work
from loraprof.capture.device.stopwatch import host_clock, median_ns
from loraprof.capture.nvml.client import NvmlSampler
from loraprof.model.recording import DeviceInfo

SQUARES: Final = (128, 256, 512, 1024)
LONG_SQUARE: Final = 2048  # where the budget is LONG_S or more
LONG_S: Final = 4.0
CACHE_MULTIPLE: Final = 8
LEAST_COPY: Final = 64 << 20
MOST_COPY: Final = 1 << 30
TINY_OPS: Final = 256
CGROUP: Final = Path("/sys/fs/cgroup")


class Cpu:
    """``clock`` in ns; the default is the host's."""

    asynchronous: ClassVar[bool] = False
    clock: ClassVar[str] = "perf_counter_ns"
    activities: ClassVar[tuple[ProfilerActivity, ...]] = ()
    profiles_again: ClassVar[bool] = True
    sizes: ClassVar[Sizes] = Sizes(product_side=768, copied_bytes=64 << 20, flushing_bytes=32 << 20)

    def __init__(self, place: torch.device, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self.place, self._now = place, clock

    @classmethod
    def present(cls) -> list[torch.device]:
        return [torch.device("cpu")]

    def info(self) -> DeviceInfo:
        """``l2_bytes`` is the last-level cache: the last stop before memory."""
        return DeviceInfo(
            kind="cpu",
            name=cpu_name(),
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            l2_bytes=last_level_cache_bytes(),
            cpu_threads=torch.get_num_threads(),
        )

    def matrix_dtype(self) -> torch.dtype:
        return torch.float32

    def synchronise(self) -> None:
        """Its work is done."""

    def capturing(self) -> bool:
        return False

    def mark(self) -> int:
        return self._now()

    def between_ns(self, marks: Sequence[int]) -> list[int]:
        return [after - before for before, after in pairwise(marks)]

    def time_ns(self, work: Work, repeat: int) -> float:
        return host_clock(work, repeat)

    def once_ns(self, work: Work, repeat: int) -> float:
        return host_clock(work, repeat)

    def current(self) -> AbstractContextManager[object]:
        return nullcontext()

    def kept_rng(self) -> AbstractContextManager[object]:
        return torch.random.fork_rng(devices=[])

    def state(self) -> DeviceState | None:
        return None

    def peak_bytes(self, status: Path = Path("/proc/self/status")) -> int | None:
        """The whole process's high-water mark (VmHWM)."""
        return _kilobytes(status, "VmHWM:")

    def reset_peak(self) -> None:
        """The kernel's mark stays."""

    def available_bytes(self, meminfo: Path = Path("/proc/meminfo"), cgroup: Path = CGROUP) -> int | None:
        free = _kilobytes(meminfo, "MemAvailable:")
        limit, used = (_number(cgroup / name) for name in ("memory.max", "memory.current"))
        if limit is None or used is None or free is None:
            return free
        return max(0, min(free, limit - used))

    def allocator(self) -> Allocator | None:
        return None

    def keep_freed_memory(self) -> None:
        keep_freed_memory()

    def sampler(self, period_s: float = 0.05) -> NvmlSampler | None:
        return None

    @contextmanager
    def steady_memory(self, nbytes: int) -> Iterator[None]:
        """At most a quarter of what is free."""
        keep_freed_memory()
        try:
            touch(min(nbytes, (self.available_bytes() or 0) // 4))
            yield
        finally:
            release()

    def flash_refusal(self, given: tuple[Any, ...]) -> str | None:
        return None

    def squares(self, budget_s: float) -> tuple[int, ...]:
        return (*SQUARES, LONG_SQUARE) if budget_s >= LONG_S else SQUARES

    def largest_copy_bytes(self) -> int:
        return min(max(CACHE_MULTIPLE * (last_level_cache_bytes() or 32 << 20), LEAST_COPY), MOST_COPY)

    def overheads(self, budget_ns: float) -> Overheads:
        """``foreach`` has no fused kernel for add here: it dispatches one op per tensor, from C++."""
        xs, ys = ([torch.full((1,), one, device="cpu") for _ in range(TINY_OPS)] for one in (0.0, 1.0))

        def burst() -> None:
            for _ in range(TINY_OPS):
                xs[0].add_(ys[0])

        from_python = median_ns(burst, host_clock, budget_ns)
        inside = median_ns(lambda: torch._foreach_add_(xs, ys), host_clock, budget_ns)
        return Overheads(host_ns=from_python / TINY_OPS, op_ns=max(1, inside // TINY_OPS))


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's model name, or the architecture where the system does not give one."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine() or "CPU"


def last_level_cache_bytes(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int | None:
    """The largest cache that the first CPU sees, in bytes."""
    sizes = []
    for path in root.glob("index*/size"):
        found = re.fullmatch(r"(\d+)([KMG]?)", path.read_text().strip())
        if found:
            sizes.append(int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[found[2]])
    return max(sizes, default=None)


def _kilobytes(path: Path, name: str) -> int | None:
    """A line of ``/proc`` in bytes; None where there is no such."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), None)


def _number(path: Path) -> int | None:
    """A cgroup v2 figure; None for "max" and where there is no such file."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
