"""A machine small enough to be obvious: host threads on one clock, a launch queue, streams, synchronisation.

Semantics, in integer ns: a launch call returns after its API time, or when the queue has room; a record starts at

    max(launch call + latency, end of its stream + turnaround, ends of the streams it waits for)

and a synchronising call returns once what it waits for has ended, plus a return time. The host runs one thread at
a time (as PyTorch does while backward runs), so one clock is enough. Every record of the trace is emitted here.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from builders import Document

from synthetic.kineto import device_event, host_event
from synthetic.ledger import Ledger, Record, Work

MAIN, BACKWARD = 4242, 4243
KERNEL, MEMCPY, MEMSET = "kernel", "gpu_memcpy", "gpu_memset"


@dataclass(frozen=True, slots=True)
class Hardware:
    latency_ns: int = 6000  # launch call to start on an idle stream
    turnaround_ns: int = 1000  # end of one record to the start of the next, already queued
    queue: int = 1024  # launches the host can be ahead
    api_ns: int = 4000
    return_ns: int = 2000  # of a synchronising call, after what it waits for has ended
    host_percent: int = 100  # host time relative to the program's; above 100 models a profiler
    event_ns: int = 0  # that every host record costs, half around its begin, half around its end
    rocm: bool = False


@dataclass(frozen=True, slots=True)
class Kernel:
    """One record asked for. ``waits``: streams whose work must have ended. ``early_ns``: programmatic overlap."""

    name: str
    ns: int
    sort: str = KERNEL
    stream: int = 7
    waits: tuple[int, ...] = ()
    early_ns: int = 0
    bytes: int = 0

    @property
    def cls(self) -> str:
        if self.sort != KERNEL:
            return "copy"
        return "comm" if self.name.startswith("nccl") else "compute"


class Machine:
    """Runs host programs; events go to ``emit``, the truth to ``ledger``."""

    def __init__(self, hardware: Hardware, emit: Callable[[Document], None], at: int = 1_000_000) -> None:
        self.hardware, self._emit = hardware, emit
        self.now, self.thread = at, MAIN
        self.host_ns = 0  # host work so far, waiting excluded
        self.ledger = Ledger(MAIN, hardware.turnaround_ns)
        self._causes: dict[int, list[str]] = {}
        self._externals: list[int] = []
        self._external, self._correlation = 0, 0
        self._started: deque[int] = deque(maxlen=hardware.queue)
        self._free: dict[int, int] = {}

    def spend(self, ns: int) -> None:
        """Host time on whatever the current thread is inside of."""
        ns = ns * self.hardware.host_percent // 100
        self.now += ns
        self.host_ns += ns

    @contextmanager
    def on(self, thread: int) -> Iterator[None]:
        before, self.thread = self.thread, thread
        yield
        self.thread = before

    @contextmanager
    def inside(self, cat: str, name: str, cause: str | None = None, args: Document | None = None) -> Iterator[None]:
        """A record that encloses the body; ``cause`` is what time in it counts as (``None``: says nothing)."""
        self._recorded()
        begin, args = self.now, dict(args or {})
        if cat == "cpu_op":
            self._external += 1
            args["External id"] = self._external
            self._externals.append(self._external)
        if cause:
            self._enter(cause)
        self._recorded()
        yield
        self._recorded()
        if cause:
            self._leave()
        if cat == "cpu_op":
            self._externals.pop()
        self._emit(host_event(cat, name, self.thread, begin, self.now, args))
        self._recorded()

    def op(self, name: str, **args: Any) -> Any:
        return self.inside("cpu_op", name, "framework", args)

    def call(self, name: str, ns: int, cause: str) -> None:
        """A runtime call that only takes time (allocation, event record, ...)."""
        with self._api(name, cause):
            self.spend(ns)

    def overhead(self, name: str, ns: int, cause: str = "profiler") -> None:
        with self.inside("overhead", name, cause):
            self.spend(ns)

    def launch(self, kernels: Sequence[Kernel], work: Work, api_ns: int = 0, name: str = "") -> None:
        """One launch call; several kernels are those of a graph."""
        hardware = self.hardware
        name = name or _launch_name(kernels[0], len(kernels))
        with self._api(name, "launch_api") as correlation:
            called = self.now - hardware.event_ns // 4
            room = self._started[0] if len(self._started) == hardware.queue else 0
            ready = called + (api_ns or hardware.api_ns) * hardware.host_percent // 100
            returned = max(ready, room)
            for node, kernel in enumerate(kernels):
                start = self._start(kernel, called)
                self._run(kernel, Record(
                    kernel.cls, kernel.stream, correlation, start, start + kernel.ns,
                    called, returned, self.thread, work,
                ), node if len(kernels) > 1 else None)  # fmt: skip
                if not node:  # a graph takes one place of the queue
                    self._started.append(start)
            self.host_ns += ready - called
            self.now = returned

    def synchronize(self, ns: int = 1000, stream: int | None = None) -> None:
        """Waits for ``stream``, or for the whole device."""
        name = "cudaDeviceSynchronize" if stream is None else "cudaStreamSynchronize"
        ends = self._free.values() if stream is None else [self._free.get(stream, 0)]
        last = max(ends, default=0)
        with self._api(name, "sync"):
            self.spend(ns)
            if last > self.now:
                self.now = last + self.hardware.return_ns

    def free(self, stream: int) -> int:
        """When the work given to ``stream`` so far has ended."""
        return self._free.get(stream, 0)

    def hold(self, stream: int, until: int) -> None:
        """Work given to ``stream`` from here on waits until then, although nothing runs: a host function's turn."""
        self._free[stream] = max(until, self.free(stream))

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        begin = self.now
        self.ledger.step_begins(begin, name, self.host_ns)
        yield
        self.ledger.step_ends(self.now, self.host_ns)
        self._emit(host_event("user_annotation", name, self.thread, begin, self.now, {}))

    def _start(self, kernel: Kernel, called: int) -> int:
        ready = [called + self.hardware.latency_ns, *(self._free.get(s, 0) for s in kernel.waits)]
        if kernel.stream in self._free:
            delay = -kernel.early_ns if kernel.early_ns else self.hardware.turnaround_ns
            ready.append(self._free[kernel.stream] + delay)
        return max(ready)

    def _run(self, kernel: Kernel, record: Record, node: int | None) -> None:
        self._free[kernel.stream] = max(record.end, self._free.get(kernel.stream, 0))
        self.ledger.device(record)
        args: Document = {"External id": self._externals[-1]} if self._externals else {}
        if node is not None:
            args |= {"graph id": 1, "graph node id": node + 1}
        if kernel.sort != KERNEL:
            args["bytes"] = kernel.bytes
        self._emit(
            device_event(kernel.sort, kernel.name, record.stream, record.correlation, record.start, record.end, args)
        )

    @contextmanager
    def _api(self, name: str, cause: str) -> Iterator[int]:
        self._recorded()
        self._correlation += 1
        correlation, begin = self._correlation, self.now
        self._enter(cause)
        self._recorded()
        yield correlation
        self._recorded()
        self._leave()
        args: Document = {"correlation": correlation, "cbid": 211}
        if self._externals:
            args["External id"] = self._externals[-1]
        name = name.replace("cuda", "hip") if self.hardware.rocm else name
        self._emit(host_event("cuda_runtime", name, self.thread, begin, self.now, args))
        self._recorded()

    def _recorded(self) -> None:
        self.now += self.hardware.event_ns // 4
        self.host_ns += self.hardware.event_ns // 4

    def _enter(self, cause: str) -> None:
        stack = self._causes.setdefault(self.thread, [])
        swallowed = cause == "framework" and "data" in stack  # an op of the data loader is data loading
        stack.append("data" if swallowed else cause)
        self.ledger.host(self.now, self.thread, stack[-1])

    def _leave(self) -> None:
        stack = self._causes[self.thread]
        stack.pop()
        self.ledger.host(self.now, self.thread, stack[-1] if stack else None)


def _launch_name(kernel: Kernel, count: int) -> str:
    if count > 1:
        return "cudaGraphLaunch"
    return {KERNEL: "cudaLaunchKernel", MEMCPY: "cudaMemcpyAsync", MEMSET: "cudaMemsetAsync"}[kernel.sort]
