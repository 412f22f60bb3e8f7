"""An export behind a URL: made in a temporary folder, then sent; what makes a recording one goes last."""

from pathlib import Path

from msgspec.structs import replace

from loraprof.errors import UsageError
from loraprof.report.export.job import Job
from loraprof.report.export.registry import export
from loraprof.store.layout import RECORDING
from loraprof.store.leftovers import scratch
from loraprof.store.places import RemotePath
from loraprof.store.writing import disk


def export_to_url(job: Job, target: RemotePath, to: str) -> str:
    """Returns what to do next; where ``job`` itself would write does not matter.

    Raises UsageError where ``target`` exists, MeasurementError when it is not written.
    """
    with disk(target):
        if target.exists() and not job.force:
            raise UsageError(f"{target}: exists already", "--force overwrites it")
        with scratch() as folder:
            local = folder / target.name
            following = export(replace(job, target=local), to)
            _send(local, target)
    return following.replace(str(local), str(target))


def _send(local: Path, target: RemotePath) -> None:
    if local.is_file():
        target.upload(local)
        return
    (target / RECORDING).remove()
    for path in sorted(local.rglob("*"), key=lambda path: (path.name == RECORDING, str(path))):
        if path.is_file():
            (target / str(path.relative_to(local))).upload(path)
