"""``loraprof doctor``: what can be measured here, what cannot, with the remedy for each; ``--calibrate``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from loraprof import units
from loraprof.report.output import standard_output

if TYPE_CHECKING:
    from loraprof.capture.device.checks import Check
    from loraprof.model.recording import Calibration

SCHEMA = "loraprof.doctor/1"
MARKS = {True: ("ok", "green"), False: ("no", "red"), None: ("-", "dim")}


def doctor(
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Also measure this device's ceilings.")] = False,
    format: Annotated[Literal["terminal", "json"], typer.Option(help="How to write the result.")] = "terminal",
    *,
    device: Annotated[str | None, typer.Option(help="Calibrate this: cpu, cuda, cuda:N; left out: a GPU.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Calibrate with products in this; left out: float32.")] = None,
    fresh: Annotated[bool | None, typer.Option(help="Calibrate whatever the cache holds; or what it lacks.")] = None,
) -> None:
    """Say what can be measured here and what cannot, with the remedy for each."""
    from loraprof.capture.device.checks import checks  # imports torch

    found = checks()
    wanted = calibrate or (device, dtype, fresh) != (None, None, None)  # each says how to calibrate
    measured, notes = _calibrate(device, dtype or "float32", fresh is not False) if wanted else (None, [])
    if format == "json":
        body = {"schema": SCHEMA, "checks": found, "calibration": measured, "notes": notes}
        with standard_output() as out:
            out.write(msgspec.json.format(msgspec.json.encode(body), indent=2).decode() + "\n")
        return
    console = Console(highlight=False)
    console.print(check_table(found))
    if measured is not None:
        console.print()
        console.print(ceiling_table(measured))
    for note in notes:
        console.print(Text(f"note: {note}", style="yellow"))


def _calibrate(device: str | None, dtype: str, fresh: bool) -> tuple["Calibration", list[str]]:
    from loraprof.capture.device.calibration_cache import cached_calibration
    from loraprof.cli.device import named_device

    return cached_calibration(named_device(device), dtype=dtype, fresh=fresh)


def check_table(found: Sequence["Check"]) -> Table:
    """One row per check; a remedy stands under what it is for."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column("", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("detail", overflow="fold")
    for check in found:
        mark, style = MARKS[check.ok]
        detail = Text(check.detail)
        if check.remedy is not None:
            detail.append(f"\n-> {check.remedy}", style="cyan")
        table.add_row(Text(mark, style=style), check.name, detail)
    return table


def ceiling_table(calibration: "Calibration") -> Table:
    """GEMM and copy rates over sizes, then the cost of tiny work."""
    table = Table(box=None, pad_edge=False, title="ceilings, measured", title_justify="left")
    table.add_column("what", no_wrap=True)
    table.add_column("time", justify="right")
    table.add_column("rate", justify="right")
    for gemm in calibration.gemm:
        rate = 2e9 * gemm.m * gemm.n * gemm.k / gemm.ns
        what = f"GEMM {gemm.m} x {gemm.n} x {gemm.k} {gemm.dtype}"
        table.add_row(what, units.ns(gemm.ns), units.flops_per_s(rate))
    for copy in calibration.copy:
        rate = 1e9 * copy.bytes / copy.ns
        table.add_row(f"copy {units.nbytes(copy.bytes)}", units.ns(copy.ns), units.bytes_per_s(rate))
    for what, cost_ns in (
        ("launch floor", calibration.launch_floor_ns),
        ("turnaround", calibration.turnaround_ns),
        ("one tiny op", calibration.op_ns),
        ("one op call from Python", calibration.host_ns),
        ("profiler, per event", calibration.event_ns),
    ):
        if cost_ns is not None:
            table.add_row(what, units.ns(cost_ns), "")
    return table
