"""``loraprof fix``: every remedy applied to the running program and measured beside its prediction."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from msgspec.structs import replace

from loraprof.cli.posix import needs_posix
from loraprof.cli.quantities import parse_duration_ns
from loraprof.cli.target import is_recording
from loraprof.cli.workload_options import workload_options
from loraprof.errors import MeasurementError, ThresholdError, UsageError
from loraprof.report.output import Format, clean_stdout, emit, refuse_existing, say, terminable
from loraprof.store.writing import check_folder, disk

if TYPE_CHECKING:
    from loraprof.model.fix import Fix
    from loraprof.runs.fix.job import Command

OTHER_TRAINING: Final = "other-training"
_REQUIRED: Final = re.compile(r"\s*faster\s*>\s*(\d+(?:\.\d+)?)\s*%\s*")


@workload_options
def fix(
    target: Annotated[
        list[str] | None, typer.Argument(help="A workload, SCRIPT.py and its arguments, or a recording of either.")
    ] = None,
    module: Annotated[bool, typer.Option("-m", help="The target is a module, as for python -m.")] = False,
    budget: Annotated[str, typer.Option(help="Time for all of it: 10m, 90s.")] = "10m",
    only: Annotated[str | None, typer.Option(help="L2,fused-optimizer: these findings' or named remedies.")] = None,
    skip: Annotated[str | None, typer.Option(help="All but these.")] = None,
    also: Annotated[str | None, typer.Option(help="other-training: also those that change what is trained.")] = None,
    require: Annotated[str | None, typer.Option(help="'faster>10%': exit 3 where that is not surely reached.")] = None,
    contribute: Annotated[
        Path | None, typer.Option(help="Append a table of predicted against measured to this file.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the finished runs; taken up again.")] = None,
    format: Annotated[Format, typer.Option(help="How to write what was found.")] = Format.terminal,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write it to this file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what exists.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only the table and errors.")] = False,
    *,
    overrides: dict[str, Any],
) -> int:
    """Apply every remedy that fits, measure each, then those that helped."""
    needs_posix()
    limit = parse_required(require) if require else None
    _check(also, contribute)
    refuse_existing(output, force)
    budget_ns = parse_duration_ns(budget)
    from loraprof.runs.fix import run

    recording = Path(target[0]) if target and is_recording(target[0]) else None
    command, name, set_up = _of_recording(recording) if recording else _command(list(target or ()), module, overrides)
    asked = run.Asked(
        command=command,
        name=name,
        overrides=set_up,
        budget_ns=budget_ns,
        only=_words(only),
        skip=_words(skip),
        other_training=also is not None,
        recording=recording,
        out=out,
        say=lambda text: say(text, quiet),
    )
    with clean_stdout(format is not Format.terminal and output is None), terminable():
        result = run.fix(asked)
    missed = shortfall(result, limit) if limit is not None else None
    emit(replace(result, missed=missed), format, output, force)
    if output is not None:
        say(f"wrote {output}", quiet)
    if contribute is not None:
        _append(contribute, result)
    if missed:
        raise ThresholdError(f"--require {require}: {missed}", None)
    return 0


def _check(also: str | None, contribute: Path | None) -> None:
    """Before any work is done. Raises UsageError, MeasurementError."""
    if also not in (None, OTHER_TRAINING):
        raise UsageError(f"--also {also!r} is not known", f"--also {OTHER_TRAINING}")
    if contribute is not None:
        check_folder(contribute)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise MeasurementError(
            "remedies are measured in one process, not in many ranks", "loraprof fix without a launcher"
        )


def _append(place: Path, result: "Fix") -> None:
    """Raises MeasurementError where that cannot be written."""
    from loraprof.report.views.fix import contribution

    with disk(place), place.open("a", encoding="utf-8") as file:
        file.write(contribution(result))


def parse_required(text: str) -> float:
    """``faster>10%`` -> 1.10, the speed-up to be reached. Raises UsageError."""
    found = _REQUIRED.fullmatch(text)
    if not found:
        raise UsageError(f"--require {text!r} is not a threshold", "write for example --require 'faster>10%'")
    return 1 + float(found[1]) / 100


def shortfall(result: "Fix", limit: float) -> str | None:
    """One line where the least speed-up of the best is below ``limit``, None where it is reached."""
    kept = [t.measured for t in result.remedies if t.status == "kept" and t.measured]
    together = [result.together.measured] if result.together else []
    surely = max((1 / m.high for m in [*kept, *together]), default=1.0)
    return None if surely >= limit else f"{surely:.2f}x is what is sure, {limit:.2f}x is asked for"


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()] if text else []


def _command(words: list[str], module: bool, overrides: dict[str, Any]) -> "tuple[Command, str, dict[str, Any]]":
    """Raises UsageError for what cannot be run."""
    from loraprof.capture.device.kinds import default_device
    from loraprof.runs.fix.job import Command
    from loraprof.runs.profile.run_script import check_script
    from loraprof.store.specs import default_workload, load_workload, workload_names

    if module or (words and words[0] not in workload_names()):
        if overrides:
            raise UsageError(f"--{next(iter(overrides))} is for built-in workloads", None)
        if not words:
            raise UsageError("-m needs a module to run", "loraprof fix -m package.module [ARGS]")
        if not module:
            check_script(words[0])
        return Command(target=words, module=module), Path(words[0]).name, {}
    if len(words) > 1:
        raise UsageError(f"{words[0]} is a built-in workload and takes no arguments: {words[1]}", None)
    name = words[0] if words else default_workload(default_device().type)
    return Command(spec=load_workload(name, overrides)), name, overrides


def _of_recording(place: Path) -> "tuple[Command, str, dict[str, Any]]":
    """The command that a recording was made of. Raises InputError, MeasurementError where it does not say."""
    from loraprof.store.recordings import load_source

    recording = load_source(place).recording
    workload = recording.workload if recording else None
    if workload is None or not workload.argv:
        raise MeasurementError(f"{place}: does not say which program it is of", "loraprof fix SCRIPT.py")
    if workload.kind == "builtin":
        given = {k: ",".join(v) if isinstance(v, list) else v for k, v in workload.options.items() if k != "name"}
        options = {key: value for key, value in given.items() if value not in (None, "")}
        return _command([workload.name], False, options)
    return _command(list(workload.argv), False, {})
