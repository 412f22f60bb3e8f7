"""The real code of a program for CUDA, run on the simulated machine: no device, no kernel, exact times.

Tensors stay on the CPU. Below autograd every op becomes an op of the machine that launches one kernel (views and
allocations launch none, ``.item()`` copies and waits); ``torch.cuda`` and the clocks are those of the machine. So a
program's own idea of what it did, and the trace of it, can be held against each other.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import Document, write
from dispatch import recorded, tensors
from torch.utils._python_dispatch import TorchDispatchMode

from loraprof.analysis.attribution.names import EVALUATE
from loraprof.capture.device.cpu import Cpu
from loraprof.capture.device.cuda import Cuda
from loraprof.capture.modules import markers
from synthetic.kineto import document
from synthetic.ledger import Work
from synthetic.machine import MEMCPY, Hardware, Kernel, Machine

MAIN_STREAM = 7
FLOPS_PER_NS, BYTES_PER_NS, HOST_BYTES_PER_NS, SHORTEST_NS = 1_000, 1_000, 25, 1_500
CLOCK_NS = 500  # of reading the host's clock
PYTHON_NS = 1_500  # before each op
WORK = Work("other", "other", None)


class Stream:
    def __init__(self, machine: Machine, number: int) -> None:
        self.machine, self.number, self.cuda_stream = machine, number, number
        self.waits: set[int] = set()

    def wait_stream(self, other: "Stream") -> None:
        self.waits.add(other.number)

    def reached(self) -> int:
        """When everything given to it so far has ended."""
        return max(self.machine.now, *(self.machine.free(s) for s in (self.number, *self.waits)))


class Event:
    def __init__(self, simulated: "SimulatedCuda") -> None:
        self.simulated, self.at = simulated, 0

    def record(self, stream: Stream | None = None) -> None:
        self.at = (stream or self.simulated.current).reached()

    def synchronize(self) -> None:
        self.simulated.machine.synchronize()

    def elapsed_time(self, other: "Event") -> float:
        return (other.at - self.at) / 1e6


class Graph:
    def __init__(self, simulated: "SimulatedCuda") -> None:
        self.simulated = simulated
        self.kernels: list[Kernel] = []

    def replay(self) -> None:
        self.simulated.machine.spend(PYTHON_NS)
        self.simulated.machine.launch(self.kernels, WORK)
        self.simulated.machine.spend(PYTHON_NS)


class SimulatedCuda(TorchDispatchMode):
    """``with SimulatedCuda().installed(modules):`` patches torch and the clocks that ``modules`` imported by name."""

    def __init__(self, hardware: Hardware | None = None) -> None:
        super().__init__()
        self.events: list[Document] = []
        self.recording, self.capturing, self.loading = False, False, False
        self.machine = Machine(hardware or Hardware(), self._emit)
        self.current = Stream(self.machine, MAIN_STREAM)
        self._numbers = count(MAIN_STREAM + 1)
        self._graph = Graph(self)

    def _emit(self, event: Document) -> None:
        if self.recording:
            self.events.append(event)

    @contextmanager
    def installed(self, modules: Sequence[Any]) -> Iterator[None]:
        machine, current = self.machine, self.current
        with pytest.MonkeyPatch.context() as patch, self:
            for name, value in {
                "_sleep": lambda cycles: self._launch(Kernel("spin_kernel", max(cycles // 2, SHORTEST_NS))),
                "synchronize": lambda device=None: machine.synchronize(),
                "Stream": lambda: Stream(machine, next(self._numbers)),
                "current_stream": lambda: current,
                "stream": self._on,
                "CUDAGraph": lambda: Graph(self),
                "graph": self._capture,
            }.items():
                patch.setattr(torch.cuda, name, value)
            patch.setattr(torch.version, "cuda", "12.8")
            patch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
            patch.setattr(torch.autograd.profiler, "record_function", self._loader)
            patch.setattr(markers, "_Range", lambda name: _Range(machine, name))
            for module in modules:
                for name, value in {
                    "measured": lambda place: _Device(self),
                    "queued": lambda place: _Device(self),
                    "perf_counter_ns": self._clock,
                    "sleep": lambda s: machine.spend(round(s * 1e9)),
                }.items():
                    if hasattr(module, name):
                        patch.setattr(module, name, value)
            yield

    # A recorder, as the self-test wants it.

    def prepare(self) -> None:
        self.machine.synchronize()

    def start(self) -> None:
        self.recording = True

    def step(self, name: str) -> Any:
        return self.machine.step(name)

    def stop(self, trace: Path) -> None:
        write(trace, document(self.events))

    def _clock(self) -> int:
        self.machine.spend(CLOCK_NS)
        return self.machine.now

    def pause(self, stream: Stream, us: int) -> None:
        self.machine.hold(stream.number, stream.reached() + us * 1000)

    @contextmanager
    def _on(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    @contextmanager
    def _capture(self, graph: Graph) -> Iterator[None]:
        self.capturing, self._graph = True, graph
        yield
        self.capturing = False

    @contextmanager
    def _loader(self, name: str) -> Iterator[None]:
        self.loading = True
        with self.machine.inside("user_annotation", name, "data"):
            yield
        self.loading = False

    def _launch(self, kernel: Kernel) -> None:
        if self.capturing:
            self._graph.kernels.append(kernel)
            return
        self.machine.spend(PYTHON_NS)
        waits, stream = tuple(sorted(self.current.waits)), self.current.number
        self.current.waits.clear()
        made = Kernel(kernel.name, kernel.ns, kernel.sort, stream, waits, bytes=kernel.bytes)
        self.machine.launch([made], WORK)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func._schema.name
        shapes = recorded(func, args, kwargs)
        given: Document = {"Input Dims": shapes.dims, "Input type": shapes.types, "Concrete Inputs": shapes.concrete}
        self.machine.spend(PYTHON_NS)
        with ExitStack() as around:
            node: Any = torch._C._current_autograd_node() if torch._C._current_graph_task_id() >= 0 else None
            if node is not None:
                numbers = {"Sequence number": node._sequence_nr(), "Fwd thread id": 1}
                around.enter_context(self.machine.inside("cpu_op", EVALUATE + node.name(), "framework", numbers))
                self.machine.spend(PYTHON_NS)
            if name == "aten::_local_scalar_dense":
                around.enter_context(self.machine.op("aten::item"))
                self.machine.spend(PYTHON_NS)
            around.enter_context(self.machine.op(name, **given))
            self.machine.spend(PYTHON_NS)
            result = func(*args, **kwargs)
            if not self.loading and not _launches_nothing(func, name):
                self._launch(_kernel(name, args, result))
            if name == "aten::_local_scalar_dense":
                self.machine.synchronize(stream=self.current.number)
            self.machine.spend(PYTHON_NS)
        return result


class _Device(Cuda):
    """loraprof's own code for such devices; sizes and dtypes are what the CPU's tensors need."""

    sizes = Cpu.sizes

    def __init__(self, simulated: SimulatedCuda) -> None:
        super().__init__(torch.device("cuda"))
        self.simulated = simulated

    def matrix_dtype(self) -> torch.dtype:
        return torch.float32

    def event(self) -> Event:
        return Event(self.simulated)

    def pause(self, stream: Stream, us: int) -> None:
        self.simulated.pause(stream, us)


class _Range:
    def __init__(self, machine: Machine, name: str) -> None:
        self._inside: Any = machine.inside("cpu_op", name)

    def __enter__(self) -> None:
        self._inside.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._inside.__exit__(None, None, None)


def _launches_nothing(func: Any, name: str) -> bool:
    own = not name.startswith("aten::")
    return bool(own or func.is_view or "empty" in name or name in ("aten::detach", "aten::lift_fresh"))


def _kernel(name: str, args: Any, result: Any) -> Kernel:
    moved = sum(t.nbytes for t in {id(t): t for t in tensors((args, result))}.values())
    if name in ("aten::copy_", "aten::_local_scalar_dense"):
        rate = HOST_BYTES_PER_NS if len(args) > 2 or name != "aten::copy_" else BYTES_PER_NS  # non_blocking: pinned
        return Kernel("Memcpy", max(SHORTEST_NS, moved // rate), MEMCPY, bytes=args[0].nbytes)
    flops = 2 * args[0].shape[0] * args[0].shape[1] * args[1].shape[1] if name == "aten::mm" else 0
    return Kernel(name.removeprefix("aten::"), max(SHORTEST_NS, flops // FLOPS_PER_NS, moved // BYTES_PER_NS))
