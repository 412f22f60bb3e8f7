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
    from loraprof.runs.fix.equal import Goal
    from loraprof.runs.fix.job import Command

LAUNCH: Final = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
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
    seconds: Annotated[float | None, typer.Option(help="With --also: the losses after so much training.")] = None,
    until_loss: Annotated[float | None, typer.Option(help="With --also: the time until this loss.")] = None,
    ranks: Annotated[
        int, typer.Option("--nproc-per-node", help="Ranks of a script on this machine, as torchrun counts them.", min=1)
    ] = 1,
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
    goal_of(also, seconds, until_loss)
    refuse_existing(output, force)
    ranks = take_over(ranks)
    if not ranks:
        return 0
    budget_ns = parse_duration_ns(budget)
    from loraprof.runs.fix import run

    recording = Path(target[0]) if target and is_recording(target[0]) else None
    command, name, set_up = _of_recording(recording) if recording else _command(list(target or ()), module, overrides)
    if ranks > 1 and command.spec:
        raise UsageError(f"{name} is a built-in workload and runs in one process", None)
    asked = run.Asked(
        command=replace(command, ranks=ranks),
        name=name,
        overrides=set_up,
        budget_ns=budget_ns,
        only=_words(only),
        skip=_words(skip),
        other_training=also is not None,
        goal=goal_of(also, seconds, until_loss),
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
    if any(t.untried for t in result.remedies) and not any(t.measured for t in result.remedies):
        from loraprof.report.views.fix import more_time

        raise MeasurementError(
            f"no remedy was tried within --budget {budget}", more_time(result.needed_ns or budget_ns)
        )
    if missed:
        raise ThresholdError(f"--require {require}: {missed}", None)
    return 0


def _check(also: str | None, contribute: Path | None) -> None:
    """Before any work is done. Raises UsageError, MeasurementError."""
    if also not in (None, OTHER_TRAINING):
        raise UsageError(f"--also {also!r} is not known", f"--also {OTHER_TRAINING}")
    if contribute is not None:
        check_folder(contribute)


def take_over(ranks: int) -> int:
    """How many ranks the program runs on. Under torchrun, rank 0 takes the launch over and starts all of them for each
    run; the others have nothing to do (0). Raises MeasurementError for several machines."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world < 2:
        return ranks
    if os.environ.get("LOCAL_WORLD_SIZE", "") != str(world):
        raise MeasurementError("remedies are measured on one machine, not on several", None)
    if os.environ.get("RANK") != "0":
        return 0
    for name in [n for n in os.environ if n in LAUNCH or n.startswith(("TORCHELASTIC_", "ROLE_", "GROUP_"))]:
        del os.environ[name]
    return world


def goal_of(also: str | None, seconds: float | None, until_loss: float | None) -> "Goal | None":
    """Raises UsageError for two of them, or for one without remedies that train something else."""
    if seconds is None and until_loss is None:
        return None
    if also is None:
        raise UsageError(
            "--seconds and --until-loss compare what trains something else", f"add --also {OTHER_TRAINING}"
        )
    if seconds is not None and until_loss is not None:
        raise UsageError("--seconds and --until-loss exclude each other", "give one of them")
    if (seconds or until_loss or 0) <= 0:
        raise UsageError("--seconds and --until-loss are above 0", None)
    from loraprof.runs.fix.equal import Goal

    return Goal(seconds, until_loss)


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
    helped = [t.measured for t in result.remedies if t.status == "kept" and t.measured]
    together = [result.together.measured] if result.together else []
    surely = max((1 / m.high for m in [*helped, *together]), default=1.0)
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
        asked = {k: ",".join(v) if isinstance(v, list) else v for k, v in workload.options.items() if k != "name"}
        options = {key: value for key, value in asked.items() if value not in (None, "")}
        return _command([workload.name], False, options)
    return _command(list(workload.argv), False, {})
