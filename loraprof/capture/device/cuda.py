"""Everything ``torch.cuda`` drives: NVIDIA GPUs, and AMD's under ROCm builds of torch.

Device time is taken between events, behind a kernel that spins until all is launched, so that only device time counts:
on a slow host, small kernels would wait for their launches.
"""

import ctypes
import re
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Final

import torch
from torch.profiler import ProfilerActivity

from loraprof.capture.device.protocol import Allocator, DeviceState, Overheads, Sizes, Work
from loraprof.capture.device.stopwatch import LEAST, host_clock
from loraprof.capture.nvml.client import NvmlSampler
from loraprof.capture.nvml.device import open_device, reading
from loraprof.capture.nvml.errors import NvmlFailure, load
from loraprof.errors import MeasurementError
from loraprof.model.recording import DeviceInfo

SQUARES: Final = (1024, 2048, 4096, 6144, 8192)
CACHE_MULTIPLE: Final = 8
LEAST_COPY: Final = 2 << 30
QUEUED: Final = 500  # null kernels behind one long kernel; the launch queue holds about 1,024
LONG_KERNEL_CYCLES: Final = 20_000_000  # about 10 ms: all null kernels are queued before it ends
TINY_OPS: Final = 256
AHEAD_NS: Final = 25_000  # of spinning per call, at first: what a host needs to launch a kernel or two
AHEAD_MOST_NS: Final = 50_000_000
CYCLES_PER_NS: Final = 2  # no GPU's clock is faster
GRAPHS_SINCE: Final = (12, 6)  # before, CUDA graphs and the profiler do not agree (pytorch/pytorch#101879)
# Hardware slowdown, software and hardware thermal, power brake. A power limit holds for every arm alike, and lasts.
THROTTLED: Final = 0x8 | 0x20 | 0x40 | 0x80


class Cuda:
    """One GPU; without an index the current one."""

    asynchronous: ClassVar[bool] = True
    clock: ClassVar[str] = "cuda_event"
    activities: ClassVar[tuple[ProfilerActivity, ...]] = (ProfilerActivity.CUDA,)
    profiles_again: ClassVar[bool] = (
        False  # CUPTI's time stamps of its first kernels are wrong (pytorch/pytorch#192021)
    )
    sizes: ClassVar[Sizes] = Sizes(product_side=8192, copied_bytes=1 << 30, flushing_bytes=512 << 20)

    def __init__(self, place: torch.device) -> None:
        self.place = place

    @classmethod
    def present(cls) -> list[torch.device]:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return [torch.device("cuda", index) for index in range(count)]

    def info(self) -> DeviceInfo:
        if not torch.cuda.is_available():
            raise MeasurementError("no CUDA device here", "loraprof doctor says what is missing; --device cpu works")
        if (self.place.index or 0) >= torch.cuda.device_count():
            what = f"torch sees {torch.cuda.device_count()} CUDA device(s)"
            raise MeasurementError(f"no device {self.place}", what)
        index = torch.cuda.current_device() if self.place.index is None else self.place.index
        properties = torch.cuda.get_device_properties(index)
        uuid = getattr(properties, "uuid", None)
        return DeviceInfo(
            kind="cuda",
            name=properties.name,
            index=index,
            uuid=None if uuid is None else gpu_uuid(str(uuid)),
            sms=properties.multi_processor_count,
            capability=(properties.major, properties.minor),
            memory_bytes=properties.total_memory,
            l2_bytes=getattr(properties, "L2_cache_size", None),
            driver=driver_version(),
        )

    def matrix_dtype(self) -> torch.dtype:
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16

    def synchronise(self) -> None:
        torch.cuda.synchronize(self.place)

    def capturing(self) -> bool:
        return torch.cuda.is_current_stream_capturing()

    def mark(self) -> Any:
        event = self.event()
        event.record()
        return event

    def between_ns(self, marks: Sequence[Any]) -> list[int]:
        self.synchronise()
        return [max(1, round(before.elapsed_time(after) * 1e6)) for before, after in pairwise(marks)]

    def time_ns(self, work: Work, repeat: int) -> float:
        """Where the host took longer to launch the calls than the device spun, they are run again behind a longer
        spin; work that waits for the device has no such time."""
        ahead_ns = min(AHEAD_NS * repeat, AHEAD_MOST_NS)
        self.synchronise()
        self.spin(CYCLES_PER_NS * ahead_ns)
        began = time.perf_counter_ns()
        took, launched = self._between_events(work, repeat)
        if ahead_ns < launched - began < AHEAD_MOST_NS // 2:
            self.spin(2 * CYCLES_PER_NS * (launched - began))
            took, _ = self._between_events(work, repeat)
        return took

    def once_ns(self, work: Work, repeat: int) -> float:
        """With the launches' gaps, if they are short."""
        return self._between_events(work, repeat)[0]

    def _between_events(self, work: Work, repeat: int) -> tuple[float, int]:
        """ns between the events, and when the host had launched it all."""
        first = self.mark()
        for _ in range(repeat):
            work()
        last = self.mark()
        launched = time.perf_counter_ns()
        last.synchronize()
        return float(first.elapsed_time(last)) * 1e6, launched

    def current(self) -> AbstractContextManager[object]:
        return torch.cuda.device(self.place)

    def kept_rng(self) -> AbstractContextManager[object]:
        return torch.random.fork_rng(devices=[self.place])

    @cached_property
    def _nvml(self) -> Any:
        """In this process: only where nothing runs meanwhile. None where it cannot be read."""
        try:
            return open_device(load(None), self._uuid)
        except NvmlFailure:
            return None

    def state(self) -> DeviceState | None:
        if self._nvml is None:
            return None
        reasons, clock = self._figure("reasons"), self._figure("sm_clock_mhz")
        return DeviceState(clock, None if reasons is None else bool(reasons & THROTTLED))

    def _figure(self, name: str) -> int | None:
        try:
            return reading(self._nvml, name)
        except NvmlFailure:
            return None

    @property
    def _uuid(self) -> str:
        return f"GPU-{torch.cuda.get_device_properties(self.place).uuid}"

    def peak_bytes(self) -> int | None:
        """The allocator's."""
        return torch.cuda.max_memory_allocated(self.place)

    def reset_peak(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.place)

    def available_bytes(self) -> int | None:
        return int(torch.cuda.mem_get_info(self.place)[0])

    def allocator(self) -> Allocator | None:
        stats: dict[str, Any] = torch.cuda.memory_stats(self.place)
        return Allocator(
            peak_bytes=torch.cuda.max_memory_allocated(self.place),
            reserved_bytes=torch.cuda.memory_reserved(self.place),
            retries=int(stats.get("num_alloc_retries", 0)),
            total_bytes=torch.cuda.get_device_properties(self.place).total_memory,
        )

    def keep_freed_memory(self) -> None:
        """The caching allocator does."""

    def sampler(self, period_s: float = 0.05) -> NvmlSampler | None:
        return NvmlSampler(self._uuid, period_s)

    def steady_memory(self, nbytes: int) -> AbstractContextManager[None]:
        return nullcontext()

    def flash_refusal(self, given: tuple[Any, ...]) -> str | None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.backends.cuda.can_use_flash_attention(torch.backends.cuda.SDPAParams(*given), debug=True)
        words = [str(w.message).partition(" (Triggered internally")[0].strip() for w in caught]
        return next((w for w in words if not w.lower().endswith("because:")), None)

    def squares(self, budget_s: float) -> tuple[int, ...]:
        return SQUARES

    def largest_copy_bytes(self) -> int:
        properties = torch.cuda.get_device_properties(self.place)
        cache = getattr(properties, "L2_cache_size", 64 << 20)
        return int(min(max(CACHE_MULTIPLE * cache, LEAST_COPY), properties.total_memory // 8))

    def overheads(self, budget_ns: float) -> Overheads:
        """Of null kernels; a burst fits the launch queue, so the host never waits for the device."""
        x, y = torch.zeros(1, device=self.place), torch.ones(1, device=self.place)

        def burst() -> None:
            for _ in range(TINY_OPS):
                x.add_(y)

        def launch_and_wait() -> None:
            x.zero_()
            torch.cuda.synchronize(self.place)

        bursts, floors, turnarounds = [], [], []
        for _ in range(LEAST):
            self.synchronise()
            bursts.append(host_clock(burst, 1))
        for _ in range(2 * LEAST):
            self.synchronise()
            floors.append(host_clock(launch_and_wait, 1))
            self.spin(LONG_KERNEL_CYCLES)
            turnarounds.append(self.once_ns(x.zero_, QUEUED) / QUEUED)
        return Overheads(
            host_ns=sorted(bursts)[len(bursts) // 2] / TINY_OPS,
            launch_floor_ns=round(min(floors)),
            turnaround_ns=round(sorted(turnarounds)[LEAST]),
        )

    # For the self-test's plants

    def spin(self, cycles: int) -> None:
        torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]

    def stream(self) -> Any:
        return torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def current_stream(self) -> Any:
        return torch.cuda.current_stream()

    def on(self, stream: Any) -> AbstractContextManager[object]:
        return torch.cuda.stream(stream)

    def event(self) -> Any:
        return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

    def pause(self, stream: Any, us: int) -> None:
        """The driver runs a host function in the stream's order (``cuLaunchHostFunc``); here libc's ``usleep``, so that
        no Python is needed to finish it. The profiler records neither."""
        driver, libc = ctypes.CDLL("libcuda.so.1"), ctypes.CDLL(None)
        sleep = ctypes.cast(libc.usleep, ctypes.c_void_p)
        code = driver.cuLaunchHostFunc(ctypes.c_void_p(stream.cuda_stream), sleep, ctypes.c_void_p(us))
        if code:
            raise RuntimeError(f"cuLaunchHostFunc failed with CUDA error {code}")

    def graph(self, work: Work) -> Callable[[], None]:
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            work()
        return captured.replay

    def no_graphs(self) -> str | None:
        version = tuple(int(part) for part in (torch.version.cuda or "0").split("."))
        if version >= GRAPHS_SINCE:
            return None
        return f"CUDA graphs under the profiler need CUDA 12.6, this torch has {torch.version.cuda}"


def gpu_uuid(text: str) -> str:
    """The UUID as NVML writes it; torch leaves the prefix out."""
    return text if text.startswith(("GPU-", "MIG-")) else f"GPU-{text}"


def driver_version(path: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """The NVIDIA kernel module's version."""
    try:
        found = re.search(r"Kernel Module[^\n]*?\s(\d+\.\d+(?:\.\d+)?)\s", path.read_text())
    except OSError:
        return None
    return found[1] if found else None
