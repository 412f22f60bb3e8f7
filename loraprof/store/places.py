"""Where does an input lie: on this machine, or behind a URL (``s3://``, ``gs://``, ``memory://``) that fsspec opens?

A ``RemotePath`` offers the few methods of ``Path`` that reading needs, so the readers do not ask which they have.
fsspec and its drivers raise what they like: everything becomes an OSError here.
"""

import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, cast

from loraprof.errors import InputError
from loraprof.text import without_credentials

_URL: Final = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")
PRIVATE: Final = "memory"  # a file system that only this process sees


class Entry(NamedTuple):
    """One file of a directory."""

    name: str
    size_bytes: int


class RemotePath:
    """A file or directory behind a URL. Raises InputError without fsspec or its driver."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._fs, self._path = _file_system(self.url)

    def __str__(self) -> str:
        return without_credentials(self.url)

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(f"{self.url}/{name}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and self.url == other.url

    def __hash__(self) -> int:
        return hash(self.url)

    def __reduce__(self) -> tuple[type["RemotePath"], tuple[str]]:
        return RemotePath, (self.url,)

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix

    @property
    def parent(self) -> "RemotePath":
        return RemotePath(self.url.rsplit("/", 1)[0])

    @property
    def private(self) -> bool:
        """Whether no other process sees it."""
        return self.url.startswith(f"{PRIVATE}://")

    def open(self, mode: str = "rb") -> BinaryIO:
        with _errors():
            return cast(BinaryIO, self._fs.open(self._path, mode))

    def read_bytes(self) -> bytes:
        with self.open() as stream, _errors():
            return stream.read()

    def write_bytes(self, content: bytes) -> None:
        self._put(lambda: self._fs.pipe_file(self._path, content))

    def exists(self) -> bool:
        with _errors():
            return bool(self._fs.exists(self._path))

    def is_dir(self) -> bool:
        with _errors():
            return bool(self._fs.isdir(self._path))

    def upload(self, source: Path) -> None:
        """The local file ``source``, under this name."""
        self._put(lambda: self._fs.put_file(str(source), self._path))

    def _put(self, write: Callable[[], object]) -> None:
        with _errors():
            try:
                write()
            except FileNotFoundError:  # a file system, not an object store: folders must be there
                self._fs.makedirs(self._fs._parent(self._path), exist_ok=True)
                write()

    def remove(self) -> None:
        """This file, or this directory with all that is in it; nothing where it is not there."""
        with _errors():
            if self._fs.exists(self._path):
                self._fs.rm(self._path, recursive=True)

    def entries(self) -> list[Entry]:
        """The files of this directory, in no order."""
        with _errors():
            self._fs.invalidate_cache(self._path)
            found = self._fs.ls(self._path, detail=True)
        names = ((str(f["name"]).rstrip("/").rsplit("/", 1)[-1], f) for f in found)
        return [Entry(name, int(f.get("size") or 0)) for name, f in names if name != self.name or f["type"] == "file"]


Place = Path | RemotePath


def is_url(text: str | os.PathLike[str]) -> bool:
    return bool(_URL.match(os.fspath(text)))


def place_of(text: "str | os.PathLike[str] | RemotePath") -> Place:
    """What the user's word stands for."""
    if isinstance(text, RemotePath):
        return text
    word = os.fspath(text)
    return RemotePath(word) if is_url(word) else Path(word)


def entries(place: Place) -> list[Entry]:
    """The files of a directory, in no order; one pass, however many there are. A link to nothing is a file of 0 B."""
    if isinstance(place, RemotePath):
        return place.entries()
    with os.scandir(place) as found:
        return [Entry(e.name, size) for e in found if (size := _size(e)) is not None]


def _size(entry: "os.DirEntry[str]") -> int | None:
    """None for what is no file."""
    try:
        return entry.stat().st_size if entry.is_file() else None if entry.is_dir() or not entry.is_symlink() else 0
    except OSError:  # a link in a circle
        return 0


def _file_system(url: str) -> tuple[Any, str]:
    protocol, named = url.split("://", 1)[0], without_credentials(url)
    hint = "pip install 'loraprof[remote]', and the driver of this protocol (s3fs, gcsfs, …)"
    try:
        import fsspec
    except ImportError:
        raise InputError(f"{named}: {protocol}:// paths need fsspec, which is not installed", hint) from None
    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InputError(f"{named}: {error}", hint) from None
    except Exception as error:
        raise InputError(f"{named}: cannot be reached, {_words(error)}", "are its credentials set?") from None
    return system, path


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (OSError, io.UnsupportedOperation):
        raise
    except Exception as error:
        raise OSError(_words(error)) from error


def _words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
