"""How long does one call take? The median of short raw measurements after a warm-up.

A call shorter than the clock can resolve is repeated inside one measurement and divided.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

LEAST: Final = 5  # measurements per median
MOST: Final = 25
RESOLVABLE_NS: Final = 200_000  # one measurement lasts at least this long


class Clock(Protocol):
    def __call__(self, work: Callable[[], object], repeat: int) -> float:
        """Time of ``repeat`` calls in ns."""


def host_clock(work: Callable[[], object], repeat: int) -> float:
    """Time of ``repeat`` calls on the host."""
    started = time.perf_counter_ns()
    for _ in range(repeat):
        work()
    return time.perf_counter_ns() - started


def undisturbed(times: Sequence[float]) -> float:
    """The least of the medians of successive thirds: what else runs on the machine comes in bursts, and only adds."""
    size = max(1, len(times) // 3)
    return min(statistics.median(times[i : i + size]) for i in range(0, size * (len(times) // size), size))


def median_ns(work: Callable[[], object], clock: Clock, budget_ns: float) -> int:
    """Time of one call, at least 1: the median of the least disturbed third of the measurements. Always takes LEAST of
    them, up to MOST within ``budget_ns``."""
    clock(work, 1)
    once = max(clock(work, 1), 1)
    repeat = max(1, min(1000, round(RESOLVABLE_NS / once)))
    count = int(min(MOST, max(LEAST, budget_ns / (once * repeat))))
    return max(1, round(undisturbed([clock(work, repeat) / repeat for _ in range(count)])))
