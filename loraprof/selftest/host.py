"""Plants for what the host does: a sleep, a data loader that sleeps, an op that spins.

The truth is taken with ``perf_counter_ns`` around the very call, so that whatever the machine does meanwhile is in
both numbers.
"""

from collections.abc import Iterator, Sequence
from time import perf_counter_ns, sleep
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from loraprof.selftest.plant import Work

SLEEP_S: Final = 0.06
ITEMS: Final = 6  # per batch of the loader
SPIN_NS: Final = 40_000_000
SPIN: Final = "loraprof_selftest::spin"


def sleeping(device: torch.device) -> Work:
    """Work, a sleep of the host, work: the device waits for Python."""
    x = torch.zeros(1, device=device)

    def run() -> Sequence[float]:
        x.add_(1)
        begin = perf_counter_ns()
        sleep(SLEEP_S)
        slept = perf_counter_ns() - begin
        x.add_(1)
        return [slept]

    return Work(run)


class _Slow(Dataset[Tensor]):
    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: int) -> Tensor:
        sleep(SLEEP_S / ITEMS)
        return torch.zeros(1)


def loading(device: torch.device) -> Work:
    """Work, a batch that takes long to load, work."""
    x = torch.zeros(1, device=device)
    batches: Iterator[Tensor] = iter(DataLoader(_Slow(), batch_size=ITEMS))

    def run() -> Sequence[float]:
        x.add_(1)
        begin = perf_counter_ns()
        batch = next(batches)
        waited = perf_counter_ns() - begin
        x.add_(batch.to(device)[0])
        return [waited]

    return Work(run)


_library: list[Any] = []
_spun: list[int] = []


def _spin(x: Tensor, ns: int) -> None:
    begin = perf_counter_ns()
    while (now := perf_counter_ns()) - begin < ns:
        pass
    _spun.append(now - begin)


def spin_op() -> None:
    """Registers the op ``SPIN``, once: the host does nothing else for ``ns``."""
    if not _library:
        library: Any = torch.library.Library(SPIN.split("::")[0], "FRAGMENT")  # type: ignore[no-untyped-call]
        library.define("spin(Tensor x, int ns) -> ()")
        library.impl("spin", _spin, "CompositeExplicitAutograd")
        _library.append(library)


def spinning(device: torch.device) -> Work:
    """An op that keeps the host busy and launches nothing: on a CPU that is work, a GPU waits for it."""
    spin_op()
    x = torch.zeros(1, device=device)

    def run() -> Sequence[float]:
        x.add_(1)
        torch.ops.loraprof_selftest.spin(x, SPIN_NS)
        x.add_(1)
        return [_spun[-1], _spun[-1]]

    return Work(run)
