"""Plants of known FLOPs and bytes: products and copies, on a GPU also against the roofs that its calibration set."""

from collections.abc import Sequence
from typing import Final

import torch

from loraprof.capture.device.kinds import measured
from loraprof.selftest.plant import Work

REPEAT: Final = 5


def products(device: torch.device) -> Work:
    """Products of known FLOPs: FLOPs, time, FLOP/s."""
    on = measured(device)
    side = on.sizes.product_side
    a, b = (torch.randn(side, side, device=device, dtype=on.matrix_dtype()) for _ in range(2))
    out = torch.empty_like(a)
    flops = 2 * side**3 * REPEAT

    def run() -> Sequence[float]:
        took = on.once_ns(lambda: torch.mm(a, b, out=out), REPEAT)
        return [flops, took, flops / took * 1e9]

    return Work(run)


def copies(device: torch.device) -> Work:
    """Copies of known bytes, half of them read: bytes, time, bytes per second."""
    on = measured(device)
    source = torch.ones(on.sizes.copied_bytes // 4, device=device)
    target = torch.empty_like(source)
    moved = 2 * source.nbytes * REPEAT

    def run() -> Sequence[float]:
        took = on.once_ns(lambda: target.copy_(source), REPEAT)
        return [moved, took, moved / took * 1e9]

    return Work(run)
