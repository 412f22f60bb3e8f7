"""What did the analysis of this very input give before? Kept in the user's cache folder, as good as empty at any time.

An entry is named by the digest of all that its value depends on: every byte of the input, its path as it was given (a
report names it), loraprof's own files and Python. It holds its own digest and is decoded by the types that it was
encoded from, so one that is damaged, or of another version, is not there. What was used longest ago goes first.
``LORAPROF_CACHE`` names another folder; empty, nothing is kept.
"""

import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from loraprof import __version__
from loraprof.errors import LoraprofError
from loraprof.store.directories import directory_of
from loraprof.store.places import Place, RemotePath, entries
from loraprof.store.profiles import profiles_dir
from loraprof.store.writing import write

T = TypeVar("T")

FOLDER: Final = "LORAPROF_CACHE"
MOST_BYTES: Final = 256 << 20  # of all entries
MAGIC: Final = b"loraprof.cache/1\n"
DIGEST_BYTES: Final = 32
OTHERS_WRITE: Final = 0o022
_ENTRY: Final = re.compile(rf"\.?[0-9a-f]{{{2 * DIGEST_BYTES}}}\.")  # and one that is being written
Stamp = tuple[str, int, int]  # a file's path, size and time of change, ns


class Cache(Struct, frozen=True):
    """What is kept of one input. ``stamps``: of its files when they were digested."""

    folder: Path
    key: str
    stamps: tuple[Stamp, ...]

    def holds(self, name: str) -> bool:
        return self._place(name).exists()

    def get(self, name: str, kind: type[T], make: Callable[[], T]) -> T:
        """What is kept under ``name``, or what ``make`` gives, kept from now on."""
        found = _read(self._place(name), kind)
        if found is not None:
            return found
        made = make()
        if stamps(Path(path) for path, _, _ in self.stamps) == self.stamps:  # nobody wrote meanwhile
            self._keep(name, made)
        return made

    def _place(self, name: str) -> Path:
        return self.folder / f"{self.key}.{name}"

    def _keep(self, name: str, made: object) -> None:
        """Where nothing can be written, nothing is kept."""
        with suppress(OSError, LoraprofError, OverflowError, ValueError):
            payload = msgspec.msgpack.encode(made)
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if len(payload) <= MOST_BYTES and _ours(self.folder):
                write(self._place(name), MAGIC + _digest(payload) + payload)
                _trim(self.folder)


def cache_of(place: Place) -> Cache | None:
    """None where nothing is kept: the input is not on this machine or cannot be read, or no folder is wanted."""
    if isinstance(place, RemotePath) or (folder := cache_folder()) is None:
        return None
    try:
        return _cache_of(place, folder)
    except (OSError, LoraprofError):
        return None


def cache_folder() -> Path | None:
    named = os.environ.get(FOLDER)
    if named is not None:
        return Path(named) if named else None
    usual = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or ""
    try:
        return (Path(usual) if os.path.isabs(usual) else Path.home() / ".cache") / "loraprof" / "analyses"
    except RuntimeError:  # no home
        return None


def stamps(files: Iterator[Path]) -> tuple[Stamp, ...]:
    """Raises OSError."""
    found = ((file, file.stat()) for file in files)
    return tuple((str(file), stat.st_size, stat.st_mtime_ns) for file, stat in found)


def _cache_of(place: Path, folder: Path) -> Cache:
    files = list(_files(place))
    before = stamps(iter(files))
    named = [entry.name for entry in sorted(entries(place))] if place.is_dir() else []
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in (__version__, sys.version, str(place), repr(_own_files()), repr(named)):
        digest.update(part.encode(errors="surrogatepass") + b"\0")
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "blake2b").digest())
    return Cache(folder, digest.hexdigest(), before)


def _files(place: Path) -> Iterator[Path]:
    """All that is read of an input. Raises InputError, OSError."""
    if not place.is_dir():
        yield place
        return
    found = directory_of(place)
    read = [found.recording, found.nvml, *(path for rank in found.ranks for path in (rank.trace, rank.own))]
    yield from (path for path in read if isinstance(path, Path))


def _own_files() -> list[Stamp]:
    """Of loraprof and its profiles: who edits them must not be told what they gave before."""
    package = Path(__file__).resolve().parents[1]
    files = (path for root in (package, profiles_dir()) for kind in ("py", "toml") for path in root.rglob(f"*.{kind}"))
    return sorted(stamps(files))


def _digest(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=DIGEST_BYTES).digest()


def _read(place: Path, kind: type[T]) -> T | None:
    """None for what is not there, or is not what was written."""
    try:
        if not _ours(place.parent):
            return None
        content = place.read_bytes()
        start = len(MAGIC) + DIGEST_BYTES
        payload = memoryview(content)[start:]
        if content[:start] != MAGIC + hashlib.blake2b(payload, digest_size=DIGEST_BYTES).digest():
            return None
        found = msgspec.msgpack.decode(payload, type=kind)
        os.utime(place)
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return found


def _ours(folder: Path) -> bool:
    """Nobody else can put anything there."""
    stat = folder.stat()
    return not hasattr(os, "getuid") or (stat.st_uid == os.getuid() and not stat.st_mode & OTHERS_WRITE)


def _trim(folder: Path) -> None:
    """What was used longest ago goes until the rest is within its bound. Raises OSError."""
    entries = (path for path in folder.iterdir() if _ENTRY.match(path.name))
    files = sorted(((path.stat(), path) for path in entries), key=lambda one: one[0].st_mtime_ns)
    excess = sum(stat.st_size for stat, _ in files) - MOST_BYTES
    for stat, path in files:
        if excess <= 0:
            return
        path.unlink(missing_ok=True)
        excess -= stat.st_size
