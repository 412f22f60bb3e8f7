"""Runs the plants: each is a step of one profiler session, since a process may hold only one.

Every plant runs twice before the session, once in its warm-up and REPEATS times recorded. One that fails is left out
with its reason, and the rest goes on.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import torch
from torch import nn
from torch.profiler import record_function

from loraprof.capture.device.kinds import measured
from loraprof.capture.modules.markers import Markers
from loraprof.capture.passes.counting import Counting
from loraprof.capture.passes.profiler import prepare, session
from loraprof.errors import MeasurementError
from loraprof.model.selftest import Skipped
from loraprof.selftest.plant import NotHere, Plant, Work

REPEATS: Final = 5
TROUBLE: Final = (RuntimeError, OSError, MemoryError)  # out of memory on a GPU is a RuntimeError


class Recorder(Protocol):
    """A profiler session: warm-up between ``prepare`` and ``start``, steps until ``stop`` writes the trace."""

    def prepare(self) -> None: ...
    def start(self) -> None: ...
    def step(self, name: str) -> AbstractContextManager[object]: ...
    def stop(self, trace: Path) -> None: ...


class Kineto:
    """The profiler of torch. Raises MeasurementError where one runs already."""

    def __init__(self, device: torch.device) -> None:
        if torch._C._autograd._profiler_enabled():
            raise MeasurementError("a profiler runs in this process already", "the self-test needs the only session")
        self._session = session(measured(device))

    def prepare(self) -> None:
        prepare(self._session)

    def start(self) -> None:
        self._session.start_trace()

    def step(self, name: str) -> AbstractContextManager[object]:
        return record_function(name)

    def stop(self, trace: Path) -> None:
        self._session.stop_trace()
        self._session.export_chrome_trace(str(trace))


@dataclass(slots=True)
class Planted:
    """What ran: per plant, the steps it had and what was true in each."""

    truths: list[tuple[Plant, dict[str, Sequence[float]]]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    markers: Markers = field(default_factory=Markers)

    def skip(self, plant: Plant, error: Exception) -> None:
        message = str(error).strip()
        reason = message.splitlines()[0] if message else type(error).__name__
        self.skipped.append(Skipped(plant=plant.name, reason=reason, failed=not isinstance(error, NotHere)))


def plant_all(
    device: torch.device,
    plants: Sequence[Plant],
    recorder: Recorder,
    trace: Path,
    wait: Callable[[], None],
) -> Planted:
    """Runs the plants that apply to ``device`` and writes the trace. ``wait`` returns when the device is idle."""
    done = Planted()
    prepared = ((plant, _prepared(plant, device, wait, done)) for plant in plants)
    ready = [(plant, work) for plant, work in prepared if work is not None]
    done.markers.adopt([nn.ModuleDict({plant.name: work.module for plant, work in ready if work.module is not None})])
    done.markers.install()
    try:
        _observe(ready, wait, done.markers)
        recorder.prepare()
        alive = [(plant, work) for plant, work in ready if _tried(plant, work, wait, done)]
        done.markers.watch_gradients()
        recorder.start()
        for plant, work in alive:
            done.truths.append((plant, _steps(plant, work, recorder, wait, done)))
        recorder.stop(trace)
    finally:
        done.markers.remove()
    return done


def _observe(ready: Sequence[tuple[Plant, Work]], wait: Callable[[], None], markers: Markers) -> None:
    """Runs the plants that have modules once, so that their adapters are known by what they do."""
    counting = Counting(markers.where, markers.follow())
    counting.open()
    try:
        for plant, work in ready:
            if work.module is not None:
                _tried(plant, work, wait, Planted())
    finally:
        counting.close()
        markers.followed()


def _prepared(plant: Plant, device: torch.device, wait: Callable[[], None], done: Planted) -> Work | None:
    try:
        if device.type not in plant.kinds:
            raise NotHere(f"needs {' or '.join(kind.upper() for kind in plant.kinds)}")
        work = plant.make(device)
    except (*TROUBLE, NotHere) as error:
        done.skip(plant, error)
        return None
    return work if _tried(plant, work, wait, done) and _tried(plant, work, wait, done) else None


def _tried(plant: Plant, work: Work, wait: Callable[[], None], done: Planted) -> bool:
    """Runs it once; whether that went well."""
    try:
        work.run()
        wait()
    except TROUBLE as error:
        done.skip(plant, error)
        return False
    return True


def _steps(
    plant: Plant, work: Work, recorder: Recorder, wait: Callable[[], None], done: Planted
) -> dict[str, Sequence[float]]:
    truths: dict[str, Sequence[float]] = {}
    first = sum(len(steps) for _, steps in done.truths)
    for index in range(first, first + REPEATS):
        name = f"ProfilerStep#{index}"
        done.markers.step = index
        try:
            with recorder.step(name):
                truth = work.run()
                wait()
        except TROUBLE as error:
            done.skip(plant, error)
            break
        truths[name] = truth
    done.markers.step = None
    return truths
