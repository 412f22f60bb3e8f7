"""What did killed runs leave behind? Temporary folders and half-written files, removed by the next run that meets them.

Their names say whose they are (``owners``). What a living process made is never touched; where that cannot be told,
as from another machine, what nobody touched for ``OLD_S`` goes.
"""

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from loraprof.store.layout import CLAIM
from loraprof.store.owners import PATTERN, is_gone, owner

OLD_S: Final = 600.0  # nobody who still writes leaves a folder alone for so long
_SCRATCH: Final = re.compile(rf"loraprof-({PATTERN})-.+")
_HALF: Final = re.compile(rf"\.(?P<target>.+)\.tmp-(?P<owner>{PATTERN})-[0-9a-f]+(?P<old>\.old)?", re.DOTALL)
_RANKS: Final = re.compile(r"\..+\.tmp-ranks-[0-9a-f]+", re.DOTALL)


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder that is gone afterwards."""
    folder = scratch_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def scratch_folder() -> Path:
    """A temporary folder of this process; those of killed ones go."""
    for entry in _entries(Path(tempfile.gettempdir())):
        found = _SCRATCH.fullmatch(entry.name)
        if found and _is_over(Path(entry), found[1]):
            _remove(Path(entry))
    return Path(tempfile.mkdtemp(prefix=f"loraprof-{owner()}-"))


def clear_leftovers(folder: Path) -> None:
    """Removes what killed runs left half written in ``folder``, and puts back what they were about to replace."""
    for entry in _entries(folder):
        path = Path(entry)
        if found := _HALF.fullmatch(entry.name):
            if not _is_over(path, found["owner"]):
                continue
            replaced = folder / found["target"]
            if found["old"] and not os.path.lexists(replaced):
                with suppress(OSError):
                    path.rename(replaced)
            else:
                _remove(path)
        elif _RANKS.fullmatch(entry.name) and _is_deserted(path):
            _remove(path)


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    """This user's temporary files and folders; none where they cannot be listed."""
    with suppress(OSError), os.scandir(folder) as found:
        names = [e for e in found if e.name.startswith((".", "loraprof-"))]
        if not hasattr(os, "getuid"):  # a temporary folder per user
            return names
        return [e for e in names if e.stat(follow_symlinks=False).st_uid == os.getuid()]
    return []


def _is_over(path: Path, maker: str) -> bool:
    gone = is_gone(maker)
    return _is_old(path) if gone is None else gone


def _is_deserted(folder: Path) -> bool:
    """No rank of the launch lives, nor its launcher, which may yet start one; or none touched it for long."""
    owners = [words for claim in folder.glob(f"*{CLAIM}") if (words := _words(claim))]
    gone = [is_gone(words[0]) for words in owners]
    if False in gone:
        return False
    known = bool(owners) and all(is_gone(word) is True for words in owners for word in words)
    return known or _is_old(folder)


def _words(claim: Path) -> list[str]:
    """A rank's process, and its launcher's."""
    try:
        return re.findall(PATTERN, claim.read_text(errors="replace"))
    except OSError:
        return []


def _is_old(path: Path) -> bool:
    try:
        inside = list(path.iterdir()) if path.is_dir() else []
        touched: float = max(p.lstat().st_mtime for p in (path, *inside))
        return time.time() - touched > OLD_S
    except OSError:  # it is being renamed, or removed
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
