"""How does a file reach the disk? Whole or not at all: under a temporary name of its own, then renamed.

``check_target`` belongs before the work whose result is to be written. Only plain files and recordings are ever
replaced: no device, pipe or socket, no folder that is something else, whatever ``--force`` says. Temporary names say
which process they are of (``leftovers``).
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from loraprof.errors import MeasurementError, UsageError
from loraprof.store.layout import RECORDING, rank_of_trace
from loraprof.store.leftovers import clear_leftovers
from loraprof.store.owners import owner
from loraprof.store.places import Place

_KINDS: Final = {
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFDIR: "directory",
    stat.S_IFREG: "file",
}


def check_target(target: Path, force: bool, option: str = "--force") -> None:
    """A file, or a recording where the name is one's, may be written here; what killed runs left there is gone then.

    Raises UsageError.
    """
    clear_leftovers(target.absolute().parent)
    kind = _kind(target)
    if kind == "directory" and (target.suffix != ".loraprof" or not _is_recording(target)):
        raise UsageError(f"{target}: is a directory and no recording", "name another place")
    if kind not in (None, "file", "directory"):
        raise UsageError(f"{target}: is a {kind}, not a file", "name another place")
    if kind is not None and not force:
        raise UsageError(f"{target}: exists already", f"{option} overwrites it")


def check_folder(target: Path) -> None:
    """The folder in which it will be written is there and may be written in. Raises UsageError, MeasurementError."""
    folder = target.absolute().parent
    if not folder.is_dir():
        raise UsageError(f"{target}: its folder does not exist", None)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise MeasurementError(f"{target}: cannot be written, its folder is read-only", None)


def _kind(target: Path) -> str | None:
    """What stands there, links followed; None for nothing. A link to nothing is a file."""
    try:
        return _KINDS.get(stat.S_IFMT(target.stat().st_mode), "file")
    except FileNotFoundError:
        return "file" if target.is_symlink() else None
    except OSError as error:
        raise UsageError(f"{target}: cannot be reached, {error.strerror or error}", None) from None


def _is_recording(folder: Path) -> bool:
    """One that is whole, or was to become one, or nothing at all."""
    names = [entry.name for entry in folder.iterdir()]
    return not names or RECORDING in names or any(rank_of_trace(name) is not None for name in names)


def temporary(target: Path) -> Path:
    """A name beside ``target`` that nobody can foresee."""
    return target.absolute().parent / f".{target.name[:120]}.tmp-{owner()}-{os.urandom(4).hex()}"


@contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """A new file that becomes ``target`` when the block ends well, and is gone otherwise.

    Raises OSError, UsageError.
    """
    check_target(target, force=True)
    beside = temporary(target)
    out = beside.open("xb")  # never one that is there, nor what a link leads to
    try:
        with out:
            yield out
        beside.replace(target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write(target: Path, content: bytes) -> None:
    """Raises OSError, UsageError."""
    with replacing(target) as out:
        out.write(content)


@contextmanager
def disk(target: Place | str) -> Iterator[None]:
    """Around writing: an OSError becomes a MeasurementError that names ``target``."""
    try:
        yield
    except OSError as error:
        raise not_written(error, target) from None


def not_written(error: OSError, target: Place | str) -> MeasurementError:
    """Why ``target`` could not be written."""
    full_at = error.filename if error.errno == errno.ENOSPC and os.path.isdir(error.filename or "") else None
    why = reason_of(error) + (f" at {full_at}" if full_at else "")
    return MeasurementError(f"{target}: cannot be written, {why}", "nothing was left behind")


def reason_of(error: OSError) -> str:
    """In words."""
    return "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
