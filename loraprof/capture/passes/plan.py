"""What will a profile take: steps per pass, time and memory? The plan is printed before anything runs."""

from dataclasses import dataclass
from typing import Final

from loraprof import units

# Steps under the counting mode and under the profiler take longer (measured: 2.2 to 6.2 and 1.5 times).
COUNTED: Final = 4.0
PROFILED: Final = 1.6
CALIBRATION_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Optimizer steps per pass, in order. The NVML loop is in seconds, on CUDA only."""

    skip: int = 3  # passed before anything is measured
    timed: int = 10  # pass T, nothing attached
    nvml_s: float = 5.0  # pass N
    count: int = 1  # pass C, under a dispatch mode
    warmup: int = 3  # profiler running, nothing kept
    steps: int = 3  # pass P, recorded
    finish: bool = False  # let the script go on afterwards

    def total(self, cuda: bool) -> int:
        """Steps needed when the NVML loop takes one step or none."""
        return self.skip + self.timed + int(cuda) + self.count + self.warmup + self.steps

    def pace(self, step_ns: int, done: int, cuda: bool) -> str:
        """Said once the pace is known: how long the passes that are left will take at this step time."""
        plain = max(self.skip + self.timed - done, 0)
        steps = plain + COUNTED * self.count + PROFILED * (self.warmup + self.steps)
        left = steps * step_ns + (self.nvml_s * 1e9 if cuda else 0.0) + CALIBRATION_S * 1e9
        return f"a step takes about {units.ns(step_ns, 2)}: about {units.ns(left, 2)} to go, calibration included"

    def sentence(self, cuda: bool) -> str:
        nvml = f", {self.nvml_s:.0f} s of steps under NVML sampling" if cuda else ""
        return (
            f"plan: {self.skip} steps to warm up, {self.timed} timed with nothing attached{nvml}, "
            f"{self.count} counted, {self.warmup} + {self.steps} profiled"
        )
