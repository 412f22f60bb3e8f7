"""``loraprof report PATH``: the diagnosis of a recording or of any PyTorch profiler trace. Never imports torch."""

import tempfile
import webbrowser
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec.structs import replace

from loraprof.cli.light import light, load_arrays
from loraprof.errors import UsageError
from loraprof.report.output import Format, emit, make_ready, refuse_existing, say
from loraprof.store.places import place_of

if TYPE_CHECKING:
    from loraprof.analysis.ranks.examine import Result
    from loraprof.report.export.job import Job
    from loraprof.store.directories import RankFile
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
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Take, and keep, an earlier analysis.")] = True,
    profiled: Annotated[bool, typer.Option("--as-profiled", help="Times of the step under the profiler.")] = False,
) -> None:
    """Analyse a recording or a foreign trace and print where the step's time went."""
    with light():
        from loraprof.report.views.as_it_runs import as_profiled

        refuse_existing(output, force)
        if profiled and format is Format.json:
            raise UsageError("the JSON holds the step with and without the profiler", "leave --as-profiled out")
        job = job_of(path, address, cache)
        if open:
            output = _page_to_open(place_of(path).name)
            format, force = Format.html, True
        make_ready(format)
        shown = as_profiled(job.report) if profiled else job.report
        emit(shown, format, output, force, job.drawn, full, section)
    if open and output is not None:
        webbrowser.open(output.as_uri())
    if output is not None:
        say(f"wrote {output}", quiet)


def _page_to_open(name: str) -> Path:
    """A file that outlives this process: the browser reads it later."""
    return Path(tempfile.mkdtemp(prefix="loraprof-page-")) / f"{name}.html"


def job_of(path: str, address: str | None, cached: bool) -> "Job":
    """The analysis of an input: what is kept of it, else ranks on Ray where an address is given, else in processes."""
    from loraprof.report.export.job import Job
    from loraprof.store.cache import cache_of

    job = Job(partial(_loaded, path), cache=cache_of(place_of(path)) if cached and address is None else None)
    if address is None:
        if job.cache is None or not job.cache.holds("report"):
            load_arrays()
        return replace(job, run=_processes)
    if len(job.source.traces) < 2:
        raise UsageError(f"{job.source.path}: --address is for many ranks, this is one trace", "leave --address out")
    from loraprof.runs.ray_ranks import ranks_on_ray

    return replace(job, run=ranks_on_ray(address))


def _loaded(path: str) -> "Source":
    from loraprof.store.recordings import load_source

    return load_source(path)


def _processes(files: "Sequence[RankFile]") -> "Iterable[Result]":
    from loraprof.analysis.ranks.examine import processes

    return processes(files)
