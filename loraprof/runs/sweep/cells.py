"""Runs the cells of a sweep, one process each, and keeps what is finished: a folder that can be taken up again.

    FOLDER/sweep.json        what every cell shares; another sweep is not mixed in
    FOLDER/KEY.json          a finished cell, renamed into place when complete

A process that dies is started again up to ATTEMPTS times; then its cell counts as failed and no file is written, so
that the next run tries again.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from loraprof.errors import UsageError
from loraprof.model.sweep import SweepCell
from loraprof.runs.worker import Command, ask
from loraprof.store.writing import disk, write

ATTEMPTS: Final = 3
SETTINGS: Final = "sweep.json"


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
    jobs: Mapping[str, tuple[dict[str, str], bytes]], folder: Path, command: Command, say: Callable[[str], None]
) -> Iterator[tuple[str, SweepCell]]:
    """Runs ``jobs`` (key to values and the job's JSON) one by one and yields each cell when it is done."""
    for key, (values, job) in jobs.items():
        for left in reversed(range(ATTEMPTS)):
            cell, ended = ask(command, job, SweepCell)
            if cell is not None:
                break
            died = f"signal {-ended.code}" if ended.code < 0 else ended.said
            if left:
                say(f"the process of {key} died ({died}); running it again")
        if cell is None:
            yield key, SweepCell(values=values, status="failed", reason=f"its process died {ATTEMPTS} times: {died}")
            continue
        keep(folder, key, cell)
        yield key, cell
