"""How long is a step with nothing attached? Pass T: stamps between steps, until there are enough of the steady ones.

Synchronous devices   ``wanted`` steps
Devices with a queue  a step costs little, and a new process slows the first dozens of them (caches, allocator, lazily
                      loaded kernels), so it goes on for LEAST_NS at least, and until ``wanted`` steps follow the last
                      change point, but for no more than MOST times ``wanted`` steps. The steps before that point are
                      dropped, and counted. Of long steps FEW do, once they have taken LONG_NS.
"""

import time
from collections.abc import Callable
from typing import Any, Final

from loraprof.analysis.statistics import warmup_end
from loraprof.capture.device.protocol import Device
from loraprof.model.recording import Timing

LEAST_NS: Final = 2_000_000_000
MOST: Final = 5
FEW: Final = 3
LONG_NS: Final = 20_000_000_000


class TimingPass:
    """Call ``stamp`` at the boundary before the first step and after every one, then ask ``enough``.

    ``settles=False``: ``wanted`` steps and no more, on any device.
    """

    def __init__(
        self, device: Device, wanted: int, settles: bool = True, clock: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        self.device, self.wanted, self._clock = device, wanted, clock
        self._settles = settles and device.asynchronous
        self._host: list[int] = []
        self._marks: list[Any] = []
        self._due = wanted  # steps at which to look again

    def stamp(self) -> None:
        self._marks.append(self.device.mark())
        self._host.append(self._clock())

    def enough(self) -> bool:
        steps = len(self._host) - 1
        if not self._settles:
            return steps >= self.wanted
        passed_ns = self._host[-1] - self._host[0]
        if steps >= FEW and passed_ns >= LONG_NS:
            return True
        if steps < self._due or steps >= MOST * self.wanted:
            return steps >= self._due
        if passed_ns < LEAST_NS:
            return False
        self._due = self.wanted + warmup_end(self.device.between_ns(self._marks), minimum=0)
        return steps >= self._due

    def timing(self, skipped: int) -> Timing | None:
        """The steady steps; ``None`` without any. ``skipped`` were passed before the first stamp."""
        samples = self.device.between_ns(self._marks)
        if not samples:
            return None
        unsteady = warmup_end(samples, minimum=0) if self._settles else 0
        return Timing(samples_ns=samples[unsteady:], dropped=skipped + unsteady, clock=self.device.clock)
