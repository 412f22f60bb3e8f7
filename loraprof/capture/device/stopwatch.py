"""How long does one call take on this device? The median of short raw measurements after a warm-up.

Host: ``perf_counter_ns`` around the call. CUDA: device events around it, behind a kernel that spins until all is
launched, so that only device time counts: on a slow host, small kernels would wait for their launches. A call shorter
than the clock can resolve is repeated inside one measurement and divided.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import torch

LEAST: Final = 5  # measurements per median
MOST: Final = 25
RESOLVABLE_NS: Final = 200_000  # one measurement lasts at least this long
AHEAD_NS: Final = 25_000  # of spinning per call, at first: what a host needs to launch a kernel or two
AHEAD_MOST_NS: Final = 50_000_000
CYCLES_PER_NS: Final = 2  # no GPU's clock is faster


class Clock(Protocol):
    def __call__(self, work: Callable[[], object], repeat: int) -> float:
        """Time of ``repeat`` calls in ns."""


def host_clock(work: Callable[[], object], repeat: int) -> float:
    """Time of ``repeat`` calls on the host."""
    started = time.perf_counter_ns()
    for _ in range(repeat):
        work()
    return time.perf_counter_ns() - started


def cuda_clock(work: Callable[[], object], repeat: int) -> float:
    """Device time of ``repeat`` calls on the current stream. Where the host took longer to launch them than the device
    spun, they are run again behind a longer spin; work that waits for the device has no such time."""
    ahead_ns = min(AHEAD_NS * repeat, AHEAD_MOST_NS)
    torch.cuda.synchronize()
    torch.cuda._sleep(CYCLES_PER_NS * ahead_ns)  # type: ignore[no-untyped-call]
    began = time.perf_counter_ns()
    took, launched = _between_events(work, repeat)
    if ahead_ns < launched - began < AHEAD_MOST_NS // 2:
        torch.cuda._sleep(2 * CYCLES_PER_NS * (launched - began))  # type: ignore[no-untyped-call]
        took, _ = _between_events(work, repeat)
    return took


def event_clock(work: Callable[[], object], repeat: int) -> float:
    """Time of ``repeat`` calls, run once, between two device events: with the launches' gaps, if they are short."""
    return _between_events(work, repeat)[0]


def _between_events(work: Callable[[], object], repeat: int) -> tuple[float, int]:
    """ns between the events, and when the host had launched it all."""
    first, last = timing_event(), timing_event()
    first.record()
    for _ in range(repeat):
        work()
    last.record()
    launched = time.perf_counter_ns()
    last.synchronize()
    return float(first.elapsed_time(last)) * 1e6, launched


def timing_event() -> torch.cuda.Event:
    """A device event that can be timed; torch leaves its constructor untyped."""
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def clock_of(device: torch.device) -> Clock:
    """The clock that times work of ``device``."""
    return cuda_clock if device.type == "cuda" else host_clock


def once_clock_of(device: torch.device) -> Clock:
    """A clock that runs the work once, for work that is counted."""
    return event_clock if device.type == "cuda" else host_clock


def undisturbed(times: Sequence[float], groups: int = 3) -> float:
    """The least of the medians of successive groups: what else runs on the machine comes in bursts, and only adds."""
    size = max(1, len(times) // groups)
    return min(statistics.median(times[i : i + size]) for i in range(0, size * (len(times) // size), size))


def median_ns(work: Callable[[], object], clock: Clock, budget_ns: float) -> int:
    """Median time of one call, at least 1. Always takes LEAST measurements, up to MOST within ``budget_ns``."""
    clock(work, 1)
    once = max(clock(work, 1), 1)
    repeat = max(1, min(1000, round(RESOLVABLE_NS / once)))
    count = int(min(MOST, max(LEAST, budget_ns / (once * repeat))))
    return max(1, round(statistics.median(clock(work, repeat) / repeat for _ in range(count))))
