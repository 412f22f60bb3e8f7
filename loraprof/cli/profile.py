"""``loraprof profile``: runs a built-in workload or an unmodified script, records one step, prints the diagnosis."""

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loraprof import BEGAN_NS
from loraprof.cli.posix import needs_posix
from loraprof.cli.target import COMMAND
from loraprof.cli.workload_options import workload_options
from loraprof.collector import uncollected
from loraprof.errors import MeasurementError, UsageError
from loraprof.report.output import Format, clean_stdout, let_go, refuse_existing, say, show_recording
from loraprof.store.layout import RECORDING
from loraprof.store.places import RemotePath, place_of

if TYPE_CHECKING:
    from loraprof.runs.profile.order import Ended, Order


@workload_options
def profile(
    target: Annotated[
        list[str] | None, typer.Argument(help="A workload, SCRIPT.py and its arguments, or -- COMMAND.")
    ] = None,
    module: Annotated[bool, typer.Option("-m", help="The target is a module, as for python -m.")] = False,
    skip: Annotated[int, typer.Option(min=1, help="Optimizer steps that pass before anything is measured.")] = 3,
    timed: Annotated[int, typer.Option(min=1, help="Steps timed with nothing attached.")] = 10,
    steps: Annotated[int, typer.Option(min=1, help="Steps recorded by the profiler.")] = 3,
    finish: Annotated[bool, typer.Option("--finish", help="Let the script go on afterwards.")] = False,
    record: Annotated[str | None, typer.Option(help="The recording's directory, NAME.loraprof; or a URL.")] = None,
    format: Annotated[Format, typer.Option(help="How to write the report.")] = Format.terminal,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the report to this file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what exists.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only the report and errors.")] = False,
    redact: Annotated[bool, typer.Option("--redact", help="Keep numbers and public names alone.")] = False,
    arm: Annotated[str | None, typer.Option(help="lora, full, frozen, …; also for scripts.")] = None,
    command: Annotated[
        bool, typer.Option(COMMAND, hidden=True, help="What follows is a command: the same as --.")
    ] = False,
    *,
    overrides: dict[str, Any],
) -> int:
    """Profile one training step and explain it. After ``--``: any command, recorded wherever it trains."""
    needs_posix()
    builtin = _is_builtin(target or [], module, command, overrides)
    place = place_of(record) if record else _default_path(_named(target) if command else target, module)
    _refuse_places(place, output, force, redact)

    with uncollected():
        from loraprof.capture.passes.plan import Plan
        from loraprof.capture.passes.spent import Spent
        from loraprof.runs.profile.order import Order

    plan = Plan(skip=skip, timed=timed, steps=steps, finish=finish)
    order = Order(plan, place, arm, force, quiet, spent=Spent(BEGAN_NS))
    with clean_stdout(format is not Format.terminal and output is None):
        if command:
            place, ended = _of_command(target or [], order)
        elif builtin:
            from loraprof.runs.profile.workload import profile_workload

            ended = profile_workload(target[0] if target else None, overrides, order)
        else:
            from loraprof.runs.profile.script import profile_script

            ended = profile_script(list(target or []), module, order)
    if ended.leaves is not None:
        from loraprof.runs.profile.last_words import LastWords, become

        whole, page = (path.absolute() if isinstance(path, Path) else path for path in (place, output))
        to = str(page) if page else None
        order.patience.shorten()
        until = order.patience.until
        become(LastWords(str(whole), ended.leaves, force, ended.code, format.value, to, quiet, redact, until))
    if ended.saved:
        try:
            order.spent.ends("writing")
            show_recording(place, format, output, force, quiet, redact)
            if builtin:
                order.spent.ends("the report")
                order.say(order.spent.sentence())
        except BrokenPipeError:
            let_go()
        except MeasurementError as error:  # the recording is there
            if not (ended.code or finish):
                raise
            say(f"{error.message}; the script keeps its exit code {ended.code}")
    return ended.code


def _is_builtin(target: list[str], module: bool, command: bool, overrides: dict[str, Any]) -> bool:
    """Whether a built-in workload is to run; words and options that do not fit the kind of target are an error."""
    from loraprof.store.specs import workload_names

    if command and (module or not target):
        raise UsageError("-- is followed by a whole command", "loraprof profile -- python -m package.module [ARGS]")
    builtin = not module and not command and (not target or target[0] in workload_names())
    if not builtin and overrides:
        name = next(iter(overrides))
        raise UsageError(f"--{name} is for built-in workloads; {target[0] if target else ''} is a script", None)
    if builtin and len(target) > 1:
        raise UsageError(f"{target[0]} is a built-in workload and takes no arguments: {target[1]}", None)
    return builtin


def _refuse_places(place: Path | RemotePath, output: Path | None, force: bool, redact: bool) -> None:
    """Before anything runs: places that cannot take the recording or the report."""
    if place.suffix != ".loraprof":
        raise UsageError(f"{place}: a recording's name ends in .loraprof", None)
    if redact and isinstance(place, RemotePath):
        raise UsageError(f"{place}: --redact works on this machine", "record here, then export --redact to the URL")
    refuse_existing(place / RECORDING if isinstance(place, RemotePath) else place, force)
    if output is not None and output.suffix == ".loraprof":
        raise UsageError(f"{output}: --output takes the printed report", "--record PATH says where the recording goes")
    refuse_existing(output, force)


def _of_command(words: list[str], order: "Order") -> "tuple[Path | RemotePath, Ended]":
    """The first recording of all that the command's processes made; the others are named."""
    from loraprof.runs.profile.command import profile_command
    from loraprof.runs.profile.order import Ended

    code, recordings = profile_command(words, order)
    for further in recordings[1:]:
        order.say(f"wrote {further}")
    return recordings[0] if recordings else order.place, Ended(code, bool(recordings))


def _named(words: list[str] | None) -> list[str]:
    """What a command is called: its first Python file, else its program."""
    return [next((word for word in words or [] if word.endswith(".py")), (words or ["command"])[0])]


def _default_path(target: list[str] | None, module: bool) -> Path:
    name = target[0] if target else "default"
    stem = name.rsplit(".", 1)[-1] if module else Path(name).name.removesuffix(".py")
    from loraprof.capture.ranks.launch import launch

    now, own = datetime.datetime.now(), launch()
    if own.world > 1:  # a name all ranks agree on
        now = datetime.datetime.fromtimestamp(own.began_s)
    if not own.one_machine:
        raise UsageError("ranks on several machines need a common place", "--record PATH_OR_URL that all of them see")
    return Path(f"{stem}-{now:%Y%m%d-%H%M%S}.loraprof")
