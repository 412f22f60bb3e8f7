"""How long is a step with nothing attached? Pass T: stamps between steps, until there are enough of the steady ones.

CPU    ``wanted`` steps, ``perf_counter_ns``
CUDA   device events; a step costs little, and a new process slows the first dozens of them (caches, allocator, lazily
       loaded kernels), so it goes on for LEAST_NS at least, and until ``wanted`` steps follow the last change point,
       but for no more than MOST times ``wanted`` steps. The steps before that point are dropped, and counted.
"""

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final

import torch

from loraprof.analysis.statistics import warmup_end
from loraprof.capture.device.stopwatch import timing_event
from loraprof.model.recording import Timing

LEAST_NS: Final = 2_000_000_000
MOST: Final = 5


class TimingPass:
    """Call ``stamp`` at the boundary before the first step and after every one, then ask ``enough``."""

    def __init__(self, device: torch.device, wanted: int, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self.device, self.wanted, self._clock = device, wanted, clock
        self._on_cuda = device.type == "cuda"
        self._host: list[int] = []
        self._events: list[Any] = []
        self._due = wanted  # steps at which to look again

    def stamp(self) -> None:
        self._host.append(self._clock())
        if self._on_cuda:
            event = timing_event()
            event.record()
            self._events.append(event)

    def enough(self) -> bool:
        steps = len(self._host) - 1
        if steps < self._due:
            return False
        if not self._on_cuda or steps >= MOST * self.wanted:
            return True
        if self._host[-1] - self._host[0] < LEAST_NS:
            return False
        self._due = self.wanted + warmup_end(self._samples(), minimum=0)
        return steps >= self._due

    def timing(self, skipped: int) -> Timing | None:
        """The steady steps; ``None`` without any. ``skipped`` were passed before the first stamp."""
        samples = self._samples()
        if not samples:
            return None
        unsteady = warmup_end(samples, minimum=0) if self._on_cuda else 0
        clock = "cuda_event" if self._on_cuda else "perf_counter_ns"
        return Timing(samples_ns=samples[unsteady:], dropped=skipped + unsteady, clock=clock)

    def _samples(self) -> list[int]:
        if not self._on_cuda:
            return [after - before for before, after in pairwise(self._host)]
        torch.cuda.synchronize(self.device)
        return [round(before.elapsed_time(after) * 1e6) for before, after in pairwise(self._events)]
