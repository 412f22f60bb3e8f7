"""Are the calibration's roofs roofs? The best GEMM at 8192³ and the best copy that this device reaches, beside them.

The best of many single measurements after a warm-up, in both layouts of the second factor; random data.
"""

from typing import Final

import torch

from benchmarks.gpu.results import Options, Roofs
from loraprof.analysis.limits.rates import Rates
from loraprof.capture.device.calibrate import best_flops_per_s
from loraprof.capture.device.calibration_cache import cached_calibration
from loraprof.capture.device.kinds import measured

TIMES: Final = 30
COPIED_BYTES: Final = (256 << 20, 1 << 30, 2 << 30)


def run(options: Options) -> Roofs:
    device = torch.device(options.device)
    dtype = measured(device).matrix_dtype()
    name = str(dtype).removeprefix("torch.")
    calibration, _ = cached_calibration(device, dtype=name)
    rates = Rates(calibration)
    side = 8192 if options.device == "cuda" else 1024
    sizes = COPIED_BYTES if options.device == "cuda" else (128 << 20,)
    with torch.inference_mode():
        gemm, copy = best_gemm(device, dtype, side), max(best_copy(device, size) for size in sizes)
    return Roofs(
        gemm_side=side,
        gemm_roof_flops_per_s=best_flops_per_s([one for one in calibration.gemm if one.dtype == name]),
        gemm_best_flops_per_s=gemm,
        copy_roof_bytes_per_s=rates.stream_bytes_per_s or 0.0,
        copy_best_bytes_per_s=copy,
    )


def best_gemm(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """FLOP/s."""
    clock = measured(device).time_ns
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out, best = torch.empty_like(a), 0.0
    for factor in (b, b.t()):
        torch.mm(a, factor, out=out)
        shortest = min(clock(lambda factor=factor: torch.mm(a, factor, out=out), 1) for _ in range(TIMES))  # type: ignore[misc]
        best = max(best, 2e9 * side**3 / shortest)
    return best


def best_copy(device: torch.device, size_bytes: int) -> float:
    """Bytes read plus written per second; half of ``size_bytes`` is read."""
    clock = measured(device).time_ns
    source = torch.ones(size_bytes // 8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2e9 * source.nbytes / min(clock(lambda: target.copy_(source), 1) for _ in range(TIMES))
