"""What loraprof asks of a device, whatever its kind: the one place where kinds differ.

A kind is a class with these members in a file of its own and a line in ``kinds.py``; nothing else names it.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch.profiler import ProfilerActivity

from loraprof.capture.nvml.client import NvmlSampler
from loraprof.model.recording import DeviceInfo

Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large known work has to be on such a device to be timed well."""

    product_side: int  # of square matrices
    copied_bytes: int
    flushing_bytes: int  # written between measurements, so that the caches hold something else


@dataclass(frozen=True, slots=True)
class Overheads:
    """What tiny work costs, ns; see ``calibrate``. None where the kind has no such cost."""

    host_ns: float
    op_ns: int | None = None
    launch_floor_ns: int | None = None
    turnaround_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Allocator:
    """What the caching allocator of a device counts, bytes."""

    peak_bytes: int
    reserved_bytes: int
    retries: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class DeviceState:
    """SM clock and whether the device throttles, now; ``None`` is unknown."""

    sm_clock_mhz: float | None
    throttled: bool | None


class Device(Protocol):
    """One device. Times are ns; ``place`` is what torch calls it."""

    asynchronous: ClassVar[bool]  # calls return before their work is done: it has a launch queue
    clock: ClassVar[str]  # what ``mark`` reads, as a recording names it
    activities: ClassVar[tuple[ProfilerActivity, ...]]  # recorded beside the host's
    profiles_again: ClassVar[bool]  # a second profiler session of a process loses nothing
    sizes: ClassVar[Sizes]
    place: torch.device

    def __init__(self, place: torch.device) -> None: ...

    @classmethod
    def present(cls) -> list[torch.device]:
        """Every device of this kind that is here."""

    def info(self) -> DeviceInfo:
        """Its properties. Raises MeasurementError where it is not there."""

    def matrix_dtype(self) -> torch.dtype:
        """What its matrix units are for."""

    # Time

    def synchronise(self) -> None:
        """Waits until all its work is done."""

    def capturing(self) -> bool:
        """Whether a graph is being captured, so that nothing may wait."""

    def mark(self) -> Any:
        """The end of all work given to it so far, for ``between_ns``."""

    def between_ns(self, marks: Sequence[Any]) -> list[int]:
        """Times between successive marks; waits for the last of them."""

    def time_ns(self, work: Work, repeat: int) -> float:
        """Device time of ``repeat`` calls, which may be run more than once."""

    def once_ns(self, work: Work, repeat: int) -> float:
        """The same of work that is counted: it is run once."""

    def current(self) -> AbstractContextManager[object]:
        """Inside, it is the one that new work goes to."""

    def kept_rng(self) -> AbstractContextManager[object]:
        """Inside, random numbers are drawn; outside, nobody notices."""

    def state(self) -> DeviceState | None:
        """None where it tells nothing."""

    # Memory

    def peak_bytes(self) -> int | None:
        """The most that was taken since ``reset_peak``; where it cannot be reset, since the process began."""

    def reset_peak(self) -> None: ...

    def available_bytes(self) -> int | None:
        """What may still be taken; None where unknown."""

    def allocator(self) -> Allocator | None:
        """None where there is no caching allocator."""

    def keep_freed_memory(self) -> None:
        """From here on what is freed stays at hand, whatever the step takes."""

    # Passes

    def sampler(self, period_s: float = 0.05) -> NvmlSampler | None:
        """For clocks, power and energy during a loop of steps; None where nothing can be sampled."""

    def steady_memory(self, nbytes: int) -> AbstractContextManager[None]:
        """Inside, the same, with ``nbytes`` at hand from the start."""

    def flash_refusal(self, given: tuple[Any, ...]) -> str | None:
        """Torch's own words on why flash attention cannot run; None where it says nothing.

        ``given``: query, key, value, mask, dropout, causal, grouped.
        """

    # Calibration

    def squares(self, budget_s: float) -> tuple[int, ...]:
        """Sides of the square products that are timed."""

    def largest_copy_bytes(self) -> int:
        """Read and written, beyond every cache."""

    def overheads(self, budget_ns: float) -> Overheads: ...


class QueuedDevice(Device, Protocol):
    """What the self-test's plants need besides of an asynchronous device."""

    def spin(self, cycles: int) -> None:
        """Gives it a kernel that lasts so many clock cycles."""

    def stream(self) -> Any:
        """A further stream: ``wait_stream``."""

    def current_stream(self) -> Any: ...

    def on(self, stream: Any) -> AbstractContextManager[object]:
        """Inside, ``stream`` is the current one."""

    def event(self) -> Any:
        """``record(stream)``, ``synchronize()``, ``elapsed_time(later)`` in ms."""

    def pause(self, stream: Any, us: int) -> None:
        """Holds ``stream`` up for so long without any activity on the device. Raises RuntimeError, OSError."""

    def graph(self, work: Work) -> Callable[[], None]:
        """Captures ``work``; what is returned replays it."""

    def no_graphs(self) -> str | None:
        """Why graphs cannot be profiled here."""
