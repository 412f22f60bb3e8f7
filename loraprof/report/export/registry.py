"""Where can an analysis go? One line per exporter, imported only when it is asked for."""

from collections.abc import Callable
from importlib import import_module
from typing import Final

from loraprof.errors import UsageError
from loraprof.report.export.job import Job
from loraprof.store.writing import check_folder, check_target

EXPORTERS: Final[dict[str, str]] = {
    "tensorboard": "loraprof.report.export.tensorboard:export",
    "perfetto": "loraprof.report.export.perfetto:export",
    "json": "loraprof.report.export.documents:export_json",
    "html": "loraprof.report.export.documents:export_html",
    "markdown": "loraprof.report.export.documents:export_markdown",
    "recording": "loraprof.report.export.copies:export_recording",
    "trace": "loraprof.report.export.copies:export_trace",
}
FOLDERS: Final = ("tensorboard", "recording")  # these write a directory, the others a file


def export(job: Job, to: str) -> str:
    """Writes ``job.target``; returns what to do next. Raises UsageError where that exists and is not to be replaced."""
    _check(job, to)
    module, name = EXPORTERS[to].split(":")
    run: Callable[[Job], str] = getattr(import_module(module), name)
    return run(job)


def _check(job: Job, to: str) -> None:
    if to not in EXPORTERS:
        raise UsageError(f"There is no export to {to!r}.", f"Choose one of {', '.join(EXPORTERS)}.")
    target, folder = job.target, to in FOLDERS
    if to == "recording" and target.suffix != ".loraprof":
        raise UsageError(f"{target}: a recording's name ends in .loraprof")
    if target.exists() and target.is_dir() != folder:
        raise UsageError(f"{target}: is a {'file' if folder else 'directory'}, --to {to} writes the other")
    if to == "tensorboard" and target.exists():
        if not job.force:
            raise UsageError(f"{target}: exists already", "--force replaces what loraprof wrote there")
    else:
        check_target(target, job.force)
    if not folder:
        check_folder(target)
