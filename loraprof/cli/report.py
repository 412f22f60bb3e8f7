"""``loraprof report PATH``: the diagnosis of a recording or of any PyTorch profiler trace. Never imports torch."""

import tempfile
import webbrowser
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loraprof.cli.light import light
from loraprof.errors import UsageError
from loraprof.report.output import Format, emit, refuse_existing, say, scenes_of_source

if TYPE_CHECKING:
    from loraprof.analysis.ranks.examine import Run
    from loraprof.store.recordings import Source


def report(
    path: Annotated[str, typer.Argument(help="A NAME.loraprof recording, a trace (.json, .json.gz), or their URL.")],
    format: Annotated[Format, typer.Option(help="How to write it.")] = Format.terminal,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write to this file.")] = None,
    address: Annotated[str | None, typer.Option(help="Analyse ranks on Ray: a cluster's address, or `local`.")] = None,
    open: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only the report and errors.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Every table, nothing cut.")] = False,
    section: Annotated[str | None, typer.Option(help="One section alone: kernels, idle, findings, …")] = None,
    profiled: Annotated[bool, typer.Option("--as-profiled", help="Times of the step under the profiler.")] = False,
) -> None:
    """Analyse a recording or a foreign trace and print where the step's time went."""
    with light():
        from loraprof.diagnosis.load import report_of
        from loraprof.report.views.as_it_runs import as_profiled
        from loraprof.store.recordings import load_source

        refuse_existing(output, force)
        if profiled and format is Format.json:
            raise UsageError("the JSON holds the step with and without the profiler", "leave --as-profiled out")
        source = load_source(path)
        run = ranks_run(source, address)
        if open:
            output = _page_to_open(source.path.name)
            format, force = Format.html, True
        found = report_of(source, run)
        shown = as_profiled(found) if profiled else found
        emit(shown, format, output, force, partial(scenes_of_source, source, run), full, section)
    if open and output is not None:
        webbrowser.open(output.as_uri())
    if output is not None:
        say(f"wrote {output}", quiet)


def _page_to_open(name: str) -> Path:
    """A file that outlives this process: the browser reads it later."""
    return Path(tempfile.mkdtemp(prefix="loraprof-page-")) / f"{name}.html"


def ranks_run(source: "Source", address: str | None) -> "Run":
    """How many ranks are analysed: on Ray where an address is given, else in processes of this machine."""
    if address is None:
        from loraprof.analysis.ranks.examine import processes

        return processes
    if len(source.traces) < 2:
        raise UsageError(f"{source.path}: --address is for many ranks, this is one trace", "leave --address out")
    from loraprof.runs.ray_ranks import on_ray

    return on_ray(address)
