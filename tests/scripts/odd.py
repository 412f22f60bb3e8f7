"""Thirty steps of a small model in a script with one peculiarity: ``python odd.py PECULIARITY``."""

import os
import sys
import threading
from contextlib import nullcontext

import torch
from torch import nn
from torch.profiler import profile, schedule

WHAT = sys.argv[1]
model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
steps_made: list[int] = []


def train(steps: int = 30) -> None:
    made = 0
    plan = schedule(wait=3, warmup=1, active=1)
    with profile(schedule=plan) if WHAT == "profiler-waits" else profile() if WHAT == "profiler" else nullcontext():
        for _ in range(steps):
            try:
                model(torch.ones(4, 8)).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
                made += 1
            except Exception:
                print("swallowed")
    steps_made.append(made)


if WHAT == "elsewhere":
    os.chdir("/")
if WHAT == "stdout":
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
if "thread" in WHAT:
    worker = threading.Thread(target=train, args=(3,) if WHAT == "short-thread" else ())
    worker.start()
    worker.join()
    print("the thread ended after", steps_made[-1], "steps")
else:
    train()
print("trained")
if WHAT == "interrupted":
    raise KeyboardInterrupt
