"""``loraprof report PATH``: the diagnosis of a recording or of any PyTorch profiler trace. Never imports torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loraprof.cli.light import light
from loraprof.errors import UsageError
from loraprof.report.output import Format, emit, refuse_existing, say

if TYPE_CHECKING:
    from loraprof.analysis.ranks.examine import Run
    from loraprof.store.recordings import Source


def report(
    path: Annotated[str, typer.Argument(help="A NAME.loraprof recording, a trace (.json, .json.gz), or their URL.")],
    format: Annotated[Format, typer.Option(help="How to write it.")] = Format.terminal,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write to this file.")] = None,
    address: Annotated[str | None, typer.Option(help="Analyse ranks on Ray: a cluster's address, or `local`.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only the report and errors.")] = False,
) -> None:
    """Analyse a recording or a foreign trace and print where the step's time went."""
    with light():
        from loraprof.diagnosis.load import report_of
        from loraprof.store.recordings import load_source

        refuse_existing(output, force)
        source = load_source(path)
        emit(report_of(source, ranks_run(source, address)), format, output, force)
    if output is not None:
        say(f"wrote {output}", quiet)


def ranks_run(source: "Source", address: str | None) -> "Run":
    """How many ranks are analysed: on Ray where an address is given, else in processes of this machine."""
    if address is None:
        from loraprof.analysis.ranks.examine import processes

        return processes
    if len(source.traces) < 2:
        raise UsageError(f"{source.path}: --address is for many ranks, this is one trace", "leave --address out")
    from loraprof.runs.ray_ranks import on_ray

    return on_ray(address)
