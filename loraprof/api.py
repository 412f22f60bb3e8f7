"""How does a Python program profile its own training step? The passes of ``capture.passes`` around its loop.

The optimizer's hooks advance the passes, so the loop stays as it is: it asks ``done`` and stops, or goes on.
"""

import sys
import warnings
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Literal, Self, TypedDict, Unpack

import msgspec

from loraprof.capture.device.kinds import default_device, measured
from loraprof.capture.passes.plan import Plan
from loraprof.capture.passes.session import Session
from loraprof.capture.ranks.write import Writer
from loraprof.errors import LoraprofError, MeasurementError, UsageError
from loraprof.model.recording import Recording, Workload
from loraprof.model.report import Report
from loraprof.store.writing import check_target

NO_STEPS = "loraprof finds steps by the hooks of torch.optim optimizers"
FEW_STEPS = "train longer, or lower skip, timed and steps"


class Facts(TypedDict, total=False):
    """What a training loop knows of itself and no hook sees; what is left out is counted or stays unknown."""

    tokens_per_step: int  # of all micro-batches, padding included
    micro_batches: int  # per optimizer step
    autocast: Literal["none", "bfloat16", "float16"]
    checkpointing: Literal["none", "reentrant", "non-reentrant"]
    grad_clip: bool


class Profile:
    """One recording in the making, from ``loraprof.profile``: a context manager around a training loop.

    One at a time: starting the next detaches one that was left behind. A callback uses ``start``, ``poll`` after every
    step, and ``close`` at the end instead.
    """

    _current: ClassVar["Profile | None"] = None
    _profiled: ClassVar[bool] = False  # the profiler ran in this process

    def __init__(self, record: Path, plan: Plan, name: str, force: bool, progress: Callable[[str], None]) -> None:
        self._target = record.absolute()  # where it was asked for, whatever folder the loop goes to
        self._plan, self._force, self._tell = plan, force, progress
        self._workload = Workload(name=name, kind="script", argv=[])
        self._session: Session | None = None
        self._seen = False  # the steps of a session that has ended were enough
        self._call: int | None = None  # steps before the call that ``run`` is making
        self.path: Path | None = None
        """The recording's directory once it is written; None before, and on ranks other than the first."""
        self._check()

    @property
    def done(self) -> bool:
        """Whether the loop may stop, or go on unwatched: every step was seen, or there can be no recording."""
        session = self._session
        return self._seen or (session is not None and session.over and not session.inert)

    @property
    def report(self) -> Report:
        """The diagnosis of the recording. Raises UsageError while ``path`` is None."""
        from loraprof.diagnosis.load import diagnose

        return diagnose(self._written())

    @property
    def recording(self) -> Recording:
        """What was recorded beside the trace. Raises UsageError while ``path`` is None."""
        from loraprof.store.load import load

        return load(self._written())

    def describe(self, **facts: Unpack[Facts]) -> Self:
        """Adds what only the loop knows, before the recording is written. Raises TypeError for an unknown fact."""
        self._workload = msgspec.structs.replace(self._workload, **facts)
        return self

    def start(self) -> Self:
        """Attaches to every optimizer of this process.

        In a job of several ranks each of them does, and each writes its part. Raises MeasurementError where a GPU was
        profiled before.
        """
        self._check()
        if Profile._current is not None:
            Profile._current.close()
        here = measured(default_device())
        if Profile._profiled and not here.profiles_again:
            raise MeasurementError(
                "this process was profiled before: on a GPU a second profiler session loses kernels",
                "start a new process; in a notebook, restart the kernel",
            )
        self.path, self._seen = None, False
        self._session = Session(self._plan, self._complete, self._tell)
        self._session.install()
        Profile._current = self
        self._tell(self._plan.sentence(here.asynchronous))
        return self

    def poll(self, warn: bool = False) -> bool:
        """Writes the recording once its steps have been seen; returns ``done``.

        Raises as ``finish``, or with ``warn`` says it in a warning, so that a training goes on.
        """
        if self._session is not None and self.done:
            try:
                self.finish()
            except LoraprofError as error:
                if not warn:
                    raise
                warnings.warn(f"loraprof wrote nothing: {error}", stacklevel=2)
        return self.done

    def finish(self) -> Path | None:
        """Detaches, writes and returns ``path``. Raises MeasurementError when steps are missing or were refused.

        In a job of several ranks each writes its part, and the first, which returns the path, waits for all of them.
        """
        session = self._detach()
        if session is None:
            raise UsageError(f"{self._target}: not being recorded", "not started, or another profile was started since")
        missing = MeasurementError(self._lacking(session), FEW_STEPS if session.steps else NO_STEPS)
        refused = session.failure or (missing if session.recorded is None else None)
        writer = Writer(self._target, self._force, self._tell)
        if refused is not None:
            writer.absent(refused.message)
            raise refused
        if writer.write(session, self._workload):
            self.path = self._target
        return self.path

    def close(self) -> None:
        """Detaches, and writes what there is; where that is nothing, a warning says why."""
        if self._session is not None:
            try:
                self.finish()
            except LoraprofError as error:
                hint = f"; {error.hint}" if error.hint else ""
                warnings.warn(f"loraprof wrote nothing: {error}{hint}", stacklevel=2)

    def run(self, train: Callable[[], object]) -> Self:
        """Calls ``train`` until the steps have been seen, and writes the recording.

        A call that makes one optimizer step is left alone; one that makes several is left by an exception when the
        last step that is needed has ended. Raises MeasurementError for a call without any.
        """
        with self as running:
            try:
                while not running.done:
                    running._step(train)
            except _Complete:
                pass
            finally:
                self._call = None
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Writes what there is, whatever the loop raised; raises MeasurementError when steps are missing."""
        session = self._session
        if session is None or session.inert:
            return
        if error is None or session.recorded is not None:
            self.finish()
        elif self._detach() is not None and kind is not None:
            Writer(self._target, self._force, self._tell).absent(f"its loop raised {kind.__name__}")

    def _check(self) -> None:
        if self._target.suffix != ".loraprof":
            raise UsageError(f"{self._target}: a recording's name ends in .loraprof", None)
        check_target(self._target, self._force, "force=True")

    def _step(self, train: Callable[[], object]) -> None:
        session = self._session
        if session is None:
            raise UsageError(f"{self._target}: another profile was started inside the step", None)
        self._call = session.steps
        train()
        if session.steps == self._call:
            raise MeasurementError(f"the call made no optimizer step: {self._lacking(session)}", NO_STEPS)

    def _complete(self) -> None:
        if self._call is not None and self._session is not None and self._session.steps > self._call + 1:
            raise _Complete

    def _detach(self) -> Session | None:
        session, self._session = self._session, None
        if Profile._current is self:
            Profile._current = None
        if session is not None:
            session.remove()
            Profile._profiled |= session.profiler is not None
            self._seen = session.done
        return session

    def _lacking(self, session: Session) -> str:
        least = "at least " if session.device.asynchronous else ""
        return f"the recording needs {least}{session.needed} optimizer steps, {session.steps} were seen"

    def _written(self) -> Path:
        if self.path is None:
            raise UsageError(f"{self._target}: not written here", "it is at the end of the block, on the first rank")
        return self.path


class _Complete(BaseException):
    """Leaves a trainer's own loop; no ``except Exception`` on the way holds it up."""


def profile(
    what: str | PathLike[str] | Callable[[], object],
    record: str | PathLike[str] | None = None,
    *,
    skip: int = 3,
    timed: int = 10,
    steps: int = 3,
    name: str | None = None,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Profile:
    """Profiles one training step of this process into the directory ``NAME.loraprof``.

    ``with profile("x.loraprof") as p:`` goes around a training loop, which may stop when ``p.done``; the recording is
    written at the end of the block. ``profile(step, "x.loraprof")`` calls ``step`` (one training step, or a trainer's
    whole ``train``) until it has seen enough. Then ``p.path`` is the recording and ``p.report`` its diagnosis.

    Counts are optimizer steps: ``skip`` pass before anything is measured, ``timed`` run with nothing attached,
    ``steps`` are recorded. On a CPU the first six steps give a recording, should the loop end, and the others a better
    one; on a GPU timing goes on until it is steady, and NVML is sampled over seconds of steps. ``name`` is the
    workload's in the report, by default the running script's. ``force`` overwrites. ``progress`` (``print``, say) is
    told what happens.

    Raises UsageError for a bad name or count before anything runs, MeasurementError when the loop ends too early or
    nothing can be measured here. What the loop itself raises passes through; nothing half-written is left.
    """
    place = record if callable(what) else what
    if place is None or (record is not None and not callable(what)):
        raise UsageError("one recording, or a function and a recording", 'profile(step, "NAME.loraprof")')
    for count, value in (("skip", skip), ("timed", timed), ("steps", steps)):
        if value < 1:
            raise UsageError(f"{count}={value}: at least one step", None)
    plan = Plan(skip=skip, timed=timed, steps=steps)
    made = Profile(Path(place), plan, name or _running(), force, progress or (lambda _: None))
    return made.run(what) if callable(what) else made


def _running() -> str:
    """The running script's file name; an interpreter or notebook has none."""
    return Path(getattr(sys.modules["__main__"], "__file__", None) or "session").name
