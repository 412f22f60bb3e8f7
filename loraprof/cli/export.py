"""``loraprof export PATH --to FORM -o DEST``: the same analysis for other tools. Never imports torch."""

from enum import StrEnum
from functools import partial
from typing import Annotated

import typer
from msgspec.structs import replace

from loraprof.cli.light import light
from loraprof.report.output import say


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
    path: Annotated[str, typer.Argument(help="A NAME.loraprof recording, a trace (.json, .json.gz), or their URL.")],
    to: Annotated[Form, typer.Option("--to", help="What to write; recording and trace are the input itself.")],
    output: Annotated[str, typer.Option("-o", "--output", help="The file (tensorboard, recording: folder), or a URL.")],
    address: Annotated[str | None, typer.Option(help="Analyse ranks on Ray: a cluster's address, or `local`.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what exists.")] = False,
    redact: Annotated[
        bool, typer.Option("--redact", help="Numbers and public names, pseudonyms for the rest.")
    ] = False,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Take, and keep, an earlier analysis.")] = True,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only errors.")] = False,
) -> None:
    """Write the analysis for TensorBoard, Perfetto, a page or a program; or the input itself, to hand on."""
    with light():
        from loraprof.cli.report import job_of
        from loraprof.report.export.registry import export as write
        from loraprof.report.export.upload import export_to_url
        from loraprof.store.leftovers import scratch
        from loraprof.store.places import RemotePath, place_of

        target = place_of(output)
        job = replace(job_of(path, address, cache and not redact), force=force)
        with scratch() as folder:
            if redact:
                from loraprof.store.redaction.copy import redacted_copy

                job = replace(job, load=partial(redacted_copy, job.source, folder))
            if isinstance(target, RemotePath):
                following = export_to_url(job, target, to.value)
            else:
                following = write(replace(job, target=target), to.value)
    say(f"wrote {output}; next: {following}", quiet)
