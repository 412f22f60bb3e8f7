"""The passes over a training's steps: one after the other, advanced by the optimizer's hook (see ``phases``)."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim import Optimizer

from loraprof.capture.compiled.watch import CompileWatch
from loraprof.capture.device.calibration_cache import is_cached
from loraprof.capture.device.kinds import measured
from loraprof.capture.device.protocol import Device
from loraprof.capture.modules.facts import Padding
from loraprof.capture.modules.markers import Markers
from loraprof.capture.passes.boundary import StepBoundary
from loraprof.capture.passes.foreign import refuse_other_profiler, silent, when_step_returns
from loraprof.capture.passes.phases import Phase, Recorded, Skip, phases
from loraprof.capture.passes.plan import Plan
from loraprof.capture.passes.progress import Progress
from loraprof.errors import LoraprofError, MeasurementError
from loraprof.model.recording import AttentionCall, CountedOp, Memory, Nvml, RepeatedOp, Timing


class Done(Phase):
    name = "done"


class Session:
    """Attach with ``install``; ``remove`` detaches everything and stops a running profiler.

    ``on_done`` is called once, from the optimizer's hook, when the last step that is needed has ended; ``tell`` is
    told how fast it goes, ``progress`` shown how far it is. ``boundary``: one that is installed already, and whose
    owner calls ``step_ended``. In a child forked from this process the session is ``inert``.
    """

    attached: ClassVar["Session | None"] = None  # two would time and profile each other

    def __init__(
        self,
        plan: Plan,
        on_done: Callable[[], None] = lambda: None,
        tell: Callable[[str], None] = lambda _: None,
        progress: Progress = Progress(),  # noqa: B008  # it shows nothing, and holds nothing
        boundary: StepBoundary | None = None,
    ) -> None:
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # silences the USDT lines torch prints per session
        self.plan, self._on_done, self.tell, self.progress = plan, on_done, tell, progress
        self._installs = boundary is None
        self.boundary = boundary or StepBoundary(self.step_ended)
        self.markers = Markers()
        self.watch = CompileWatch(self._pause, self._resume)
        self.padding: Padding | None = None
        self.device: Device = measured(torch.device("cpu"))
        self.phase: Phase = Skip(plan.skip)
        self._phases: Iterator[Phase] = iter(())
        self._again = self.device.profiles_again
        self.steps, self.began_ns, self._first_ns = 0, 0, 0
        self.failure: LoraprofError | None = None
        self.inert = False
        self.optimizer: Optimizer | None = None  # the script's own, whose class and settings are measured afterwards
        self.optimizer_name: str | None = None
        self.notes: list[str] = []
        self.timing: Timing | None = None
        self.nvml: Nvml | None = None
        self.counted: list[CountedOp] = []
        self.attention: list[AttentionCall] = []
        self.repeated: list[RepeatedOp] = []
        self.memory: Memory | None = None
        self.missing: list[str] = []
        self.tokens: int | None = None
        self.micro_batches: int | None = None
        self.recorded: Recorded | None = None  # the best so far
        self.profiler: Any = None
        self.recording = False
        self.around = ExitStack()  # until the profiler stops
        self._late: Any = None
        self._thread = threading.current_thread()

    def install(self) -> None:
        """Raises MeasurementError while another session is attached."""
        if Session.attached is not None:
            hint = "a script that calls loraprof.profile is run with python alone"
            raise MeasurementError("loraprof is at work in this process already", hint)
        Session.attached = self
        self.began_ns = time.perf_counter_ns()
        self.watch.install()
        self.watch.begin(self.phase.name)
        if self._installs:
            self.boundary.install()

    def remove(self) -> None:
        """Removes every hook; safe to call at any moment, more than once."""
        if self.inert:
            return
        self._on_done = lambda: None
        self.boundary.flush()
        self._take_off(lost=self._thread is not threading.current_thread())  # what it had opened went with it
        self.phase.cut(self)
        self.stop_profiler()
        self.markers.remove()

    def _take_off(self, lost: bool) -> None:
        if Session.attached is self:
            Session.attached = None
        if self._installs:
            self.boundary.remove()
        self.watch.remove()
        self.recording &= not lost
        self.phase.close(lost)
        if self.padding is not None:
            self.padding.remove()

    def abandon(self) -> None:
        """In a child forked from the training: nothing of loraprof goes on, and what the parent runs is left alone."""
        self.inert = True
        self._take_off(lost=self.recording)
        self.markers.remove()

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    @property
    def done(self) -> bool:
        """Whether all that was planned was seen."""
        return isinstance(self.phase, Done) and self.failure is None

    @property
    def over(self) -> bool:
        """Whether no further step is looked at."""
        return isinstance(self.phase, Done) or self.inert

    @property
    def needed(self) -> int:
        """Optimizer steps below which there is no recording."""
        return self.plan.least(self._again)

    def _pause(self) -> None:
        self.markers.pause()
        if self.padding is not None:
            self.padding.pause()

    def _resume(self) -> None:
        self.markers.resume()
        if self.padding is not None:
            self.padding.resume()

    def step_ended(self, optimizer: Optimizer) -> None:
        """Called at every boundary: by its own, or by who holds the one that it was given."""
        self.steps += 1
        if self._late is not None:
            self._stop_late()  # the step called no module outside compiled code
        if self.over:
            return
        try:
            with silent():
                self._advance(optimizer)
        except LoraprofError as failure:  # a script may swallow exceptions: what it was is raised when it has ended
            self._fail(failure)
        except Exception as bug:  # whatever it is, it is not the training's
            self._fail(MeasurementError(f"loraprof failed in its {self.phase.name} pass, {type(bug).__name__}: {bug}"))

    def _fail(self, failure: LoraprofError) -> None:
        failed, self.failure, self.phase = self.phase, failure, Done()
        with suppress(Exception):
            failed.close()
            self.markers.remove()
            self.stop_profiler()
        self._on_done()

    def _advance(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.watch.step()
        if not self.recording:
            refuse_other_profiler()
        if self.steps == 1:
            self._begin(optimizer)
        if self.steps == 2 and isinstance(self.phase, Skip):
            self._tell_pace()
        if self.phase.step(self):
            self._next()

    def _begin(self, optimizer: Optimizer) -> None:
        self._thread = threading.current_thread()
        first = next((p for g in optimizer.param_groups for p in g["params"]), None)
        self.device = measured(first.device) if first is not None else self.device
        self._again = self.device.profiles_again and not self.watch.compiled  # new hooks would compile it again
        self.plan = replace(self.plan, calibrated=is_cached(self.device.info()))
        self._phases = phases(self.plan, self.device, self._again)
        self.phase = next(self._phases)
        self._first_ns = self._now_ns()

    def _now_ns(self) -> int:
        """Now, with the device's work done. Only for skipped steps, where the wait disturbs nothing."""
        if not self.device.capturing():
            self.device.synchronise()
        return time.perf_counter_ns()

    def _tell_pace(self) -> None:
        plain = self.plan.skip + self.plan.timed - self.steps
        self.tell(self.plan.pace(self._now_ns() - self._first_ns, plain, self.device.asynchronous))

    def _next(self) -> None:
        self.phase.leave(self)
        self.phase = next(self._phases, Done())
        self.watch.begin(self.phase.name)
        if isinstance(self.phase, Done):
            self.stop_soon(self._on_done)
            return
        self.phase.enter(self)
        if self.phase.left <= 0:
            self._next()

    def stop_soon(self, then: Callable[[], None]) -> None:
        """The optimizer's own range is still open: the profiler stops at the next module call, or in ``remove``.

        Only the thread that started a profiler can stop it, so one beside the main thread does it at once after.
        """
        if not self.recording:
            then()
        elif not self.boundary.stepping:
            self._stop_late()
            then()
        elif self._thread is not threading.main_thread():
            when_step_returns(self._stop_late, then)
        else:
            uncompiled: Any = torch.compiler.disable
            self._late = register_module_forward_pre_hook(uncompiled(self._stop_late))
            then()

    def _stop_late(self, *_: Any) -> None:
        if not self.inert:
            with silent():
                self.stop_profiler()
                self.markers.remove()

    def stop_profiler(self) -> None:
        """Ends the profiler session; its events can be exported afterwards."""
        if self._late is not None:
            self._late.remove()
            self._late = None
        if self.recording:
            self.recording = False
            self.device.synchronise()
            self.profiler.stop_trace()
        self.around.close()


def _forked() -> None:
    if Session.attached is not None:
        Session.attached.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
