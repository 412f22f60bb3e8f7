"""``loraprof sweep``: a grid of workloads, what LoRA gains over full fine-tuning in each, and where it breaks even."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from loraprof import units
from loraprof.cli.posix import needs_posix
from loraprof.cli.quantities import parse_duration_ns
from loraprof.cli.workload_options import workload_options
from loraprof.comparison.grid import crossovers, grid, key_of, parse_axes, resized
from loraprof.errors import UsageError
from loraprof.model.sweep import Sweep, SweepCell
from loraprof.model.workload import WorkloadSpec
from loraprof.report.output import Format, clean_stdout, emit, refuse_existing, say, terminable
from loraprof.store.specs import default_workload, load_workload


@workload_options
def sweep(
    target: Annotated[list[str] | None, typer.Argument(help="A workload, and further axes.")] = None,
    over: Annotated[list[str] | None, typer.Option(help="rank=4,8 tokens=256,1024 hidden=512 …: the grid.")] = None,
    budget: Annotated[str, typer.Option(help="Time for the timing of one cell: 15s, 1m.")] = "15s",
    out: Annotated[Path | None, typer.Option(help="Folder of the finished cells; taken up again.")] = None,
    predict: Annotated[bool, typer.Option("--predict/--no-predict", help="Also profile LoRA in every cell.")] = True,
    address: Annotated[str | None, typer.Option(help="A Ray cluster's; `local` starts one (extra ray).")] = None,
    format: Annotated[Format, typer.Option(help="How to write the sweep.")] = Format.terminal,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write it to this file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite, and discard cells of other settings.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only the sweep and errors.")] = False,
    *,
    overrides: dict[str, Any],
) -> int:
    """Measure LoRA against full fine-tuning over a grid of workloads."""
    needs_posix()
    refuse_existing(output, force)
    words = list(target or ())
    names = [word for word in words if "=" not in word]
    axes = parse_axes([*(over or ()), *(word for word in words if "=" in word)])
    if len(names) > 1:
        raise UsageError(f"one workload is swept, not {' and '.join(names)}")
    name = names[0] if names else _default()
    budget_ns = parse_duration_ns(budget)
    shared = {"workload": name, "overrides": overrides, "budget_ns": budget_ns, "predict": predict}
    cells = {key_of(v): (v, {**overrides, **overrides_of(name, overrides, v)}) for v in grid(axes)}
    with terminable(), clean_stdout(format is not Format.terminal and output is None):
        found = _measure(cells, shared, out or Path(f"sweep-{name}"), address, force, quiet)
    ordered = [found[key] for key in cells]
    device = next((cell.device_name for cell in ordered if cell.device_name), units.NA)
    result = Sweep(workload=name, device_name=device, axes=axes, cells=ordered, crossovers=crossovers(axes, ordered))
    emit(result, format, output, force)
    say(f"the cells are in {out or Path(f'sweep-{name}')}; the same command takes them up again", quiet)
    return 0


def _default() -> str:
    from loraprof.capture.device.kinds import default_device

    return default_workload(default_device().type)


def overrides_of(name: str, overrides: dict[str, Any], values: dict[str, str]) -> dict[str, Any]:
    """The preset's fields that a cell sets; checked here, before anything runs. Raises UsageError."""
    own: dict[str, Any] = {key: value for key, value in values.items() if key not in ("hidden", "tokens")}
    spec = load_workload(name, {**overrides, **own})
    if "hidden" in values:
        sizes = resized(spec.config, _positive("hidden", values["hidden"]))
        own |= {f"config.{key}": size for key, size in sizes.items()}
    if "tokens" in values:
        own["seq"] = _sequence(spec, _positive("tokens", values["tokens"]))
    load_workload(name, {**overrides, **own})
    return own


def _sequence(spec: WorkloadSpec, tokens: int) -> int:
    """The length that makes ``tokens`` per optimizer step."""
    sequences = spec.batch * spec.accumulate
    if spec.family == "resnet" or tokens % sequences or tokens // sequences < 2:
        raise UsageError(f"tokens={tokens} cannot be made from {sequences} sequences", "change --batch, or sweep seq=")
    longest = spec.config.get("max_position_embeddings", spec.config.get("n_positions"))
    if isinstance(longest, int) and tokens // sequences > longest:
        raise UsageError(f"tokens={tokens} needs more than the model's {longest} positions", "raise --batch")
    return tokens // sequences


def _positive(axis: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"{axis}={text} is not a whole number")
    return int(text)


def _measure(
    cells: dict[str, tuple[dict[str, str], dict[str, Any]]],
    shared: dict[str, Any],
    folder: Path,
    address: str | None,
    force: bool,
    quiet: bool,
) -> dict[str, SweepCell]:
    """Every cell, by key: those that are there, then those that are not."""
    from loraprof.runs.executor import in_turn, on_ray
    from loraprof.runs.sweep.cells import CellJob, finished, open_folder, run_cells
    from loraprof.runs.worker import of_module

    open_folder(folder, shared, force)
    known_cells = {key: cell for key in cells if (cell := finished(folder, key)) is not None}
    if known_cells:
        say(f"{len(known_cells)} of {len(cells)} cells are already there", quiet)
    jobs = {
        key: CellJob(**{**shared, "overrides": own, "values": values})
        for key, (values, own) in cells.items()
        if key not in known_cells
    }
    if address is not None:
        from loraprof.runs.sweep.cell import measure_cell

        execute = on_ray(address, measure_cell, device=True)
    else:
        execute = in_turn(of_module("loraprof.runs.sweep.cell"), SweepCell, lambda text: say(text, quiet))
    with _progress(len(jobs), quiet) as advance:
        for key, cell in run_cells(jobs, folder, execute):
            known_cells[key] = cell
            advance(key, cell)
    return known_cells


@contextmanager
def _progress(total: int, quiet: bool) -> Iterator[Callable[[str, SweepCell], None]]:
    """A bar with the time left on a terminal, elsewhere a line per cell."""
    if quiet or not total or not sys.stderr.isatty():
        yield _lines(total, quiet)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("cells", total=total)
        yield lambda key, cell: bar.update(task, advance=1, description=_cell_line(key, cell))


def _lines(total: int, quiet: bool) -> Callable[[str, SweepCell], None]:
    begun, done = time.monotonic(), 0

    def advance(key: str, cell: SweepCell) -> None:
        nonlocal done
        done += 1
        left_ns = (time.monotonic() - begun) / done * (total - done) * 1e9
        left = f"; about {units.ns(left_ns)} left" if done < total else ""
        say(f"{done} of {total}, {_cell_line(key, cell)}{left}", quiet)

    return advance


def _cell_line(key: str, cell: SweepCell) -> str:
    return f"{key}: {units.ratio(cell.speedup) if cell.speedup is not None else cell.status}"
