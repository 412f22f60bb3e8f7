"""The process that samples one GPU, so that no driver lock or GIL of the measured process is touched.

    python -m loraprof.capture.nvml.process --uuid GPU-… --period-ns 50000000 --parent PID

Line protocol on stdin and stdout: it opens the device and answers ``ok`` or ``no REASON``; ``start`` begins a
loop and is answered ``ok`` after the first counters are read; ``stop STEPS LOOP_NS`` ends it and is answered with
one line, the JSON of Nvml. It ends when stdin ends or its parent is gone (a fork of the parent may hold the pipe
open, so both are watched), whatever killed the parent. SIGINT is ignored: Ctrl-C reaches the whole process group
and it is the parent that decides. Time stamps: CLOCK_MONOTONIC. Never imports torch.
"""

import argparse
import os
import select
import signal
import sys
import time
from typing import Any

import msgspec

from loraprof.capture.nvml.device import open_device
from loraprof.capture.nvml.errors import NvmlFailure, call, load
from loraprof.capture.nvml.sampling import Sampling

PARENT_CHECK_S = 0.5


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 after the parent closed the pipe or went away, 1 when the device cannot be opened."""
    parser = argparse.ArgumentParser(prog="nvml_process")
    parser.add_argument("--uuid", required=True)
    parser.add_argument("--period-ns", type=int, default=50_000_000)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--library")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    library: Any = None
    try:
        library = load(options.library)
        device = open_device(library, options.uuid)
    except NvmlFailure as error:
        _answer(f"no {error.reason}")
        return 1
    _answer("ok")
    sampling: Sampling | None = None
    while (command := _next_command(sampling, options.period_ns, options.parent)) is not None:
        if command[0] == "start":
            sampling = Sampling(device)
            _answer("ok")
        elif command[0] == "stop" and sampling is not None:
            _answer(msgspec.json.encode(sampling.finish(int(command[1]), int(command[2]))).decode())
            sampling = None
    call(library, "nvmlShutdown")
    return 0


def _answer(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _next_command(sampling: Sampling | None, period_ns: int, parent: int) -> list[str] | None:
    """Samples until a line arrives; ``None`` at the end of stdin or of the parent.

    The parent waits for each answer, so at most one line is in the pipe and none hides in a buffer.
    """
    due_ns = time.monotonic_ns()
    while os.getppid() == parent:
        wait_s = PARENT_CHECK_S
        if sampling is not None:
            sampling.sample()
            due_ns = max(due_ns + period_ns, time.monotonic_ns())
            wait_s = min(wait_s, (due_ns - time.monotonic_ns()) / 1e9)
        if select.select([sys.stdin], [], [], max(wait_s, 0))[0]:
            return sys.stdin.readline().split() or None
    return None


if __name__ == "__main__":
    sys.exit(main())
