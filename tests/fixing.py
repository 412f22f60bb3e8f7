"""What tests of ``loraprof fix`` share: a small script, runs that never happened, a result."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

from loraprof.model.finding import Gain
from loraprof.model.fix import Fix, LossChange, Measured, Tried, Unchanged
from loraprof.runs.fix.forks import Forks
from loraprof.runs.fix.job import Command, Found, Trial
from loraprof.runs.fix.schedule import BASE, TWIN, Bench

SCRIPT = """
import torch

from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
x = torch.randn(16, 8)
{before}
for step in range({steps}):
    {inside}
    (model(x) - 1).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none={none})
"""


def script(folder: Path, steps: int = 40, inside: str = "pass", before: str = "", none: bool = True) -> Command:
    place = folder / "train.py"
    place.write_text(SCRIPT.format(steps=steps, inside=inside, before=before, none=none))
    return Command(target=[str(place)])


def seen(times: list[int], losses: list[float] | None = None, gradients: list[float] | None = None) -> Found:
    return Found(times_ns=times, losses=losses or [1.0, 0.5], gradients=gradients or [1.0, 2.0])


def rounds(own: Found, count: int = 3) -> list[dict[str, Found]]:
    return [{BASE: seen([100, 101, 99, 100]), TWIN: seen([100, 100, 99, 101]), "r": own} for _ in range(count)]


class FakeForks:
    """Answers from a table; counts what was asked."""

    def __init__(self, answers: Callable[[list[str]], Found]) -> None:
        self.answers, self.asked = answers, cast(list[str], [])

    def run(self, command: Command, trial: Trial, limit_s: float) -> Found:
        self.asked.append("+".join(trial.remedies) or "-")
        return self.answers(trial.remedies)


def bench(fake: FakeForks, folder: Path | None = None) -> Bench:
    return Bench(cast(Forks, fake), Command(target=["x.py"]), 2**62, folder, lambda _: None)


def sample() -> Fix:
    gain = Gain(ns=10, speedup=1.3, low=1.1, high=1.4, basis="model")
    fast = Measured(ratio=0.8, low=0.78, high=0.82, verdict="faster")
    tried = [
        Tried(finding="L1", arm="lora-fused", kind="same_training", text="fuse it", predicted=gain, measured=fast,
              covered=True, peak_bytes=1 << 28, loss=LossChange(largest_relative_difference=0.0, verdict="same"),
              status="kept"),
        Tried(finding=None, arm="autocast", kind="numerics", text="cast", measured=fast, status="loss differs",
              unpredicted="no rule says what it saves",
              loss=LossChange(largest_relative_difference=0.2, verdict="differs"), reason="gradients differ by 20%"),
        Tried(finding=None, arm="tf32", kind="numerics", text="t", status="refused", reason="this device has no TF32"),
    ]  # fmt: skip
    return Fix(
        target="train.py",
        device_name="a device",
        base=Unchanged(median_ns=1000, low_ns=990, high_ns=1010, peak_bytes=1 << 28, loss=[1.0]),
        noise_floor=0.01,
        remedies=tried,
        rounds=3,
    )


def gone(process: int) -> bool:
    """Within a while: a signal is delivered, not awaited."""
    for _ in range(100):
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.1)
    return False
