"""Is a second profiler session of one process as complete as the first? Closure of both, after a pause.

Reported elsewhere: later sessions lose the records of their first kernels (pytorch/pytorch#192021). loraprof opens one
session per process and checks its closure; this says what that rule is worth here.
"""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import torch
from torch.profiler import record_function

from benchmarks.gpu.results import Options, Session, Sessions
from loraprof.analysis.analyse import analyse
from loraprof.capture.device.kinds import measured
from loraprof.model.vocabulary import HostKind
from loraprof.selftest.run import Kineto
from loraprof.store.kineto.read import read_trace

STEPS: Final = 3
LAUNCHES: Final = 200


def run(options: Options) -> Sessions:
    pause_s = options.pick(1.0, 15.0, 15.0)
    device = torch.device(options.device)
    with TemporaryDirectory(prefix="loraprof-") as folder:
        first = _session(device, Path(folder) / "first.json")
        time.sleep(pause_s)
        second = _session(device, Path(folder) / "second.json")
    return Sessions(pause_s=pause_s, sessions=[first, second])


def _session(device: torch.device, path: Path) -> Session:
    x, wait = torch.zeros(1024, device=device), measured(device).synchronise
    recorder = Kineto(device)
    recorder.prepare()
    x.add_(1)
    wait()
    recorder.start()
    for i in range(STEPS):
        with record_function(f"ProfilerStep#{i}"):
            for _ in range(LAUNCHES):
                x.add_(1)
            wait()
    recorder.stop(path)
    trace = read_trace(path)
    host, closure = trace.host, analyse(trace).closure
    ops = (host.kind == HostKind.OP) & (host.name == trace.names.index("aten::add_"))
    return Session(
        expected=STEPS * LAUNCHES,
        recorded=len(trace.device) if device.type == "cuda" else int(ops.sum()),
        ok=closure.ok,
        launches_without_kernel=closure.launches_without_kernel,
        kernels_without_launch=closure.kernels_without_launch,
        negative_latency=closure.negative_latency,
        zero_timestamps=closure.zero_timestamps,
    )
