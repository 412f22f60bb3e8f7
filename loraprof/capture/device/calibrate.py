"""What can this device reach? Its own ceilings, measured: GEMM rates, copy rates, and the cost of tiny work.

    GEMM   C[m,n] = A[m,k] W[n,k]^T on normal random data (zeros run up to 15 % faster: less power), warm operands
           except W, of which enough copies take turns to come from memory as a model's weights do
    copy   dst.copy_(src), bytes = read + written, from 16 KiB to at least 8 times the last-level cache, on a GPU
           to 2 GiB: small copies are latency, not bandwidth
    queue  launch_floor_ns: host time to launch a null kernel on an empty queue and hear of its end, the least seen;
           turnaround_ns: per kernel of a full queue that waits behind a long one
    CPU    op_ns: one tiny op inside C++ (a foreach over many), without Python
    both   host_ns: one eager op called from Python; event_ns: see profiler_cost

The order and the sizes depend on device and budget alone. A requested shape is left out when its time, estimated
from the sweep, exceeds what is left of the budget.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import torch

from loraprof.capture.device.kinds import measured
from loraprof.capture.device.profiler_cost import event_cost_ns
from loraprof.capture.device.stopwatch import LEAST, median_ns
from loraprof.errors import UsageError
from loraprof.model.recording import Calibration, CopyRate, GemmRate

Shape = tuple[int, int, int]  # m, n, k

SMALLEST_COPY: Final = 16 << 10
ROTATED_BYTES: Final = 256 << 20
ROTATED_MOST: Final = 16
TRIFLE: Final = 0.02
SHARES: Final = {"squares": 0.35, "copies": 0.2, "tiny": 0.05}  # of the time left; the shapes get the rest
DTYPES: Final = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}


def calibrate(
    device: torch.device,
    shapes: Sequence[Shape] = (),
    dtype: str = "float32",
    budget_s: float = 5.0,
    event_cost: bool = True,
) -> Calibration:
    """Measures the ceilings of ``device`` within about ``budget_s`` seconds; GEMMs in ``dtype``.

    ``event_cost=False`` leaves out the child process of about 2 s that ``event_ns`` takes. Raises UsageError for
    an unknown dtype.
    """
    deadline = time.perf_counter() + budget_s
    event_ns = event_cost_ns(device) if event_cost else None
    left_ns = max(deadline - time.perf_counter(), 0.3 * budget_s) * 1e9
    with measuring(device):
        tiny = measured(device).overheads(SHARES["tiny"] * left_ns)
        copy = copy_rates(device, SHARES["copies"] * left_ns)
        squares = [(n, n, n) for n in measured(device).squares(budget_s)]
        gemm = gemm_rates(device, squares, dtype, SHARES["squares"] * left_ns)
        wanted = [shape for shape in dict.fromkeys(shapes) if shape not in squares]
        left_ns = max((deadline - time.perf_counter()) * 1e9, 0.1 * budget_s * 1e9)
        gemm += gemm_rates(device, wanted, dtype, left_ns, best_flops_per_s(gemm))
    return Calibration(
        gemm=gemm,
        copy=copy,
        launch_floor_ns=tiny.launch_floor_ns,
        turnaround_ns=tiny.turnaround_ns,
        op_ns=tiny.op_ns,
        event_ns=event_ns,
        host_ns=tiny.host_ns,
    )


@contextmanager
def measuring(device: torch.device) -> Iterator[None]:
    """``device`` is current, autograd is off, and random data is the same each time; all restored after."""
    on = measured(device)
    with on.current(), torch.inference_mode(), on.kept_rng():
        torch.manual_seed(0)
        yield


def best_flops_per_s(gemm: Sequence[GemmRate]) -> float:
    """The highest rate among the GEMMs, 2mnk / t."""
    return max(2e9 * one.m * one.n * one.k / one.ns for one in gemm)


def gemm_rates(
    device: torch.device,
    shapes: Sequence[Shape],
    dtype: str,
    budget_ns: float,
    flops_per_s: float | None = None,
) -> list[GemmRate]:
    """Median time of each GEMM. With ``flops_per_s`` known, shapes that take more than the budget are left out."""
    if dtype not in DTYPES:
        raise UsageError(f"cannot calibrate {dtype} GEMMs", f"known: {', '.join(DTYPES)}")
    rates = []
    trifle_ns = TRIFLE * budget_ns  # measured whatever the ones before it took
    for done, (m, n, k) in enumerate(shapes):
        started = time.perf_counter_ns()
        estimate_ns = 0.0 if flops_per_s is None else 2e9 * m * n * k * (LEAST + 2) / flops_per_s
        if estimate_ns <= max(budget_ns, trifle_ns):
            share_ns = budget_ns / (len(shapes) - done)
            rates.append(GemmRate(m=m, n=n, k=k, dtype=dtype, ns=_gemm_ns(device, (m, n, k), dtype, share_ns)))
        budget_ns -= time.perf_counter_ns() - started
    return rates


def _gemm_ns(device: torch.device, shape: Shape, dtype: str, budget_ns: float) -> int:
    m, n, k = shape
    kind = DTYPES[dtype]
    copies = max(1, min(ROTATED_MOST, ROTATED_BYTES // (n * k * kind.itemsize)))
    weight = torch.randn(n, k, device=device, dtype=kind)  # drawn once: that takes longer than to multiply by it
    weights = [weight.clone().t() for _ in range(copies)]
    activation = torch.randn(m, k, device=device, dtype=kind)
    out = torch.empty(m, n, device=device, dtype=kind)
    turn = iter(range(1 << 60))
    return median_ns(
        lambda: torch.mm(activation, weights[next(turn) % copies], out=out), measured(device).time_ns, budget_ns
    )


def copy_rates(device: torch.device, budget_ns: float) -> list[CopyRate]:
    """Copy times over sizes, powers of 4 apart and ending beyond every cache."""
    largest, sizes = measured(device).largest_copy_bytes(), [SMALLEST_COPY]
    while sizes[-1] < largest:
        sizes.append(min(4 * sizes[-1], largest))
    return [_copy_rate(device, size, budget_ns / len(sizes)) for size in sizes]


def _copy_rate(device: torch.device, size_bytes: int, budget_ns: float) -> CopyRate:
    source = torch.ones(size_bytes // 8, device=device)  # half of the bytes are read, half written
    target = torch.empty_like(source)
    took_ns = median_ns(lambda: target.copy_(source), measured(device).time_ns, budget_ns)
    return CopyRate(bytes=2 * source.nbytes, ns=took_ns)
