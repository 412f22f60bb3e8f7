"""The clock that is attached to a watched training: one stamp per step, a look at memory and at the times now and then.

What a step costs extra is counted as it goes; the look, which costs most, comes the more rarely the longer it takes.
"""

import sys
import time
from array import array
from collections.abc import Callable
from contextlib import suppress
from statistics import median
from typing import Any, Final

import torch
from torch.optim import Optimizer

from loraprof.analysis.statistics import shift
from loraprof.capture.device.kinds import measured
from loraprof.capture.device.protocol import Device
from loraprof.capture.nvml.client import NvmlSampler
from loraprof.capture.passes.boundary import StepBoundary
from loraprof.capture.passes.plan import Plan
from loraprof.capture.passes.session import Session
from loraprof.errors import LoraprofError
from loraprof.model.recording import Nvml
from loraprof.runs.watch.loader import LoaderWatch
from loraprof.runs.watch.series import Series

PLAN: Final = Plan(skip=1, timed=2, nvml_s=0.0, count=1, warmup=1, steps=1)  # of one recorded step
SETTLE: Final = 3  # steps after a recorded one that are not like the others yet
PENDING: Final = 256  # marks of a device that wait to be read; half of them have passed long ago
LOOK_NS: Final = 1_000_000_000  # between two looks, at least
RARELY: Final = 400  # and this many times what the last one took
SEEN: Final = 300  # steps that one look compares
NEW: Final = 20  # steps between two
PERIOD_S: Final = 0.5  # of NVML's samples


class StepClock:
    """``install`` and ``remove``. After ``skip`` steps one is recorded, and one after a shift, if anything is.
    ``tell`` hears of a shift as it is seen: the step, and the times before and after."""

    def __init__(self, skip: int, records: bool, tell: Callable[[int, int, int], None]) -> None:
        self.boundary = StepBoundary(self._after)
        self.loader = LoaderWatch()
        self.device: Device = measured(torch.device("cpu"))
        self.before: Session | None = None
        self.afterwards: Session | None = None
        self.notes: list[str] = []
        self.cost_ns = 0
        self._skip, self._records, self._tell = skip, records, tell
        self._ns, self._ends = array("q"), array("q")
        self._loader_ns, self._elements, self._graphs = array("q"), array("q"), array("q")
        self._disturbed = array("b")
        self._memory: list[tuple[int, int, int]] = []
        self._marks: list[Any] = []
        self._sampler: NvmlSampler | None = None
        self._running: Session | None = None
        self._quiet_from = 0  # the first step that is not disturbed
        self._level_from, self._looked = 0, 0
        self._look_at_ns = self._sampled_ns = 0

    @property
    def steps(self) -> int:
        """Whole steps: the first stamp only begins one."""
        return max(len(self._ends) - 1, 0)

    @property
    def stamps(self) -> int:
        """Optimizer steps that were seen to end."""
        return len(self._ends)

    def install(self) -> None:
        self.loader.install()
        self.boundary.install()

    def remove(self) -> None:
        """Takes everything off; safe to call more than once."""
        self.boundary.remove()
        self.loader.remove()
        if self._running is not None:
            self._running.remove()
            self._running = None

    def finish(self) -> tuple[Series, Nvml | None]:
        """What was seen of the whole steps."""
        self._read(len(self._marks))
        nvml = None
        if self._sampler is not None:
            nvml = self._sampler.stop(max(self.steps, 1), max(time.perf_counter_ns() - self._sampled_ns, 1))
            self.notes += [f"NVML: {self._sampler.reason}"] if nvml is None else []
            self._sampler.close()
        whole = slice(1, None)
        return Series(
            ns=self._ns,
            ends=self._ends[whole],
            loader_ns=self._loader_ns[whole],
            elements=self._elements[whole],
            graphs=self._graphs[whole],
            disturbed=self._disturbed[whole],
            memory=self._memory,
            clocks=nvml.samples if nvml else (),
        ), nvml

    def _after(self, optimizer: Optimizer) -> None:
        began = time.perf_counter_ns()
        if not self._ends:
            self._begin(optimizer)
        waited, elements = self.loader.take()
        self._marks.append(self.device.mark())
        self._ends.append(began)
        self._loader_ns.append(waited)
        self._elements.append(elements)
        self._graphs.append(_graphs())
        self._disturbed.append(self._running is not None or self.steps < self._quiet_from)
        if len(self._marks) >= PENDING:
            self._read(PENDING // 2)
        try:
            self._drive(optimizer, began)
        except Exception as error:  # whatever it is, it is not the training's
            self._records = False
            self.notes.append(f"no step was recorded: {getattr(error, 'message', None) or error}")
        self.cost_ns += time.perf_counter_ns() - began

    def _begin(self, optimizer: Optimizer) -> None:
        first = next((p for g in optimizer.param_groups for p in g["params"]), None)
        self.device = measured(first.device) if first is not None else self.device
        self._sampler = self.device.sampler(PERIOD_S)
        if self._sampler is not None:
            self._sampler.start()
            self._sampled_ns = time.perf_counter_ns()

    def _read(self, count: int) -> None:
        """Times between the oldest marks; these stay no longer."""
        if count > 1:
            self._ns.extend(self.device.between_ns(self._marks[:count]))
            del self._marks[: count - 1]

    def _drive(self, optimizer: Optimizer, now_ns: int) -> None:
        if self._running is not None:
            self._running.step_ended(optimizer)
            if self._running.over and self.steps >= self._quiet_from:
                self._running.remove()
                self._running, self._quiet_from = None, self.steps + SETTLE
            elif not self._running.over:
                self._quiet_from = self.steps + SETTLE
            return
        if self._records and self.before is None and self.steps >= self._skip:
            self.before = self._record()
        elif now_ns >= self._look_at_ns and self.steps >= self._looked + NEW:
            self._look()
            self._looked = self.steps
            self._look_at_ns = now_ns + max(LOOK_NS, RARELY * (time.perf_counter_ns() - now_ns))

    def _record(self) -> Session | None:
        session = Session(PLAN, boundary=self.boundary)
        try:
            session.install()
        except LoraprofError as error:
            self.notes.append(error.message)
            self._records = False
            return None
        self._running = session
        return session

    def _look(self) -> None:
        """Memory, and whether the latest steps are at another level than those before."""
        allocator = self.device.allocator()
        if allocator is not None:
            self._memory.append((self.steps, allocator.reserved_bytes, allocator.retries))
        self._read(len(self._marks) - 2)
        known = [i for i in range(max(self._level_from, len(self._ns) - SEEN), len(self._ns)) if self._calm(i)]
        at = shift([self._ns[i] for i in known])
        if at is None:
            return
        step = known[at]
        old, new = (round(median(self._ns[i] for i in part)) for part in (known[:at], known[at:]))
        self._level_from = step
        self._tell(step, old, new)
        if self._records and self.before is not None and self.afterwards is None:
            self.afterwards = self._record()

    def _calm(self, step: int) -> bool:
        return not self._disturbed[step + 1] and step >= self._skip


def _graphs() -> int:
    """Compiled by dynamo so far."""
    utils: Any = sys.modules.get("torch._dynamo.utils")
    with suppress(AttributeError, KeyError, TypeError):
        return int(utils.counters["stats"].get("unique_graphs", 0))
    return 0
