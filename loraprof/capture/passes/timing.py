"""How long is a step with nothing attached? Pass T: stamps between steps, until there are enough of the steady ones.

Synchronous devices   ``wanted`` steps
Devices with a queue  a step costs little, and a new process slows the first dozens of them (caches, allocator, lazily
                      loaded kernels), so it goes on for LEAST_NS at least, and until ``wanted`` steps follow the last
                      change point, but for no more than MOST times ``wanted`` steps. The steps before that point are
                      dropped, and counted. Of long steps FEW do, once they have taken LONG_NS.

What is done between ``stamp`` and ``again`` belongs to no step.
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
        self,
        device: Device,
        wanted: int,
        settles: bool = True,
        clock: Callable[[], int] = time.perf_counter_ns,
        processor: Callable[[], int] = time.process_time_ns,
    ) -> None:
        self.device, self.wanted, self._clock, self._processor = device, wanted, clock, processor
        self._settles = settles and device.asynchronous
        self._began_ns: int | None = None
        self._host_ns: list[int] = []  # of each step
        self._since_ns = 0
        self._used_ns = self._used_before_ns = 0  # by all threads of the process
        self._marks: list[list[Any]] = [[]]  # of steps that follow one another
        self._due = wanted  # steps at which to look again

    def stamp(self) -> None:
        """A step ends here, and the next one begins."""
        self._marks[-1].append(self.device.mark())
        now, used = self._clock(), self._processor()
        if self._began_ns is None:
            self._began_ns = now
        else:
            self._host_ns.append(now - self._since_ns)
            self._used_ns += used - self._used_before_ns
        self._since_ns, self._used_before_ns = now, used

    def again(self) -> None:
        """The next step begins here, not at the last stamp."""
        self._marks.append([self.device.mark()])
        self._since_ns, self._used_before_ns = self._clock(), self._processor()

    @property
    def steps_ns(self) -> list[int]:
        """What the steps so far took on the host; a device with a queue may be behind."""
        return self._host_ns

    def enough(self) -> bool:
        steps = len(self._host_ns)
        if not self._settles:
            return steps >= self.wanted
        passed_ns = self._since_ns - (self._began_ns or 0)
        if steps >= FEW and passed_ns >= LONG_NS:
            return True
        if steps < self._due or steps >= MOST * self.wanted:
            return steps >= self._due
        if passed_ns < LEAST_NS:
            return False
        self._due = self.wanted + warmup_end(self._samples(), minimum=0)
        return steps >= self._due

    def timing(self, skipped: int) -> Timing | None:
        """The steady steps; ``None`` without any. ``skipped`` were passed before the first stamp."""
        samples = self._samples()
        if not samples:
            return None
        unsteady = warmup_end(samples, minimum=0) if self._settles else 0
        cores = self._used_ns / max(sum(self._host_ns), 1)
        return Timing(samples_ns=samples[unsteady:], dropped=skipped + unsteady, clock=self.device.clock, cores=cores)

    def _samples(self) -> list[int]:
        return [ns for marks in self._marks for ns in self.device.between_ns(marks)]
