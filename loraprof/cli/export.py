"""``loraprof export PATH --to FORM -o DEST``: the same analysis for other tools. Never imports torch."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from loraprof.cli.light import light
from loraprof.cli.output import say


class Form(StrEnum):
    """``--to``."""

    tensorboard = "tensorboard"
    perfetto = "perfetto"
    json = "json"
    html = "html"
    markdown = "markdown"
    recording = "recording"
    trace = "trace"


def export(
    path: Annotated[Path, typer.Argument(help="A NAME.loraprof recording, or a trace (.json, .json.gz).")],
    to: Annotated[Form, typer.Option("--to", help="What to write; recording and trace are the input itself.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file; a folder for tensorboard and recording.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite what exists.")] = False,
    redact: Annotated[bool, typer.Option("--redact", help="Without paths, host and user names.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only errors.")] = False,
) -> None:
    """Write the analysis for TensorBoard, Perfetto, a page or a program; or the input itself, to hand on."""
    with light():
        from loraprof.report.export.job import Job
        from loraprof.report.export.registry import export as write
        from loraprof.store.recordings import load_source

        following = write(Job(load_source(path), output, force, redact), to.value)
    say(f"wrote {output}; next: {following}", quiet)
