"""Plants of known FLOPs and bytes: products and copies, on a GPU also against the roofs that its calibration set."""

from collections.abc import Sequence
from typing import Final

import torch

from loraprof.capture.device.stopwatch import once_clock_of
from loraprof.selftest.plant import Work

REPEAT: Final = 5
SIDE: Final = {"cpu": 768, "cuda": 8192}  # of the product's matrices
COPIED_BYTES: Final = {"cpu": 64 << 20, "cuda": 1 << 30}


def matmul_dtype(device: torch.device) -> torch.dtype:
    """What the matrix units of the device are for."""
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def products(device: torch.device) -> Work:
    """Products of known FLOPs: FLOPs, time, FLOP/s."""
    side, clock = SIDE[device.type], once_clock_of(device)
    a, b = (torch.randn(side, side, device=device, dtype=matmul_dtype(device)) for _ in range(2))
    out = torch.empty_like(a)
    flops = 2 * side**3 * REPEAT

    def run() -> Sequence[float]:
        took = clock(lambda: torch.mm(a, b, out=out), REPEAT)
        return [flops, took, flops / took * 1e9]

    return Work(run)


def copies(device: torch.device) -> Work:
    """Copies of known bytes, half of them read: bytes, time, bytes per second."""
    clock = once_clock_of(device)
    source = torch.ones(COPIED_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    moved = 2 * source.nbytes * REPEAT

    def run() -> Sequence[float]:
        took = clock(lambda: target.copy_(source), REPEAT)
        return [moved, took, moved / took * 1e9]

    return Work(run)
