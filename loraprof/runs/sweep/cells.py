"""Runs the cells of a sweep and keeps what is finished: a folder that can be taken up again.

    FOLDER/sweep.json        what every cell shares; another sweep is not mixed in
    FOLDER/KEY.json          a finished cell, renamed into place when complete

A cell whose process dies each time counts as failed and no file is written, so that the next run tries again.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from loraprof.errors import UsageError
from loraprof.model.sweep import SweepCell
from loraprof.runs.executor import Execute, Lost
from loraprof.store.writing import disk, write

SETTINGS: Final = "sweep.json"


class CellJob(msgspec.Struct, frozen=True, kw_only=True):
    """``overrides`` are those of the whole sweep and the cell's own."""

    workload: str
    overrides: dict[str, Any]
    values: dict[str, str]
    budget_ns: int
    predict: bool = True


def open_folder(folder: Path, settings: Mapping[str, object], force: bool) -> None:
    """Creates ``folder`` or takes it up again. Raises UsageError when it holds another sweep, unless ``force``."""
    file, wanted = folder / SETTINGS, msgspec.json.format(msgspec.json.encode(settings), indent=2)
    if folder.exists() and not file.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder}: exists and holds no sweep", "name another with --out")
    if file.exists() and file.read_bytes() != wanted:
        if not force:
            raise UsageError(f"{folder}: holds a sweep with other settings", "--force discards it, --out names another")
        for cell in folder.glob("*.json"):
            cell.unlink()
    with disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write(file, wanted)


def finished(folder: Path, key: str) -> SweepCell | None:
    """A cell that an earlier run has finished; a damaged file counts as none."""
    try:
        return msgspec.json.decode((folder / f"{key}.json").read_bytes(), type=SweepCell)
    except (OSError, msgspec.DecodeError):
        return None


def keep(folder: Path, key: str, cell: SweepCell) -> None:
    """Writes a finished cell, all of it or nothing."""
    write(folder / f"{key}.json", msgspec.json.encode(cell))


def run_cells(
    jobs: Mapping[str, CellJob], folder: Path, execute: Execute[CellJob, SweepCell]
) -> Iterator[tuple[str, SweepCell]]:
    """Yields each cell of ``jobs`` when it is done, and keeps it."""
    for key, cell in execute(jobs):
        if isinstance(cell, Lost):
            yield key, SweepCell(values=jobs[key].values, status="failed", reason=cell.reason)
            continue
        keep(folder, key, cell)
        yield key, cell
