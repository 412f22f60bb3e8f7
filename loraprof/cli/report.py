"""``loraprof report PATH``: the diagnosis of a recording or of any PyTorch profiler trace. Never imports torch."""

from pathlib import Path
from typing import Annotated

import typer

from loraprof.cli.light import light
from loraprof.cli.output import Format, emit, refuse_existing, say


def report(
    path: Annotated[Path, typer.Argument(help="A NAME.loraprof recording, or a trace (.json, .json.gz).")],
    format: Annotated[Format, typer.Option(help="How to write it.")] = Format.terminal,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write to this file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only the report and errors.")] = False,
) -> None:
    """Analyse a recording or a foreign trace and print where the step's time went."""
    refuse_existing(output, force)
    with light():
        from loraprof.diagnosis.load import diagnose

        emit(diagnose(path), format, output, force)
    if output is not None:
        say(f"wrote {output}", quiet)
