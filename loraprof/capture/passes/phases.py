"""The passes as objects: each attaches what it needs as it begins, sees every step end, and says when it is over.

    skip → timing (nothing attached) → nvml (where it can be sampled) → count (dispatch mode) → warm-up → profile

The profile pass is last because training may stay slower after CUPTI was active, and there it is the only profiler
session of the process. Where the profiler may run again, a first round of few steps gives a recording early, and the
second a better one. The counted step runs without ``torch.compile``: a frame that dynamo meets under a dispatch mode it
never compiles nor runs compiled again.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median_low
from typing import TYPE_CHECKING, Any, ClassVar, Final

import torch
from torch.profiler import record_function

from loraprof import units
from loraprof.analysis.statistics import median_interval
from loraprof.capture.device.protocol import Device
from loraprof.capture.modules.facts import (
    Padding,
    Tables,
    memory_of,
    micro_batches_of,
    missing_gradients,
    optimizer_name,
    tables_of,
    tokens_of,
)
from loraprof.capture.modules.markers import COUNTED
from loraprof.capture.nvml.client import NvmlSampler
from loraprof.capture.passes.attention import AttentionWatch
from loraprof.capture.passes.counting import Counting
from loraprof.capture.passes.foreign import refuse_other_profiler
from loraprof.capture.passes.plan import Plan
from loraprof.capture.passes.profiler import prepare, session
from loraprof.capture.passes.repeats import Repeats
from loraprof.capture.passes.saved import SavedForBackward
from loraprof.capture.passes.timing import FEW, TimingPass
from loraprof.model.recording import ModuleCall

if TYPE_CHECKING:
    from loraprof.capture.passes.session import Session

HEAP_SHARE: Final = 8  # of the bytes a step moves, the heap grows by up to a twelfth per step under the profiler


@dataclass(slots=True)
class Recorded:
    """What one profiler session holds, as its steps left it: a script that goes on may change its model."""

    profiler: Any
    first_step: int  # steps that passed before the first profiled one
    token_shares: dict[str, float]  # of all tokens: the real, up to the longest, the labelled
    whole_steps: int = 0
    complete: bool = False
    tables: Tables | None = None
    calls: list[ModuleCall] = field(default_factory=list)


class Phase:
    """Lasts ``left`` steps, or until ``step`` says so."""

    name: ClassVar[str]

    def __init__(self, steps: int = 1) -> None:
        self.left = steps

    def enter(self, on: "Session") -> None:
        """At the boundary before its first step."""

    def step(self, on: "Session") -> bool:
        """A step has ended; whether that was the last one."""
        self.left -= 1
        return self.left <= 0

    def leave(self, on: "Session") -> None:
        """At the boundary after its last step."""

    def cut(self, on: "Session") -> None:
        """The training ended inside it."""

    def close(self, lost: bool = False) -> None:
        """Takes away what it had attached, at any moment, more than once. ``lost``: its thread has ended."""


def phases(plan: Plan, device: Device, repeatable: bool) -> Iterator[Phase]:
    """In the order in which they run on ``device``; ``again``: the profiler may run twice."""
    first = plan.early if repeatable else None
    if first is not None:
        yield from (Skip(first.skip), Timed(first.timed), Count(first.count), WarmUp(first.warmup))
        yield Profile(first.steps, last=False)
        yield Skip(max(1, plan.skip - first.total(False)))
    else:
        yield Skip(plan.skip)
    yield Timed(plan.timed, settles=plan.steps > 0)
    if not plan.steps:
        return
    if (sampler := device.sampler()) is not None:
        yield Sample(sampler, plan.nvml_s)
    else:
        yield NotSampled()
    if first is None:
        yield Count(plan.count)
    yield WarmUp(plan.warmup)
    yield Profile(plan.steps, last=True)


class Skip(Phase):
    name = "skip"

    def leave(self, on: "Session") -> None:
        refuse_other_profiler(thorough=True)


class Timed(Phase):
    name = "timing"

    def __init__(self, steps: int, settles: bool = True) -> None:
        super().__init__(steps)
        self._settles = settles

    def enter(self, on: "Session") -> None:
        on.device.reset_peak()
        self._before = on.steps
        self._pass = TimingPass(on.device, self.left, self._settles)
        self._pass.stamp()

    def step(self, on: "Session") -> bool:
        self._pass.stamp()
        if self._pass.enough():
            return True
        if on.progress.due():
            on.progress.show(timing_sentence(self._pass, on.plan, on.device.asynchronous))
            self._pass.again()
        return False

    def leave(self, on: "Session") -> None:
        on.progress.clear()
        on.timing = self._pass.timing(self._before)

    def cut(self, on: "Session") -> None:
        found = self._pass.timing(self._before)
        if found is not None and on.timing is not None and len(found.samples_ns) > len(on.timing.samples_ns):
            on.timing = found


class Sample(Phase):
    name = "nvml"

    def __init__(self, sampler: NvmlSampler, seconds: float) -> None:
        super().__init__()
        self._sampler, self._seconds = sampler, seconds

    def enter(self, on: "Session") -> None:
        on.device.synchronise()
        self._sampler.start()
        self._began, self._first = time.perf_counter_ns(), on.steps

    def step(self, on: "Session") -> bool:
        return time.perf_counter_ns() - self._began >= self._seconds * 1e9

    def leave(self, on: "Session") -> None:
        on.device.synchronise()
        on.nvml = self._sampler.stop(on.steps - self._first, time.perf_counter_ns() - self._began)
        if on.nvml is None:
            on.notes.append(f"NVML: {self._sampler.reason}")
        self.close()

    def close(self, lost: bool = False) -> None:
        self._sampler.close()


class NotSampled(Phase):
    name = "nvml"

    def __init__(self) -> None:
        super().__init__(0)

    def enter(self, on: "Session") -> None:
        on.notes.append(f"NVML: the step runs on the {on.device.place.type.upper()}")


class Count(Phase):
    name = "count"

    def __init__(self, steps: int) -> None:
        super().__init__(steps)
        self._saved = SavedForBackward()
        self._counting: Counting | None = None
        self._attention: AttentionWatch | None = None
        self._repeats = Repeats()
        self._eager: Any = None

    def enter(self, on: "Session") -> None:
        on.markers.install()
        on.markers.step = COUNTED
        if on.watch.compiled:
            stance: Any = getattr(torch.compiler, "set_stance", None)  # torch 2.6
            if stance is None:
                on.notes.append("work was not counted: this torch cannot run a compiled step uncompiled")
                return
            self._eager = stance("force_eager")
            on.notes.append("work and activations were counted in a step that ran uncompiled")
        self._saved.open()
        self._attention = AttentionWatch(on.markers.where)
        self._attention.open()
        self._counting = Counting(on.markers.where, on.markers.follow(), self._repeats)
        self._counting.open()

    def step(self, on: "Session") -> bool:
        """Before its end a step given a closure has no gradients yet."""
        optimizer = on.optimizer
        assert optimizer is not None
        on.memory = memory_of(on.markers, optimizer, on.device.allocator(), self._saved.nbytes)
        on.optimizer_name = optimizer_name(optimizer)
        return super().step(on)

    def leave(self, on: "Session") -> None:
        counting, attention = self._counting, self._attention
        self.close()
        if counting is not None and attention is not None:
            on.counted = counting.counted(on.markers.owners())
            on.markers.followed()
            on.attention = attention.calls()
            on.repeated = self._repeats.repeated()
            on.notes += filter(None, (attention.failed, self._repeats.failed))
        on.tokens = tokens_of(on.markers)
        on.micro_batches = micro_batches_of(on.markers)
        on.markers.step = None

    def close(self, lost: bool = False) -> None:
        self._saved.close()
        if self._attention is not None:
            self._attention.close()
        if self._counting is not None:
            self._counting.close(lost)
        self._counting = None
        if self._eager is not None:
            self._eager.__exit__(None, None, None)
            self._eager = None


class WarmUp(Phase):
    """The profiler runs and keeps nothing."""

    name = "warmup"

    def enter(self, on: "Session") -> None:
        on.markers.install()
        on.markers.calls = []
        moved = sum(op.min_bytes for op in on.counted)
        on.around.enter_context(on.device.steady_memory((on.plan.steps + 1) * moved // HEAP_SHARE))
        on.markers.watch_gradients()
        on.padding = Padding(on.markers.trained()[:1])
        refuse_other_profiler(thorough=True)
        on.profiler = session(on.device)
        prepare(on.profiler)

    def leave(self, on: "Session") -> None:
        if on.padding is not None and on.padding.seen:
            on.padding.remove()
        on.device.synchronise()


class Profile(Phase):
    name = "profile"

    def __init__(self, steps: int, last: bool) -> None:
        super().__init__(steps)
        self._last = last
        self._range: Any = None
        self._recorded: Recorded | None = None

    def enter(self, on: "Session") -> None:
        shares = on.padding.shares() if on.padding is not None else {}  # waits for the device: not within the trace
        on.profiler.start_trace()
        on.recording = True
        self._recorded = Recorded(on.profiler, on.steps, shares)
        self._open(on)

    def step(self, on: "Session") -> bool:
        recorded = self._recorded
        assert recorded is not None
        self.close()
        recorded.whole_steps += 1
        on.recorded = recorded
        if not recorded.token_shares and on.padding is not None:  # there was no step to warm up
            recorded.token_shares = on.padding.shares()
        if super().step(on):
            on.missing = missing_gradients(on.markers)
            return True
        self._open(on)
        return False

    def _open(self, on: "Session") -> None:
        assert self._recorded is not None
        on.markers.step = self._recorded.whole_steps
        name = f"ProfilerStep#{self._recorded.whole_steps}"
        on.watch.begin(name)
        annotation: Any = record_function(name)
        annotation.__enter__()
        self._range = annotation

    def leave(self, on: "Session") -> None:
        recorded = self._recorded
        assert recorded is not None
        on.markers.step = None
        recorded.complete, recorded.calls, recorded.tables = True, on.markers.calls, tables_of(on.markers)
        if not self._last:
            on.stop_soon(lambda: on.tell(early_sentence(on)))

    def close(self, lost: bool = False) -> None:
        if self._range is not None and not lost:
            self._range.__exit__(None, None, None)
        self._range = None


def timing_sentence(timed: TimingPass, plan: Plan, sampled: bool) -> str:
    """``timing 14/20 · 132 ms ±0.4 % · 9 s left``."""
    median, low, high = median_interval(timed.steps_ns)
    done = len(timed.steps_ns)
    left = plan.left_ns(median, timed.wanted - done, sampled)
    spread = f" ±{units.percent((high - low) / 2 / median)}" if median and done >= FEW else ""
    return f"timing {done}/{max(timed.wanted, done)} · {units.ns(median)}{spread} · {units.ns(left, 2)} left"


def early_sentence(on: "Session") -> str:
    """Said when there is a first recording."""
    passed_ns = time.perf_counter_ns() - on.began_ns
    step_ns = median_low(on.timing.samples_ns) if on.timing is not None else 0
    rest = on.plan.pace(step_ns, on.plan.timed + 1, False)
    return f"a first recording after {on.steps} steps, {units.ns(passed_ns, 2)}; it gets better: {rest}"
