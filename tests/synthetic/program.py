"""What the host runs: a model as a tree of modules and ops, and the training step around it.

``train`` plays the part of PyTorch: it emits module markers, autograd sequence numbers, backward nodes on a second
thread, optimizer and data-loader annotations, and notes every module call as loraprof's hooks would. Who issued a
record is known from where the program stands, not from the trace.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from loraprof.model.recording import AdapterSite, ModuleCall, ModuleInfo, ParameterInfo
from synthetic.ledger import Work
from synthetic.machine import BACKWARD, MAIN, MEMCPY, Kernel, Machine

EVALUATE = "autograd::engine::evaluate_function: "


@dataclass(frozen=True, slots=True)
class Op:
    """One ATen op. Times in ns of host work. ``grad``: the ops of its backward node; ``None``: it makes no node.

    ``kernels`` go out in one launch call each, unless ``graph``. ``gap`` is Python time before the op, ``lead`` is
    time inside the op before its first launch, ``tail`` after the last. ``joins`` adds up input gradients inside
    its backward node. ``params`` are the parameters whose gradients are complete after its node.
    """

    name: str
    role: str
    kernels: tuple[Kernel, ...] = ()
    grad: "tuple[Op, ...] | None" = None
    gap: int = 1500
    lead: int = 2500
    tail: int = 1000
    api: int = 0
    graph: bool = False
    malloc: int = 0  # a cudaMalloc before the first launch
    sync: bool = False  # waits for the stream after the last launch
    overhead: str = ""  # a profiler overhead record inside the op
    joins: Kernel | None = None
    params: tuple[int, ...] = ()
    reduce: Kernel | None = None  # launched once the parameter's gradient is there
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Module:
    """A module call: its own ops and its children, in order. ``checkpoint``: recomputed in backward."""

    info: ModuleInfo
    body: "tuple[Op | Module, ...]" = ()
    checkpoint: bool = False


@dataclass(frozen=True, slots=True)
class Program:
    """A training step; ``steps`` of them are run."""

    root: Module
    modules: tuple[ModuleInfo, ...]
    loss: tuple[Op, ...] = ()
    optimizer: tuple[Op, ...] = ()
    clip: tuple[Op, ...] = ()
    sites: tuple[AdapterSite, ...] = ()
    parameters: tuple[ParameterInfo, ...] = ()
    load_ns: int = 30_000  # data loading outside ops
    load_op_ns: int = 5_000  # and inside an op
    batch: Kernel = Kernel("Memcpy HtoD (Pageable -> Device)", 2_000, MEMCPY, bytes=8192)  # noqa: RUF009
    read_loss: bool = True  # a blocking read at the end of each step
    steps: int = 3
    first: int = 3  # number of the first ProfilerStep


@dataclass(slots=True)
class _Node:
    op: Op
    work: Work
    number: int
    module: int
    recompute: Module | None = None


class Trainer:
    """Runs a program on a machine and collects what loraprof's hooks would have noted."""

    def __init__(self, machine: Machine, program: Program) -> None:
        self.machine, self.program = machine, program
        self.calls: list[ModuleCall] = []
        self._numbers = {MAIN: 100, BACKWARD: 0}  # next autograd sequence number per thread
        self._step = 0
        self._phase = "other"

    def run_step(self, index: int) -> None:
        program, machine = self.program, self.machine
        self._step = index
        with machine.step(f"ProfilerStep#{program.first + index}"):
            machine.spend(500)
            self._load()
            tape: list[_Node] = []
            self._forward(program.root, "forward", tape, grad=True)
            for op in program.loss:
                self._run(op, Work("forward", op.role, "<loss>"), tape, -1, grad=True)
            machine.spend(2000)
            with machine.on(BACKWARD):
                self._backward(tape, logical=1)
            for op in program.clip:
                self._run(op, Work("optimizer", "grad_clip", "<grad_clip>"), None, -1)
            self._optimize()
            if program.read_loss:
                self._read_loss()
            machine.spend(500)

    def _load(self) -> None:
        machine, program = self.machine, self.program
        name = "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__"
        with machine.inside("user_annotation", name, "data"):
            machine.spend(program.load_ns + 1)
            with machine.op("aten::stack"):
                machine.spend(program.load_op_ns + 1)
            machine.spend(700)
        machine.spend(900)
        with machine.op("aten::to"):
            machine.spend(800)
            with machine.op("aten::copy_"):
                machine.spend(600)
                machine.launch([program.batch], Work("other", "copy", None))
                machine.spend(300)
            machine.spend(200)

    def _forward(self, module: Module, phase: str, tape: list[_Node] | None, grad: bool) -> None:
        machine, thread = self.machine, self.machine.thread
        before = self._numbers[thread]
        machine.spend(700)
        with machine.inside("cpu_op", f"loraprof::m{module.info.id}"):
            machine.spend(300)
            for item in module.body:
                if isinstance(item, Op):
                    self._run(item, Work(phase, item.role, module.info.path), tape, module.info.id, grad)
                elif item.checkpoint and phase == "forward" and tape is not None:
                    self._checkpoint(item, tape, module.info.id)
                else:
                    self._forward(item, phase, tape, grad)
            machine.spend(400)
        call = ModuleCall(module.info.id, thread, before, self._numbers[thread], phase == "recompute", self._step)
        self.calls.append(call)

    def _checkpoint(self, module: Module, tape: list[_Node], parent: int) -> None:
        """Reentrant: forward without a graph, one node that runs it again."""
        op = Op("CheckpointFunction", "other", grad=())
        with self.machine.inside("cpu_op", op.name, "framework", self._numbered()):
            self.machine.spend(900)
            self._forward(module, "forward", None, grad=False)
            self.machine.spend(300)
        tape.append(_Node(op, Work("forward", "other", None), self._number(), parent, recompute=module))

    def _run(self, op: Op, work: Work, tape: list[_Node] | None, module: int, grad: bool = False) -> None:
        """One op; forward ops carry the number their node gets, or would get if they made one."""
        machine = self.machine
        machine.spend(op.gap)
        numbered = self._numbered() if grad else {}
        with machine.inside("cpu_op", op.name, "framework", {**numbered, **op.args}):
            self._work(op, work)
        if grad and op.grad is not None and tape is not None:
            tape.append(_Node(op, work, self._number(), module))

    def _work(self, op: Op, work: Work) -> None:
        machine = self.machine
        machine.spend(op.lead)
        if op.malloc:
            machine.call("cudaMalloc", op.malloc, "allocator")
            machine.spend(400)
        if op.overhead:
            lazy = "Lazy" in op.overhead
            machine.overhead(op.overhead, 7000, "framework" if lazy else "profiler")
            machine.spend(300)
        batches: list[Sequence[Kernel]] = [op.kernels] if op.graph and op.kernels else [[k] for k in op.kernels]
        for kernels in batches:
            machine.launch(kernels, work, op.api)
            machine.spend(400)
        if op.sync:
            machine.synchronize(stream=7)
        machine.spend(op.tail)

    def _backward(self, tape: list[_Node], logical: int) -> None:
        for node in reversed(tape):
            machine, op = self.machine, node.op
            work = Work("backward", node.work.role, node.work.module)
            args = {"Sequence number": node.number, "Fwd thread id": logical}
            short = op.name.removeprefix("aten::").title().replace("_", "") + "Backward0"
            machine.spend(1100)
            with machine.inside("cpu_op", EVALUATE + short, "framework", args):
                machine.spend(600)
                with machine.inside("cpu_op", short, "framework", args):
                    machine.spend(500)
                    if node.recompute:
                        self._again(node.recompute)
                    for inner in op.grad or ():
                        with machine.op(inner.name, **inner.args):
                            self._work(inner, work)
                        machine.spend(300)
                    machine.spend(300)
                machine.spend(200)
                if op.joins:
                    self._join(op.joins, node)
            for number in op.params:
                self._accumulated(number, op.reduce, node)

    def _again(self, module: Module) -> None:
        """Recompute on the backward thread, then the backward of what was recomputed."""
        inner: list[_Node] = []
        self._forward(module, "recompute", inner, grad=True)
        self._backward(inner, logical=2)

    def _join(self, kernel: Kernel, node: _Node) -> None:
        """The engine adds up the gradients of an input that two branches used."""
        adapted = node.work.role == "base.linear" and self._site(node.module) is not None
        role = "adapter.elementwise" if adapted else "residual"
        with self.machine.op("aten::add"):
            self.machine.spend(700)
            self.machine.launch([kernel], Work("backward", role, node.work.module))
            self.machine.spend(300)

    def _accumulated(self, number: int, reduce: Kernel | None, node: _Node) -> None:
        machine, name = self.machine, "torch::autograd::AccumulateGrad"
        machine.spend(500)
        with machine.op(EVALUATE + name):
            machine.spend(300)
            with machine.op(name):
                machine.spend(300)
                with machine.inside("cpu_op", f"loraprof::g{number}"):
                    machine.spend(100)
                machine.spend(200)
            if reduce:
                with machine.op("c10d::allreduce_"):
                    machine.spend(900)
                    machine.call("cudaStreamWaitEvent", 700, "framework")
                    machine.launch([reduce], Work("backward", "comm", node.work.module))
                    machine.spend(400)
            machine.spend(200)

    def _optimize(self) -> None:
        machine, name = self.machine, self.program.optimizer and "AdamW"
        if not name:
            return
        machine.spend(1500)
        with machine.inside("user_annotation", f"Optimizer.step#{name}.step"):
            machine.spend(2500)
            for op in self.program.optimizer:
                self._run(op, Work("optimizer", "optimizer", "<optimizer>"), None, -1)
            machine.spend(800)
        machine.spend(600)
        with machine.inside("user_annotation", f"Optimizer.zero_grad#{name}.zero_grad"):
            machine.spend(1500)

    def _read_loss(self) -> None:
        machine = self.machine
        machine.spend(800)
        with machine.op("aten::item"):
            machine.spend(300)
            with machine.op("aten::_local_scalar_dense"):
                machine.spend(400)
                copy = Kernel("Memcpy DtoH (Device -> Pageable)", 1500, MEMCPY, bytes=4)
                machine.launch([copy], Work("other", "copy", None))
                machine.spend(200)
                machine.synchronize(stream=7)
                machine.spend(200)

    def _site(self, module: int) -> int | None:
        return self.program.modules[module].site if module >= 0 else None

    def _numbered(self) -> dict[str, int]:
        return {"Sequence number": self._numbers[self.machine.thread], "Fwd thread id": 0}

    def _number(self) -> int:
        number = self._numbers[self.machine.thread]
        self._numbers[self.machine.thread] += 1
        return number
