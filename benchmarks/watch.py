"""What does ``loraprof watch`` cost per step? A step of 10 ms, with a loader, on this machine's CPU.

    python benchmarks/watch.py [STEPS]

Prints what the clock itself counted, looks at memory and times included, and its share of 10 ms.
"""

import sys
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from loraprof.runs.watch.clock import StepClock

STEP_S = 0.010


def main(steps: int) -> None:
    model = nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clock = StepClock(30, False, lambda *_: None)
    clock.install()
    for (x,) in DataLoader(TensorDataset(torch.zeros(steps, 8))):
        began = time.perf_counter()
        model(x).sum().backward()
        time.sleep(max(0.0, STEP_S - (time.perf_counter() - began)))
        optimizer.step()
    clock.remove()
    per = clock.cost_ns / clock.steps
    print(f"{clock.steps} steps: {per / 1000:.1f} us each, {per / (STEP_S * 1e9):.3%} of a step of 10 ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
