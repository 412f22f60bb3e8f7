"""Plants that need no GPU, and run on one too: a sleep, a data loader that sleeps, a product, a copy, an op that spins.

The truth of a time is taken with ``perf_counter_ns`` around the very call, of device work between two events.
"""

import time
from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from loraprof.capture.stopwatch import clock_of
from loraprof.selftest.plant import Work

SLEEP_S: Final = 0.06
ITEMS: Final = 6  # per batch of the loader
REPEAT: Final = {"cpu": 8, "cuda": 5}
SIDE: Final = {"cpu": 384, "cuda": 8192}  # of the product's matrices
COPIED_BYTES: Final = {"cpu": 32 << 20, "cuda": 512 << 20}
SPIN_NS: Final = 40_000_000
SPIN: Final = "loraprof_selftest::spin"


def matmul_dtype(device: torch.device) -> torch.dtype:
    """What the matrix units of the device are for."""
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def sleep(device: torch.device) -> Work:
    """Work, a sleep of the host, work: the device waits for Python."""
    x = torch.zeros(1, device=device)

    def run() -> list[float]:
        x.add_(1)
        begin = time.perf_counter_ns()
        time.sleep(SLEEP_S)
        slept = time.perf_counter_ns() - begin
        x.add_(1)
        return [slept]

    return run


class _Slow(Dataset[Tensor]):
    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: int) -> Tensor:
        time.sleep(SLEEP_S / ITEMS)
        return torch.zeros(1)


def loader(device: torch.device) -> Work:
    """Work, a batch that takes long to load, work."""
    x = torch.zeros(1, device=device)
    batches: Iterator[Tensor] = iter(DataLoader(_Slow(), batch_size=ITEMS))

    def run() -> list[float]:
        x.add_(1)
        begin = time.perf_counter_ns()
        batch = next(batches)
        waited = time.perf_counter_ns() - begin
        x.add_(batch.to(device)[0])
        return [waited]

    return run


def gemm(device: torch.device) -> Work:
    """Products of known FLOPs: FLOPs, time, FLOP/s."""
    side, repeat, clock = SIDE[device.type], REPEAT[device.type], clock_of(device)
    a, b = (torch.randn(side, side, device=device, dtype=matmul_dtype(device)) for _ in range(2))
    out = torch.empty_like(a)
    flops = 2 * side**3 * repeat

    def run() -> list[float]:
        took = clock(lambda: torch.mm(a, b, out=out), repeat)
        return [flops, took, flops / took * 1e9]

    return run


def copy(device: torch.device) -> Work:
    """Copies of known bytes, half of them read: bytes, time, bytes per second."""
    repeat, clock = REPEAT[device.type], clock_of(device)
    source = torch.ones(COPIED_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    moved = 2 * source.nbytes * repeat

    def run() -> list[float]:
        took = clock(lambda: target.copy_(source), repeat)
        return [moved, took, moved / took * 1e9]

    return run


_library: list[Any] = []
_spun: list[int] = []


def _spin(x: Tensor, ns: int) -> None:
    begin = time.perf_counter_ns()
    while (now := time.perf_counter_ns()) - begin < ns:
        pass
    _spun.append(now - begin)


def spin_op() -> None:
    """Registers the op ``SPIN``, once: the host does nothing else for ``ns``."""
    if not _library:
        library: Any = torch.library.Library(SPIN.split("::")[0], "FRAGMENT")  # type: ignore[no-untyped-call]
        library.define("spin(Tensor x, int ns) -> ()")
        library.impl("spin", _spin, "CPU")
        _library.append(library)


def spin(device: torch.device) -> Work:
    """One op that keeps the host busy for a known time."""
    spin_op()
    x = torch.zeros(1, device=device)

    def run() -> list[float]:
        torch.ops.loraprof_selftest.spin(x, SPIN_NS)
        return [_spun[-1]]

    return run
