"""``loraprof watch``: runs a script to its end and says when its step time shifted, by how much, and with what."""

from pathlib import Path
from typing import Annotated

import typer

from loraprof.cli.posix import needs_posix
from loraprof.errors import UsageError
from loraprof.report.output import Format, clean_stdout, emit, refuse_existing, say


def watch(
    target: Annotated[list[str], typer.Argument(help="SCRIPT.py and its arguments.")],
    module: Annotated[bool, typer.Option("-m", help="The target is a module, as for python -m.")] = False,
    skip: Annotated[int, typer.Option(min=1, help="Steps that pass before the first step is recorded.")] = 30,
    record: Annotated[str | None, typer.Option(help="NAME.loraprof: of NAME-before and NAME-after.")] = None,
    recording: Annotated[bool, typer.Option("--recording/--no-recording", help="Record two steps.")] = True,
    format: Annotated[Format, typer.Option(help="How to write what was seen.")] = Format.terminal,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write it to this file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what exists.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only the result and errors.")] = False,
) -> int:
    """Watch a whole training for shifts of its step time."""
    needs_posix()
    if record is not None and not record.endswith(".loraprof"):
        raise UsageError(f"{record}: a recording's name ends in .loraprof", None)
    stem = record.removesuffix(".loraprof") if record else f"{Path(target[0]).name.removesuffix('.py')}-watch"
    before, after = (Path(f"{stem}-{which}.loraprof") for which in ("before", "after"))
    for path in (before, after) if recording else ():
        refuse_existing(path, force)
    refuse_existing(output, force)

    from loraprof.runs.watch.script import WatchOrder, watch_script

    order = WatchOrder(before.absolute(), after.absolute(), skip, recording, force, quiet)
    with clean_stdout(format is not Format.terminal and output is None):
        code, seen = watch_script(target, module, order)
    if seen is not None:
        emit(seen, format, output, force)
        if seen.before and seen.after:
            say(f"next: loraprof compare {seen.before} {seen.after}", quiet)
    return code
