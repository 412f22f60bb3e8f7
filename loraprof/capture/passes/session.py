"""The passes T, N, C, P as one state machine that advances at step boundaries.

    skip → timing (nothing attached) → nvml (CUDA) → count (dispatch mode) → warm-up → profile → done

P is last because training may stay slower after CUPTI was active, and it is the only profiler session of the process.
The step of pass C runs without ``torch.compile``: a frame that dynamo meets under a dispatch mode it never compiles nor
runs compiled again.
"""

import os
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim import Optimizer
from torch.profiler import record_function

from loraprof.capture.compiled.watch import CompileWatch
from loraprof.capture.device.memory import available_bytes
from loraprof.capture.modules.facts import (
    Padding,
    Tables,
    memory_of,
    missing_gradients,
    optimizer_name,
    tables_of,
    tokens_of,
)
from loraprof.capture.modules.markers import COUNTED, Markers
from loraprof.capture.nvml.client import NvmlSampler
from loraprof.capture.passes.boundary import StepBoundary
from loraprof.capture.passes.counting import Counting
from loraprof.capture.passes.foreign import refuse_other_profiler, when_step_returns
from loraprof.capture.passes.plan import Plan
from loraprof.capture.passes.profiler import prepare, session
from loraprof.capture.passes.saved import SavedForBackward
from loraprof.capture.passes.timing import TimingPass
from loraprof.errors import LoraprofError, MeasurementError
from loraprof.model.recording import CountedOp, Memory, Nvml, Timing
from loraprof.workloads.heap import keep_freed_memory, release, touch


def _open_range(name: str) -> Any:
    made: Any = record_function(name)
    made.__enter__()
    return made


HEAP_SHARE = 8  # of the bytes a step moves, the heap grows by up to a twelfth per step under the profiler
PASSES = ("skip", "timing", "nvml", "count", "warmup", "profile", "done")


class Session:
    """Attach with ``install``; ``remove`` detaches everything and stops a running profiler.

    ``on_done`` is called once, from the optimizer's hook, when the last profiled step has ended; ``on_pace`` after the
    second step if that is a skipped one, with its time in ns and the steps so far.
    """

    attached: ClassVar["Session | None"] = None  # two would time and profile each other

    def __init__(
        self, plan: Plan, on_done: Callable[[], None], on_pace: Callable[[int, int], None] | None = None
    ) -> None:
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # silences the USDT lines torch prints per session
        self.plan, self._on_done, self._on_pace = plan, on_done, on_pace
        self.boundary = StepBoundary(self._after)
        self.markers = Markers()
        self.tables: Tables | None = None  # as the recorded steps left them: a script that goes on may change its model
        self.state, self.steps, self._left = "skip", 0, plan.skip
        self.device = torch.device("cpu")
        self.profiler: Any = None
        self.nvml: Nvml | None = None
        self.notes: list[str] = []
        self.counted: list[CountedOp] = []
        self.memory: Memory | None = None
        self.missing: list[str] = []
        self.optimizer: str | None = None
        self.twin: Optimizer | None = None  # the script's own, whose class and settings are measured afterwards
        self.tokens: int | None = None
        self.micro_batches: int | None = None
        self.real_share: float | None = None  # real tokens of all
        self.watch = CompileWatch(self._pause, self._resume)
        self._eager: Any = None
        self._padding: Padding | None = None
        self.recording = False
        self.timing: Timing | None = None
        self._timed: TimingPass | None = None
        self.first_step: int | None = None  # steps that passed before the first profiled one
        self._range: Any = None
        self._counting: Counting | None = None
        self._saved = SavedForBackward()
        self._sampler: NvmlSampler | None = None
        self._loop = (0, 0)
        self._late: Any = None
        self._heap_kept = False
        self._began_ns = 0
        self._thread = threading.current_thread()
        self.failure: LoraprofError | None = None

    def install(self) -> None:
        """Raises MeasurementError while another session is attached."""
        if Session.attached is not None:
            hint = "a script that calls loraprof.profile is run with python alone"
            raise MeasurementError("loraprof is at work in this process already", hint)
        Session.attached = self
        self.watch.install()
        self.watch.begin("skip")
        self.boundary.install()

    def remove(self) -> None:
        """Removes every hook; safe to call at any moment, more than once."""
        if Session.attached is self:
            Session.attached = None
        self.boundary.remove()
        self.watch.remove()
        self._compile_again()
        if self._thread is not threading.current_thread():  # it ended; what it had opened went with it
            self.recording, self._counting, self._range = False, None, None
        self.stop_profiler()
        self.markers.remove()
        self._saved.close()
        if self._counting is not None:
            self._counting.close()
            self._counting = None
        if self._padding is not None:
            self._padding.remove()
        if self._sampler is not None:
            self._sampler.close()
            self._sampler = None

    @property
    def done(self) -> bool:
        return self.state == "done"

    @property
    def salvaged(self) -> bool:
        """Whether at least one step was recorded whole before the script ended."""
        return self.profiler is not None and self.whole_steps > 0

    @property
    def whole_steps(self) -> int:
        """Profiled steps that came to their end."""
        return self.plan.steps - self._left if self.state == "profile" else (self.plan.steps if self.done else 0)

    def _look(self, optimizer: Optimizer) -> None:
        """After the counted step: before it, a step given a closure has no gradients yet."""
        self.memory = memory_of(self.markers, optimizer, self.device, self._saved.nbytes)
        self.missing = missing_gradients(self.markers)
        self.optimizer = optimizer_name(optimizer)
        self.twin = optimizer

    def _pause(self) -> None:
        self.markers.pause()
        if self._padding is not None:
            self._padding.pause()

    def _resume(self) -> None:
        self.markers.resume()
        if self._padding is not None:
            self._padding.resume()

    def _after(self, optimizer: Optimizer) -> None:
        self.steps += 1
        if self.state == "done":
            self._stop_late()  # the step called no module outside compiled code
        if self.state in ("done", "failed"):
            return
        try:
            self._advance(optimizer)
        except LoraprofError as failure:  # a script may swallow exceptions: what it was is raised when it has ended
            self.failure, self.state = failure, "failed"
            self._on_done()

    def _advance(self, optimizer: Optimizer) -> None:
        self.watch.step()
        if not self.recording:
            refuse_other_profiler()
        if self.steps == 1:
            self._thread = threading.current_thread()
            first = next((p for g in optimizer.param_groups for p in g["params"]), None)
            self.device = first.device if first is not None else self.device
            if self.device.type not in ("cpu", "cuda"):
                what = f"the model is on {self.device.type}: torch knows this device, loraprof cannot measure it"
                raise MeasurementError(what, "it measures CPUs and CUDA devices")
            self._began_ns = self._now_ns()
        if self.state == "skip" and self.steps == 2 and self._on_pace is not None:
            self._on_pace(self._now_ns() - self._began_ns, self.steps)
        if self.state == "count":
            self._look(optimizer)
        getattr(self, f"_in_{self.state}")()
        if self._left <= 0:
            getattr(self, f"_leave_{self.state}")()
            self._next()

    def _now_ns(self) -> int:
        """Now, with the device's work done. Only for skipped steps, where the wait disturbs nothing."""
        if self.device.type == "cuda" and not torch.cuda.is_current_stream_capturing():
            torch.cuda.synchronize(self.device)
        return time.perf_counter_ns()

    def _next(self) -> None:
        state = PASSES[PASSES.index(self.state) + 1]
        if state == "nvml" and self.device.type != "cuda":
            self.notes.append("NVML: the step runs on the CPU")
            state = "count"
        self.state = state
        self.watch.begin(state)
        self._left = {
            "count": self.plan.count,
            "warmup": self.plan.warmup,
            "profile": self.plan.steps,
        }.get(state, 1)
        getattr(self, f"_enter_{state}")()

    def _in_skip(self) -> None:
        self._left -= 1

    def _leave_skip(self) -> None:
        refuse_other_profiler(thorough=True)

    def _enter_timing(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._timed = TimingPass(self.device, self.plan.timed)
        self._timed.stamp()

    def _in_timing(self) -> None:
        assert self._timed is not None
        self._timed.stamp()
        if self._timed.enough():
            self._left = 0

    def _leave_timing(self) -> None:
        assert self._timed is not None
        self.timing = self._timed.timing(self.plan.skip)

    def _enter_nvml(self) -> None:
        uuid = f"GPU-{torch.cuda.get_device_properties(self.device).uuid}"
        self._sampler = NvmlSampler(uuid)
        torch.cuda.synchronize(self.device)
        self._sampler.start()
        self._loop = (time.perf_counter_ns(), self.steps)

    def _in_nvml(self) -> None:
        begin, _ = self._loop
        if time.perf_counter_ns() - begin >= self.plan.nvml_s * 1e9:
            self._left = 0

    def _leave_nvml(self) -> None:
        assert self._sampler is not None
        torch.cuda.synchronize(self.device)
        begin, first = self._loop
        self.nvml = self._sampler.stop(self.steps - first, time.perf_counter_ns() - begin)
        if self.nvml is None:
            self.notes.append(f"NVML: {self._sampler.reason}")
        self._sampler.close()
        self._sampler = None

    def _enter_count(self) -> None:
        self.markers.install()
        self.markers.step = COUNTED
        if self.watch.compiled:
            stance: Any = getattr(torch.compiler, "set_stance", None)  # torch 2.6
            if stance is None:
                self.notes.append("work was not counted: this torch cannot run a compiled step uncompiled")
                return
            self._eager = stance("force_eager")
            self.notes.append("work and activations were counted in a step that ran uncompiled")
        self._saved.open()
        self._counting = Counting(self.markers.where)
        self._counting.open()

    def _in_count(self) -> None:
        self._left -= 1

    def _compile_again(self) -> None:
        if self._eager is not None:
            self._eager.__exit__(None, None, None)
            self._eager = None

    def _leave_count(self) -> None:
        if self._counting is not None:
            self._counting.close()
            self._saved.close()
            self.counted = self._counting.counted(self.markers.owner)
            self._counting = None
        self._compile_again()
        self.tokens = tokens_of(self.markers)
        roots = {self.markers.ids[r] for r in self.markers.roots[:1]}
        self.micro_batches = sum(c.module in roots and not c.recompute for c in self.markers.calls) or None
        self.markers.calls.clear()
        self.markers.step = None

    def _steady_heap(self) -> None:
        """CPU: the profiled steps take their memory from pages that are there already."""
        keep_freed_memory()
        self._heap_kept = True
        moved = sum(op.min_bytes for op in self.counted)
        touch(min((self.plan.steps + 1) * moved // HEAP_SHARE, (available_bytes(self.device) or 0) // 4))

    def _enter_warmup(self) -> None:
        if self.device.type == "cpu":
            self._steady_heap()
        self.markers.watch_gradients()
        self._padding = Padding(self.markers.roots[:1])
        refuse_other_profiler(thorough=True)
        self.profiler = session(self.device)
        prepare(self.profiler)

    def _in_warmup(self) -> None:
        self._left -= 1

    def _leave_warmup(self) -> None:
        if self._padding is not None:
            self._padding.remove()
            self.real_share = self._padding.share()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _enter_profile(self) -> None:
        self.first_step = self.steps
        self.profiler.start_trace()
        self.recording = True
        self._open(0)

    def _in_profile(self) -> None:
        self._range.__exit__(None, None, None)
        self._range = None
        self._left -= 1
        if self._left > 0:
            self._open(self.plan.steps - self._left)

    def _open(self, index: int) -> None:
        self.markers.step = index
        self.watch.begin(f"ProfilerStep#{index}")
        self._range = _open_range(f"ProfilerStep#{index}")

    def _leave_profile(self) -> None:
        self.markers.step = None
        self.tables = tables_of(self.markers)

    def _enter_done(self) -> None:
        """The optimizer's own range is still open: the profiler stops at the next module call, or in ``remove``.

        Only the thread that started a profiler can stop it, so one beside the main thread does it at once after.
        """
        if self._thread is not threading.main_thread():
            when_step_returns(self._stop_in_thread)
            return
        uncompiled: Any = torch.compiler.disable
        self._late = register_module_forward_pre_hook(uncompiled(self._stop_late))
        self._on_done()

    def _stop_in_thread(self) -> None:
        self._stop_late()
        self._on_done()

    def _stop_late(self, *_: Any) -> None:
        self.stop_profiler()
        self.markers.remove()

    def stop_profiler(self) -> None:
        """Ends the profiler session; its events can be exported afterwards."""
        if self._late is not None:
            self._late.remove()
            self._late = None
        if self._range is not None:
            self._range.__exit__(None, None, None)
            self._range = None
        if self.recording:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.profiler.stop_trace()
            self.recording = False
        if self._heap_kept:
            self._heap_kept = False
            release()
