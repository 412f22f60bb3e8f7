"""Does tracing change how long kernels take? The same launches between two events without a profiler, and traced.

The launches wait behind a spin kernel, so that neither measurement contains the host. On a CPU the ops are timed
with the host's clock.
"""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import torch

from benchmarks.gpu.results import KernelTime, KernelTimes, Options
from loraprof.capture.device.kinds import measured
from loraprof.capture.device.stopwatch import host_clock
from loraprof.model.trace import Trace
from loraprof.model.vocabulary import HostKind
from loraprof.selftest.device import LONG_CYCLES
from loraprof.selftest.measure import step_alone
from loraprof.selftest.run import Kineto
from loraprof.store.kineto.read import read_trace

LAUNCHES: Final = 100
BURSTS: Final = 5  # of them the median
SPIN: Final = "spin_kernel"
Work = Callable[[], object]


def run(options: Options) -> KernelTimes:
    device = torch.device(options.device)
    works = works_of(device, options.pick(256, 4096, 4096))
    with torch.inference_mode(), TemporaryDirectory(prefix="loraprof-") as folder:
        plain = {name: median(_burst(device, work) for _ in range(BURSTS)) for name, (_, work) in works.items()}
        path = Path(folder) / "trace.json"
        recorder = Kineto(device)
        recorder.prepare()
        for _, work in works.values():
            _burst(device, work)
        recorder.start()
        for i, (_, work) in enumerate(works.values()):
            for burst in range(BURSTS):
                with recorder.step(f"ProfilerStep#{i * BURSTS + burst}"):
                    _burst(device, work)
        recorder.stop(path)
        trace = read_trace(path)
    rows = []
    for i, (name, (op, _)) in enumerate(works.items()):
        steps = (f"ProfilerStep#{i * BURSTS + burst}" for burst in range(BURSTS))
        spans, insides = zip(*(_traced(step_alone(trace, step), op) for step in steps), strict=True)
        rows.append(KernelTime(
            name=name, launches=LAUNCHES,
            unprofiled_ns=plain[name], traced_ns=median(spans), kernel_ns=median(insides),
        ))  # fmt: skip
    return KernelTimes(kernels=rows)


def works_of(device: torch.device, side: int) -> dict[str, tuple[str, Work]]:
    """Ops as a LoRA step has them, by name: the op of the trace, and the call."""
    dtype = measured(device).matrix_dtype()
    x, w = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    a, b = torch.randn(side, 16, device=device, dtype=dtype), torch.randn(16, side, device=device, dtype=dtype)
    s, y, wide = x @ a, torch.empty_like(x), torch.empty(side, side, device=device, dtype=torch.float64)
    low = torch.empty_like(s)
    return {
        "base GEMM": ("aten::mm", lambda: torch.mm(x, w, out=y)),
        "A": ("aten::mm", lambda: torch.mm(x, a, out=low)),
        "B": ("aten::mm", lambda: torch.mm(s, b, out=y)),
        "scale": ("aten::mul", lambda: torch.mul(x, 2.0, out=y)),
        "add": ("aten::add", lambda: torch.add(x, w, out=y)),
        "cast": ("aten::copy_", lambda: wide.copy_(x)),
        "small add": ("aten::add", lambda: torch.add(a, a, out=low[:, :16])),
    }


def _burst(device: torch.device, work: Work) -> float:
    """ns per launch."""
    if device.type == "cpu":
        return host_clock(work, LAUNCHES) / LAUNCHES
    torch.cuda.synchronize()
    torch.cuda._sleep(LONG_CYCLES)
    return measured(device).once_ns(work, LAUNCHES) / LAUNCHES


def _traced(trace: Trace, op: str) -> tuple[float, float]:
    """ns per launch: first start to last end, and inside the kernels."""
    if len(trace.device):
        spins = np.array([SPIN in name for name in trace.names])
        rows = np.flatnonzero(~spins[trace.device.name])
        start, end = trace.device.start[rows], trace.device.end[rows]
    else:
        host = trace.host
        rows = np.flatnonzero((host.kind == HostKind.OP) & (host.name == trace.names.index(op)))
        start, end = host.start[rows], host.end[rows]
    return float(end.max() - start.min()) / LAUNCHES, float((end - start).sum()) / LAUNCHES
