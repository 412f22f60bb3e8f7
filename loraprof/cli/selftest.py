"""``loraprof selftest``: plants known work on this device and checks that the analysis reports it.

The JSON is ``loraprof.model.selftest``. Exit code 3: a quantity is off; 4: something could not be planted.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from loraprof import units
from loraprof.errors import MeasurementError, ThresholdError, UsageError
from loraprof.model.selftest import Row, SelfTest
from loraprof.report.output import clean_stdout, say, standard_output

if TYPE_CHECKING:
    from loraprof.selftest.plant import Plant

BOUNDS = {"equal": "", "at least": ">= ", "at most": "<= "}


def selftest(
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; default: the first GPU, else cpu.")] = None,
    only: Annotated[str | None, typer.Option(help="sleep,gemm,…: these plants alone.")] = None,
    format: Annotated[Literal["terminal", "json"], typer.Option(help="How to write the result.")] = "terminal",
    quiet: Annotated[bool, typer.Option("--quiet", help="Only the result and errors.")] = False,
) -> None:
    """Plant known work on this device and check that the analysis finds it."""
    from loraprof.cli.device import named_device
    from loraprof.diagnosis.build import build_report
    from loraprof.selftest.measure import selftest as measure
    from loraprof.selftest.registry import PLANTS  # imports torch

    chosen, place = _chosen(PLANTS, only), named_device(device)
    say(f"planting {len(chosen)} kinds of known work on {place}", quiet)
    with clean_stdout(format == "json"):
        result = measure(place, chosen, build_report)
    _emit(format, result)
    if wrong := result.wrong():
        raise ThresholdError(f"reported is not what was planted: {'; '.join(wrong)}", None)
    if lost := result.failed() or ([] if result.rows else [f"{one.plant}: {one.reason}" for one in result.skipped]):
        raise MeasurementError(f"could not be planted: {'; '.join(lost)}", "`loraprof doctor` says what is missing")


def _chosen(plants: "Sequence[Plant]", only: str | None) -> "list[Plant]":
    if only is None:
        return list(plants)
    names = [name.strip() for name in only.split(",")]
    known = [plant.name for plant in plants]
    for name in names:
        if name not in known:
            raise UsageError(f"no plant {name!r}", f"known: {', '.join(known)}")
    return [plant for plant in plants if plant.name in names]


def _emit(format: str, result: SelfTest) -> None:
    if format == "json":
        with standard_output() as out:
            out.write(msgspec.json.format(msgspec.json.encode(result), indent=2).decode() + "\n")
        return
    console = Console(highlight=False)
    console.print(_table(result.rows))
    for one in result.skipped:
        console.print(Text(f"{one.plant}: {'failed: ' if one.failed else ''}{one.reason}", style="dim"))
    for note in result.notes:
        console.print(Text(f"note: {note}", style="yellow"))


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("", "plant", "what"):
        table.add_column(column, no_wrap=True)
    for column in ("planted", "reported", "off"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        mark = Text("ok", style="green") if row.ok else Text("no", style="red")
        planted, reported = (units.quantity(value, row.unit) for value in (row.planted, row.reported))
        table.add_row(mark, row.plant, row.what, BOUNDS[row.relation] + planted, reported, units.percent(row.off))
    return table
