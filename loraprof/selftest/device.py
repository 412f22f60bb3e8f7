"""Plants for what only devices with a launch queue have: launches, synchronising calls, several streams, graphs.

Spin kernels last as long as they are told, whatever the device; device time is taken between
two events, host time with ``perf_counter_ns`` around the very call.
"""

from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Final

import torch
from torch import nn

from loraprof.capture.device.kinds import queued
from loraprof.selftest.plant import NotHere, Work

ALONE: Final = 20  # null kernels on an empty queue
NULLS: Final = 400  # and one after another
PAUSE_US: Final = 50_000
LONG_CYCLES: Final = 60_000_000  # about 30 ms
SHORT_CYCLES: Final = 40_000  # about 20 us: longer than the host needs for a launch
QUEUED: Final = 1500  # launches behind a long kernel; the queue holds about 1,024
BLOCKED_NS: Final = 1_000_000  # a launch call that takes so long waits for room
FEW: Final = 40  # null kernels from which the turnaround is read
COPIED_BYTES: Final = 256 << 20  # long beside the events around it, short beside LONG_CYCLES
NODES: Final = 40  # kernels of the graph
NODE_CYCLES: Final = 200_000  # about 100 us
REPLAYS: Final = 3


def nulls(device: torch.device) -> Work:
    """Kernels that do next to nothing: their number, and what a launch costs at least.

    No launch can take longer than the host saw launch and synchronisation together take.
    """
    on, x = queued(device), torch.zeros(1, device=device)

    def run() -> Sequence[float]:
        trips = []
        for _ in range(ALONE):
            begin = perf_counter_ns()
            x.add_(1)
            on.synchronise()
            trips.append(perf_counter_ns() - begin)
        for _ in range(NULLS):
            x.add_(1)
        return [ALONE + NULLS, ALONE + NULLS, 0, min(trips), 1]

    return Work(run)


def syncing(device: torch.device) -> Work:
    """A synchronising call that waits while nothing runs."""
    on, x = queued(device), torch.zeros(1, device=device)

    def run() -> Sequence[float]:
        x.add_(1)
        on.pause(on.current_stream(), PAUSE_US)
        begin = perf_counter_ns()
        on.synchronise()
        waited = perf_counter_ns() - begin
        x.add_(1)
        return [waited]

    return Work(run)


def waiting(device: torch.device) -> Work:
    """A kernel, launched long before, that waits for another stream."""
    on, x = queued(device), torch.zeros(1, device=device)
    side = on.stream()

    def run() -> Sequence[float]:
        main, first, last = on.current_stream(), on.event(), on.event()
        on.spin(LONG_CYCLES)  # everything below is launched before it ends
        for _ in range(FEW):
            x.add_(1)
        side.wait_stream(main)
        first.record(side)
        on.pause(side, PAUSE_US)
        last.record(side)
        main.wait_stream(side)
        x.add_(1)
        on.synchronise()
        return [first.elapsed_time(last) * 1e6]

    return Work(run)


def overlapping(device: torch.device) -> Work:
    """A copy from the host on one stream under a long kernel on another."""
    on = queued(device)
    side = on.stream()
    source = torch.ones(COPIED_BYTES // 4).pin_memory()
    target = torch.empty_like(source, device=device)

    def run() -> Sequence[float]:
        first, last = on.event(), on.event()
        on.spin(LONG_CYCLES)
        with on.on(side):
            first.record(side)
            target.copy_(source, non_blocking=True)
            last.record(side)
        on.synchronise()
        return [first.elapsed_time(last) * 1e6]

    return Work(run)


def queueing(device: torch.device) -> Work:
    """More launches than the queue holds: the call waits for room, and the device has work all the time.

    Raises RuntimeError where no call waited.
    """
    on = queued(device)

    def run() -> Sequence[float]:
        longest = 0
        on.spin(LONG_CYCLES)
        for _ in range(QUEUED):
            begin = perf_counter_ns()
            on.spin(SHORT_CYCLES)
            longest = max(longest, perf_counter_ns() - begin)
        on.synchronise()
        if longest < BLOCKED_NS:
            raise RuntimeError(f"{QUEUED} launches did not fill the launch queue of this device")
        return [QUEUED + 1, longest, 0, 0]

    return Work(run)


class _Replayed(nn.Module):
    """A captured graph as a module, so that its launches lie in a marker."""

    def __init__(self, replay: Callable[[], None]) -> None:
        super().__init__()
        self.replay = replay

    def forward(self) -> None:
        self.replay()


def replaying(device: torch.device) -> Work:
    """A graph: one launch call starts many kernels."""
    on = queued(device)
    if (refused := on.no_graphs()) is not None:
        raise NotHere(refused)

    def spins() -> None:
        for _ in range(NODES):
            on.spin(NODE_CYCLES)

    module = _Replayed(on.graph(spins))

    def run() -> Sequence[float]:
        first, last = on.event(), on.event()
        first.record()
        for _ in range(REPLAYS):
            module()
        last.record()
        last.synchronize()
        return [NODES * REPLAYS, REPLAYS, 0, first.elapsed_time(last) * 1e6]

    return Work(run, module)
