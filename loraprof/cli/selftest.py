"""``loraprof selftest``: plants known work on this device and checks that the analysis reports it."""

import datetime
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median_low
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from loraprof import units
from loraprof.cli.output import clean_stdout, say
from loraprof.errors import MeasurementError, ThresholdError, UsageError

if TYPE_CHECKING:
    import torch

    from loraprof.model.recording import Recording
    from loraprof.model.trace import Trace
    from loraprof.selftest.plant import Plant, Row, Skipped

SCHEMA = "loraprof.selftest/1"


def selftest(
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; default: the first GPU, else cpu.")] = None,
    only: Annotated[str | None, typer.Option(help="sleep,gemm,…: these plants alone.")] = None,
    format: Annotated[Literal["terminal", "json"], typer.Option(help="How to write the result.")] = "terminal",
    quiet: Annotated[bool, typer.Option("--quiet", help="Only the result and errors.")] = False,
) -> None:
    """Plant known work on this device and check that the analysis finds it."""
    from loraprof.selftest.registry import PLANTS  # imports torch

    chosen = _chosen(PLANTS, only)
    place = _device(device)
    say(f"planting {len(chosen)} kinds of known work on {place}", quiet)
    with clean_stdout(format == "json"):
        rows, skipped, name = _measured(place, chosen)
    _emit(format, place, name, rows, skipped)
    wrong = [f"{row.plant}: {row.what}" for row in rows if not row.ok]
    if wrong:
        raise ThresholdError(f"reported is not what was planted: {'; '.join(wrong)}", None)
    failed = [f"{one.plant}: {one.reason}" for one in skipped if one.failed]
    if failed:
        raise MeasurementError(f"could not be planted: {'; '.join(failed)}", "`loraprof doctor` says what is missing")


def _chosen(plants: "Sequence[Plant]", only: str | None) -> "list[Plant]":
    if only is None:
        return list(plants)
    names = [name.strip() for name in only.split(",")]
    known = [plant.name for plant in plants]
    for name in names:
        if name not in known:
            raise UsageError(f"no plant {name!r}", f"known: {', '.join(known)}")
    return [plant for plant in plants if plant.name in names]


def _device(name: str | None) -> "torch.device":
    import torch

    from loraprof.capture.environment import device_info

    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise UsageError(f"no device {name!r}", "cpu, cuda or cuda:N") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise MeasurementError("no CUDA device is available", "`loraprof doctor` says why")
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
    device_info(device)  # refuses what cannot be measured
    return device


def _measured(device: "torch.device", plants: "Sequence[Plant]") -> "tuple[list[Row], list[Skipped], str]":
    from loraprof.selftest.run import plant_all
    from loraprof.store.kineto import read_trace

    with TemporaryDirectory(prefix="loraprof-") as folder:
        path = Path(folder) / "selftest.json"
        done = plant_all(device, plants, path)
        trace = read_trace(path)
    if device.type == "cuda" and done.truths and not len(trace.device):
        raise MeasurementError(
            "the profiler recorded no kernel", "another profiler (nsys, ncu, DCGM) may hold CUPTI: end it"
        )
    recording = _recording(device)
    rows = [row for plant, truths in done.truths for row in _rows(plant, truths, trace, recording)]
    return rows, done.skipped, recording.device.name


def _recording(device: "torch.device") -> "Recording":
    """What a report of the plants can lean on: on a GPU its calibration."""
    from loraprof.capture.calibration_cache import cached_calibration
    from loraprof.capture.environment import device_info, environment
    from loraprof.model.recording import Recording, Workload
    from loraprof.selftest.host import matmul_dtype

    calibration = None
    if device.type == "cuda":
        dtype = str(matmul_dtype(device)).removeprefix("torch.")
        calibration, _ = cached_calibration(device, dtype=dtype)
    return Recording(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        environment=environment(),
        device=device_info(device),
        workload=Workload(name="selftest", kind="builtin", argv=["selftest"]),
        calibration=calibration,
    )


def _rows(
    plant: "Plant", truths: dict[str, Sequence[float]], trace: "Trace", recording: "Recording"
) -> "list[Row]":
    """Per quantity the repetition whose error is the median one."""
    from loraprof.diagnosis.build import build_report
    from loraprof.selftest.plant import judge, step_of
    from loraprof.selftest.run import step_alone

    reports = {name: build_report(step_alone(trace, name), Path(name), recording) for name in truths}
    rows = []
    for i, quantity in enumerate(plant.quantities):
        if recording.device.kind not in quantity.kinds or not truths:
            continue
        tried = [
            judge(plant.name, quantity, values[i], quantity.read(reports[name]), step_of(reports[name]).wall_ns)
            for name, values in truths.items()
        ]
        middle = median_low([_error(row) for row in tried])
        rows.append(next(row for row in tried if _error(row) == middle))
    return rows


def _error(row: "Row") -> float:
    return float("inf") if row.off is None else abs(row.off)


def _emit(format: str, device: Any, name: str, rows: "list[Row]", skipped: "list[Skipped]") -> None:
    ok = all(row.ok for row in rows) and not any(one.failed for one in skipped)
    if format == "json":
        body = {"schema": SCHEMA, "device": str(device), "device_name": name, "ok": ok, "rows": rows}
        text = msgspec.json.format(msgspec.json.encode({**body, "skipped": skipped}), indent=2)
        sys.stdout.write(text.decode() + "\n")
        return
    console = Console(highlight=False)
    console.print(_table(rows))
    for one in skipped:
        console.print(Text(f"{one.plant}: {'failed: ' if one.failed else ''}{one.reason}", style="dim"))


def _table(rows: "list[Row]") -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("", "plant", "what"):
        table.add_column(column, no_wrap=True)
    for column in ("planted", "reported", "off"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        mark = Text("ok", style="green") if row.ok else Text("no", style="red")
        shown = [units.quantity(value, row.unit) for value in (row.planted, row.reported)]
        off = units.percent(row.off) if row.off is not None else "n/a"
        table.add_row(mark, row.plant, row.what, *shown, off)
    return table
