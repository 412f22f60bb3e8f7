"""How many steps does each pass take? The plan is printed before anything runs."""

from dataclasses import dataclass


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

    def sentence(self, cuda: bool) -> str:
        nvml = f", {self.nvml_s:.0f} s of steps under NVML sampling" if cuda else ""
        return (
            f"plan: {self.skip} steps to warm up, {self.timed} timed with nothing attached{nvml}, "
            f"{self.count} counted, {self.warmup} + {self.steps} profiled"
        )
