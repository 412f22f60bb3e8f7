"""What a process of its own measures for ``overhead.py``: a process holds one profiler session, and memory is its own.

    python -m benchmarks.overhead_process control|session|plain|shapes DEVICE STEPS

control   steps before and after nothing at all
session   steps before the recording and after its end; memory at each stage
plain     steps before, during and after a profiler session without shapes
shapes    the same with shapes, as loraprof's own pass

Prints JSON: ``before_ns``, ``during_ns``, ``after_ns`` per step, ``attached_mb`` and ``recorded_mb`` above ``before``.
"""

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.overhead_step import build, timed_ns

WARM_UP = 10
Step = Callable[[], None]


def resident_mb() -> float:
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def record(step: Step) -> dict[str, float]:
    """All passes of ``loraprof profile``; memory above what the process held before the first import of loraprof."""
    before_mb = resident_mb()
    from loraprof.capture.passes.plan import Plan
    from loraprof.capture.passes.session import Session

    session = Session(Plan(), lambda: None)
    session.install()
    step()
    attached_mb = resident_mb()
    while not session.done:
        step()
    session.remove()
    recorded_mb = resident_mb()
    del session
    gc.collect()
    return {"attached_mb": attached_mb - before_mb, "recorded_mb": recorded_mb - before_mb}


def profile(step: Step, steps: int, device: torch.device, shapes: bool) -> dict[str, float]:
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, record_shapes=shapes):
        step()
        return {"during_ns": timed_ns(step, steps, device)}


def main() -> None:
    variant, device, steps = sys.argv[1], torch.device(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)  # a pool that waits for a core would be all the noise there is
    step = build(device)
    timed_ns(step, WARM_UP, device)
    found: dict[str, float] = {"before_ns": timed_ns(step, steps, device)}
    if variant == "session":
        found |= record(step)
    elif variant != "control":
        found |= profile(step, steps, device, variant == "shapes")
    step()
    print(json.dumps({**found, "after_ns": timed_ns(step, steps, device)}))


if __name__ == "__main__":
    main()
