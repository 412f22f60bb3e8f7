"""Runs the plants: each is a step of one profiler session, since a process may hold only one.

Every plant runs twice before the session, once in its warm-up and REPEATS times recorded; a step is read alone, as
if the trace held nothing else.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from torch.profiler import ProfilerActivity, record_function

from loraprof.errors import MeasurementError
from loraprof.model.trace import Bool, DeviceTable, HostTable, Trace
from loraprof.model.vocabulary import HostKind
from loraprof.selftest.plant import Plant, Skipped, Work

REPEATS: Final = 3
T = TypeVar("T", HostTable, DeviceTable)


@dataclass(slots=True)
class Planted:
    """What ran: per plant, the steps it had and what was true in each."""

    truths: list[tuple[Plant, dict[str, Sequence[float]]]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def plant_all(device: torch.device, plants: Sequence[Plant], trace: Path) -> Planted:
    """Runs the plants that apply to ``device`` and writes the trace. One that fails is skipped with its reason.

    Raises MeasurementError where the profiler records nothing of the device.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    if torch._C._autograd._profiler_enabled():
        raise MeasurementError("a profiler runs in this process already", "the self-test needs the only session")
    done = Planted()
    ready: list[tuple[Plant, Work]] = []
    for plant in plants:
        if device.type not in plant.kinds:
            done.skipped.append(Skipped(plant=plant.name, reason="needs CUDA", failed=False))
        elif (work := _prepared(plant, device, done)) is not None:
            ready.append((plant, work))
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    session = torch.profiler._KinetoProfile(activities=activities, record_shapes=True)
    session.prepare_trace()
    for _, work in ready:
        work()
    _wait(device)
    session.start_trace()
    for number, (plant, work) in enumerate(ready):
        done.truths.append((plant, _steps(plant, work, device, number, done)))
    session.stop_trace()
    session.export_chrome_trace(str(trace))
    return done


def _prepared(plant: Plant, device: torch.device, done: Planted) -> Work | None:
    try:
        work = plant.make(device)
        work()
        work()
        _wait(device)
    except (RuntimeError, OSError) as error:
        done.skipped.append(_failed(plant, error))
        return None
    return work


def _steps(
    plant: Plant, work: Work, device: torch.device, number: int, done: Planted
) -> dict[str, Sequence[float]]:
    truths: dict[str, Sequence[float]] = {}
    for index in range(REPEATS):
        name = f"ProfilerStep#{number * REPEATS + index}"
        try:
            with record_function(name):
                truths[name] = work()
                _wait(device)
        except (RuntimeError, OSError) as error:
            done.skipped.append(_failed(plant, error))
            break
    return truths


def _failed(plant: Plant, error: Exception) -> Skipped:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return Skipped(plant=plant.name, reason=reason, failed=True)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def step_alone(trace: Trace, name: str) -> Trace:
    """The trace as if only the step's own records were there. Raises MeasurementError where it has no such step."""
    host, device = trace.host, trace.device
    number = trace.names.index(name) if name in trace.names else -1
    mine = (host.name == number) & (host.kind == HostKind.ANNOTATION)
    if mine.sum() != 1:
        raise MeasurementError(f"{name} is not in the trace", "the profiler lost records; another one may be running")
    start, end = int(host.start[mine][0]), int(host.end[mine][0])
    kept = (host.start >= start) & (host.end <= end)
    return replace(
        trace,
        host=_rows(host, kept),
        device=_rows(device, (device.start >= start) & (device.end <= end)),
    )


def _rows(table: T, kept: Bool) -> T:
    columns: dict[str, Any] = {f.name: getattr(table, f.name)[kept] for f in fields(table)}
    return type(table)(**columns)
