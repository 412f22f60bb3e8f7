"""What will a profile take: steps per pass, time and memory? The plan is printed before anything runs."""

from dataclasses import dataclass, replace
from typing import Final, Self

from loraprof import units

# Steps under the counting mode and under the profiler take longer (measured: 2.2 to 6.2 and 1.5 times).
COUNTED: Final = 4.0
PROFILED: Final = 1.6
CALIBRATION_S: Final = 4.0  # once per device
COSTS_S: Final = 2.8  # what training the frozen weights would cost, the recording and the report: 2.7 to 3.0 on a CPU


@dataclass(frozen=True, slots=True)
class Plan:
    """Optimizer steps per pass, in order. The NVML loop is in seconds, only where NVML can be sampled."""

    skip: int = 3  # passed before anything is measured
    timed: int = 10  # pass T, nothing attached
    nvml_s: float = 5.0  # pass N
    count: int = 1  # pass C, under a dispatch mode
    warmup: int = 3  # profiler running, nothing kept
    steps: int = 3  # pass P, recorded
    finish: bool = False  # let the script go on afterwards
    calibrated: bool = False  # this device was, by an earlier profile

    @classmethod
    def timing(cls, skip: int, timed: int) -> Self:
        """Nothing but the times of exactly ``timed`` steps."""
        return cls(skip=skip, timed=timed, nvml_s=0.0, count=0, warmup=0, steps=0)

    @property
    def early(self) -> "Plan | None":
        """The least that gives a recording, made first where the profiler may run twice; None: this is it."""
        first = replace(self, skip=1, timed=3, count=1, warmup=0, steps=1)
        return first if self.steps and self.skip and self.timed >= first.timed and self.count else None

    def least(self, repeatable: bool) -> int:
        """Optimizer steps below which there is no recording; ``again``: the profiler may run twice."""
        return self.early.total(False) if repeatable and self.early else self.total(not repeatable)

    def total(self, sampled: bool) -> int:
        """Steps needed when the NVML loop takes one step or none."""
        return self.skip + self.timed + int(sampled) + self.count + self.warmup + self.steps

    def pace(self, step_ns: int, plain: int, sampled: bool) -> str:
        """Said once the pace is known: how long the rest will take, ``plain`` steps and the passes that follow."""
        left = units.ns(self.left_ns(step_ns, plain, sampled), 2)
        return f"a step takes about {units.ns(step_ns, 2)}: about {left} to go, calibration included"

    def left_ns(self, step_ns: int, plain: int, sampled: bool) -> float:
        """What ``plain`` steps and the passes that follow will take, calibration included."""
        counted = 0 if self.early and not sampled else COUNTED * self.count
        steps = max(plain, 0) + counted + PROFILED * (self.warmup + self.steps)
        costs_s = COSTS_S if self.calibrated else COSTS_S + CALIBRATION_S
        return steps * step_ns + ((self.nvml_s if sampled else 0.0) + costs_s) * 1e9

    def sentence(self, sampled: bool) -> str:
        nvml = f", {self.nvml_s:.0f} s of steps under NVML sampling" if sampled else ""
        return (
            f"plan: {self.skip} steps to warm up, {self.timed} timed with nothing attached{nvml}, "
            f"{self.count} counted, {self.warmup} + {self.steps} profiled"
        )
