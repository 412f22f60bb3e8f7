"""From plants to the result: plants, reads the trace back, reports every step as if it were alone, and judges.

Of a timed quantity the repetition with the median error counts, of any other the worst: a count has no noise.
"""

import datetime
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median_low
from typing import Any, TypeVar

import torch
from msgspec.structs import replace

from loraprof.capture.device.calibration_cache import cached_calibration
from loraprof.capture.device.environment import environment
from loraprof.capture.device.kinds import measured
from loraprof.capture.device.protocol import Device
from loraprof.capture.modules.facts import tables_of
from loraprof.capture.modules.markers import Markers
from loraprof.errors import MeasurementError
from loraprof.model.recording import Calibration, Recording, Workload
from loraprof.model.report import Report
from loraprof.model.selftest import Row, SelfTest
from loraprof.model.trace import Bool, DeviceTable, HostTable, Trace
from loraprof.model.vocabulary import HostKind
from loraprof.selftest.plant import TIMED, Plant, Quantity, Seen, judge, miss
from loraprof.selftest.run import Kineto, plant_all
from loraprof.store.kineto.read import read_trace
from loraprof.store.leftovers import scratch

T = TypeVar("T", HostTable, DeviceTable)
Diagnose = Callable[[Trace, Path, Recording], Report]  # the analysis under test, handed in by who may import it
CUPTI_HINT = "another profiler (nsys, ncu, DCGM) may hold CUPTI: end it; `loraprof doctor` says what else is missing"


def selftest(device: torch.device, plants: Sequence[Plant], diagnose: Diagnose) -> SelfTest:
    """Plants on ``device`` in the only profiler session of this process.

    Raises MeasurementError where a profiler runs already, or records nothing of a GPU.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    on = measured(device)
    with on.current(), scratch() as folder:
        calibration, notes = _calibration(on)  # first: work may stay slower after a profiler session
        path = folder / "selftest.json"
        done = plant_all(device, plants, Kineto(device), path, on.synchronise)
        trace = read_trace(path)
    if on.asynchronous and done.truths and not len(trace.device):
        raise MeasurementError("the profiler recorded no kernel", CUPTI_HINT)
    recording = recording_of(device, done.markers, calibration)
    rows = [row for plant, truths in done.truths for row in rows_of(plant, truths, trace, recording, diagnose)]
    return SelfTest(
        device=str(device),
        device_name=recording.device.name,
        ok=all(row.ok for row in rows) and not any(one.failed for one in done.skipped),
        rows=rows,
        skipped=done.skipped,
        notes=notes,
    )


def _calibration(on: Device) -> tuple[Calibration | None, list[str]]:
    """The roofs that a GPU's plants are held against."""
    if not on.asynchronous:
        return None, []
    try:
        return cached_calibration(on.place, dtype=str(on.matrix_dtype()).removeprefix("torch."))
    except RuntimeError as error:
        return None, [f"the device could not be calibrated: {str(error).splitlines()[0]}"]


def recording_of(device: torch.device, markers: Markers, calibration: Calibration | None) -> Recording:
    """What a report of the plants can lean on."""
    tables = tables_of(markers)
    return Recording(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        environment=environment(),
        device=measured(device).info(),
        workload=Workload(name="selftest", kind="builtin", argv=["selftest"]),
        modules=tables.modules,
        parameters=tables.parameters,
        sites=tables.sites,
        adapter_ops=tables.adapter_ops,
        calls=markers.calls,
        calibration=calibration,
    )


def rows_of(
    plant: Plant, truths: Mapping[str, Sequence[float]], trace: Trace, recording: Recording, diagnose: Diagnose
) -> list[Row]:
    """One row per quantity; ``truths`` per step of the trace. Raises MeasurementError for a step it lacks."""
    alone = _of_plant(recording, plant.name)
    seen = {name: _seen(step_alone(trace, name), alone, diagnose) for name in truths}
    rows = []
    for i, quantity in enumerate(plant.quantities):
        if recording.device.kind in quantity.kinds and truths:
            tried = [
                judge(plant.name, quantity, values[i], quantity.read(seen[name]), seen[name].step.wall_ns)
                for name, values in truths.items()
            ]
            rows.append(_telling(quantity, tried))
    return rows


def _telling(quantity: Quantity, tried: Sequence[Row]) -> Row:
    errors = [miss(quantity, row.reported, row.off) for row in tried]
    wanted = median_low(errors) if quantity.unit in TIMED else max(errors)
    return tried[errors.index(wanted)]


def _of_plant(recording: Recording, name: str) -> Recording:
    """The recording as if only this plant's layers were adapted."""
    sites = [replace(site, active=site.path.split(".")[0] == name) for site in recording.sites]
    return replace(recording, sites=sites)


def _seen(trace: Trace, recording: Recording, diagnose: Diagnose) -> Seen:
    return Seen(diagnose(trace, Path("selftest"), recording), trace)


def step_alone(trace: Trace, name: str) -> Trace:
    """The trace as if only the step's own records were there. Raises MeasurementError where it has no such step."""
    host, device = trace.host, trace.device
    number = trace.names.index(name) if name in trace.names else -1
    annotated = (host.name == number) & (host.kind == HostKind.ANNOTATION)
    if annotated.sum() != 1:
        raise MeasurementError(f"{name} is not in the trace", CUPTI_HINT)
    start, end = int(host.start[annotated][0]), int(host.end[annotated][0])
    return replace(
        trace,
        host=_rows(host, (host.start >= start) & (host.end <= end)),
        device=_rows(device, (device.start >= start) & (device.end <= end)),
    )


def _rows(table: T, chosen: Bool) -> T:
    columns: dict[str, Any] = {name: getattr(table, name)[chosen] for name in type(table).__struct_fields__}
    return type(table)(**columns)
