"""``loraprof export PATH --to FORM -o DEST``: the same analysis for other tools. Never imports torch."""

from enum import StrEnum
from functools import partial
from typing import Annotated

from loraprof.cli.command import Argument, Option
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
    path: Annotated[str, Argument("A NAME.loraprof recording, a trace (.json, .json.gz), or their URL.")],
    to: Annotated[Form, Option("--to", help="What to write; recording and trace are the input itself.")],
    output: Annotated[str, Option("-o", "--output", help="The file (tensorboard, recording: folder), or a URL.")],
    address: Annotated[str | None, Option(help="Analyse ranks on Ray: a cluster's address, or `local`.")] = None,
    force: Annotated[bool, Option("--force", help="Overwrite what exists.")] = False,
    redact: Annotated[bool, Option("--redact", help="Numbers and public names, pseudonyms for the rest.")] = False,
    cache: Annotated[bool, Option("--cache/--no-cache", help="Take, and keep, an earlier analysis.")] = True,
    quiet: Annotated[bool, Option("--quiet", help="Only errors.")] = False,
) -> None:
    """Write the analysis for TensorBoard, Perfetto, a page or a program; or the input itself, to hand on."""
    with light():
        from msgspec.structs import replace

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
