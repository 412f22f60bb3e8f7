"""What does the profiler add per recorded host event? Measured in a process of its own, once per installation.

    event_ns = (profiled - unprofiled time of the same ops) / recorded host events,  with record_shapes as pass P

A process may hold one profiler session only, and the one that profiles the training step is not this one.
``python -m loraprof.capture.device.profiler_cost cpu`` prints the figure.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from torch.autograd.profiler import profile

from loraprof.capture.device.kinds import measured
from loraprof.collector import end_unwalked
from loraprof.lifeline import bound

ROOT: Final = Path(__file__).resolve().parents[2]
PATIENCE_S: Final = 60
BLOCKS: Final = 60
CPU: Final = torch._C._autograd.DeviceType.CPU


def event_cost_ns(device: torch.device) -> float | None:
    """ns per recorded event, from a child process; ``None`` where that fails or the difference is not positive."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = bound([sys.executable, "-m", "loraprof.capture.device.profiler_cost", str(device)])
    environment = {**os.environ, "PYTHONPATH": path, "KINETO_LOG_LEVEL": "99"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True, env=environment)
        cost = float(done.stdout.split()[-1])
    except (subprocess.SubprocessError, OSError, ValueError, IndexError):
        return None
    return cost if cost > 0 else None


def measure(device: torch.device) -> float:
    """ns per recorded event, in this process, which must not have had a profiler session before.

    The session is Kineto's without ``torch.profiler`` around it, which first loads the compiler, for a second.
    """
    block = _block(device)
    _times(block, device)  # warm-up
    before = _times(block, device)
    on = None if device.type == "cpu" else device.type
    with profile(use_device=on, record_shapes=True, use_kineto=True) as session:
        _times(block, device)
        profiled = _times(block, device)
    after = _times(block, device)
    recorded = _host_events(session) / (2 * BLOCKS)
    plain = statistics.median(before + after)
    return (statistics.median(profiled) - plain) / recorded


def _host_events(session: profile) -> int:
    assert session.kineto_results is not None
    return sum(one.device_type() == CPU for one in session.kineto_results.events())


def _block(device: torch.device) -> Callable[[], None]:
    """Ops of a LoRA step in miniature: nested ops, views, and an in-place one."""
    x, weight = torch.randn(8, 16, device=device), torch.randn(16, 16, device=device)

    def run() -> None:
        for _ in range(20):
            y = torch.nn.functional.linear(x, weight)
            y.add_(x).view(4, 32)

    return run


def _times(block: Callable[[], None], device: torch.device) -> list[int]:
    times, on = [], measured(device)
    for _ in range(BLOCKS):
        started = time.perf_counter_ns()
        block()
        on.synchronise()
        times.append(time.perf_counter_ns() - started)
    return times


if __name__ == "__main__":
    end_unwalked()
    torch.set_num_threads(1)  # tiny ops: the pool would only add noise
    print(measure(torch.device(sys.argv[1])))
