"""Where a report goes: stdout or a file, never over an existing one without ``--force``."""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from loraprof import text
from loraprof.errors import MeasurementError, UsageError
from loraprof.report.registry import Format as Format
from loraprof.report.registry import render, renderer
from loraprof.store.writing import check_folder, check_target, disk, not_written, replacing

if TYPE_CHECKING:
    from loraprof.model.scene import Drawn
    from loraprof.report.shown import Shown
    from loraprof.store.places import Place


def refuse_existing(path: "Place | None", force: bool) -> None:
    """Raises UsageError before any work is done."""
    if path is None:
        return
    if isinstance(path, Path):
        check_target(path, force)
        check_folder(path)
        return
    try:
        exists = path.exists()
    except OSError as error:
        raise UsageError(f"{path}: cannot be reached, {error.strerror or error}", None) from None
    if exists and not force:
        raise UsageError(f"{path}: exists already", "--force overwrites it")


@contextmanager
def clean_stdout(wanted: bool) -> Iterator[None]:
    """A machine format is alone on stdout: what a script prints meanwhile goes to stderr, at descriptor level."""
    if not wanted or sys.stdout is None:
        yield
        return
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM inside ends the process as an exception does: workers end, temporary folders go. Exit code 143."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def same_folder() -> Iterator[None]:
    """A script may change its working directory; paths that the user gave mean the one they were given in."""
    folder = os.open(".", os.O_RDONLY)
    try:
        yield
    finally:
        os.fchdir(folder)
        os.close(folder)


def make_ready(form: Format) -> None:
    """Loads what writes ``form``, before there is anything to write: the page then follows the report at once."""
    renderer(form.value)
    if form is not Format.json:
        import_module("loraprof.report.views.proposals")
    if form is Format.terminal:
        import_module("rich.console")


def emit(
    result: "Shown",
    form: Format,
    output: Path | None,
    force: bool,
    drawn: "Callable[[], Drawn] | None" = None,
    full: bool = False,
    section: str | None = None,
) -> None:
    """Writes ``result`` in ``form`` to ``output`` or stdout. ``drawn``: what a page in a browser shows besides;
    ``full`` and ``section``: what a terminal shows.

    Raises UsageError for an existing file or a choice where there is none, MeasurementError where nothing can be
    written.
    """
    refuse_existing(output, force)
    if form is not Format.terminal and (full or section is not None):
        raise UsageError(f"--format {form.value} always holds everything", "leave --full and --section out")
    if form is Format.terminal and output is None:
        with standard_output():
            _terminal(result, full, section)
        return
    if form is Format.terminal:
        from loraprof.report.terminal.render import to_text

        content: Iterable[bytes] = (to_text(result, full=full, section=section),)
    elif form is Format.json:
        from loraprof.report.json import json_parts

        content = json_parts(result)
    elif form is Format.html:
        from loraprof.report.html import to_html

        content = (to_html(result, drawn()) if drawn else to_html(result),)
    else:
        content = (render(result, form.value),)
    if output is None:
        with standard_output() as out:
            for part in content:  # a stream in its place may look at each write
                out.buffer.write(part)
    else:
        with disk(output), replacing(output) as file:
            file.writelines(content)


@contextmanager
def standard_output() -> Iterator[TextIO]:
    """stdout, flushed at the end.

    Raises MeasurementError where it is closed or full, BrokenPipeError where its reader went away.
    """
    if sys.stdout is None:
        raise MeasurementError("standard output is closed", "-o FILE writes to a file")
    try:
        yield sys.stdout
        sys.stdout.flush()
    except BrokenPipeError:
        let_go()
        raise BrokenPipeError from None  # without its number: typer would end the process for that one, with 1
    except OSError as error:
        let_go()
        raise not_written(error, "standard output") from None


def let_go() -> None:
    """What stdout still holds is not tried once more at exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _terminal(result: "Shown", full: bool, section: str | None) -> None:
    from rich.console import Console

    from loraprof.report.terminal.render import render

    class Page(Console):
        def on_broken_pipe(self) -> None:
            """Not the end of the process: a script's exit code is to be kept."""
            raise BrokenPipeError

    render(result, Page(), full, section)


def show_recording(
    place: "Place", form: Format, output: Path | None, force: bool, quiet: bool, redact: bool = False
) -> None:
    """The report of what was just recorded, redacted first where that was asked for, and where that is."""
    if redact and isinstance(place, Path):
        from loraprof.store.recordings import load_source
        from loraprof.store.redaction.copy import write_redacted

        write_redacted(load_source(place), place, force=True)
    from loraprof.analysis.ranks.examine import processes
    from loraprof.report.export.job import Job
    from loraprof.store.cache import cache_of
    from loraprof.store.recordings import load_source

    make_ready(form)
    job = Job(partial(load_source, place), run=processes, cache=cache_of(place))
    emit(job.report, form, output, force, job.drawn)
    say(f"wrote {place}; next: loraprof export {place} --to perfetto -o trace.json", quiet)


def say(message: str, quiet: bool = False) -> None:
    """Progress and pointers, on stderr."""
    if not quiet:
        tell(f"loraprof: {text.message(message)}")


def tell(line: str) -> None:
    """Where stderr is closed or full, nobody is told."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)
