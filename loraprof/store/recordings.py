"""Recordings on disk: ``NAME.loraprof/`` with ``recording.json``, one trace per rank, ``nvml.json``.

A recording is written beside its target under a temporary name and renamed when complete, so there is never half a
recording, whatever interrupts.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar

import msgspec

from loraprof.errors import InputError, MeasurementError, UsageError
from loraprof.model.recording import SCHEMA, Nvml, Recording

T = TypeVar("T")
RECORDING, NVML = "recording.json", "nvml.json"
_TRACE = re.compile(r"^rank(\d+)\.trace\.json(\.gz)?$")


@dataclass(frozen=True, slots=True)
class Source:
    """What a path given by the user is: a recording directory, or a foreign trace."""

    path: Path
    kind: Literal["recording", "trace"]
    recording: Recording | None
    traces: tuple[Path, ...]  # in rank order
    nvml: Nvml | None
    ranks: tuple[tuple[int, Recording | None], ...] = ()  # per trace: its rank and that rank's own recording


class _Schema(msgspec.Struct):
    schema: str = "none"


def load_source(path: str | os.PathLike[str]) -> Source:
    """Reads everything but the traces. Raises InputError, one line that names the file."""
    place = Path(path)
    if not place.exists():
        raise InputError(f"{place}: no such file or directory", "pass a NAME.loraprof recording or a trace")
    if not place.is_dir():
        return Source(place, "trace", None, (place,), None)
    text = _read(place / RECORDING, "not a recording: it has no recording.json")
    recording = _decode(text, Recording, place / RECORDING)
    found = sorted((int(m[1]), p) for p in place.iterdir() if (m := _TRACE.match(p.name)))
    if not found:
        raise InputError(f"{place}: the recording holds no trace (rank0.trace.json.gz)", "record it again")
    nvml = place / NVML
    sampled = _decode(nvml.read_bytes(), Nvml, nvml) if nvml.exists() else None
    ranks = tuple((rank, _of_rank(place, rank)) for rank, _ in found)
    return Source(place, "recording", recording, tuple(p for _, p in found), sampled, ranks)


def _of_rank(place: Path, rank: int) -> Recording | None:
    own = place / f"rank{rank}.json"
    return _decode(own.read_bytes(), Recording, own) if own.exists() else None


def _read(path: Path, missing: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path.parent}: {missing}", "pass a NAME.loraprof directory") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def _decode(text: bytes, kind: type[T], path: Path) -> T:
    try:
        if kind is Recording:
            schema = msgspec.json.decode(text, type=_Schema).schema
            if schema != SCHEMA:
                raise InputError(f"{path}: schema {schema!r} is not {SCHEMA!r}", "a newer loraprof may have written it")
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise InputError(f"{path}: {error}", "the file is damaged or was edited; record again") from None


class RecordingWriter:
    """Context manager around a temporary directory; ``commit`` renames it, leaving without it removes it.

    Raises UsageError when the target exists (without ``force``), MeasurementError when the disk is full.
    """

    def __init__(self, target: Path, force: bool = False) -> None:
        self.target, self.force = target, force
        if target.exists() and not force:
            raise UsageError(f"{target}: exists already", "--force overwrites it")
        self.folder = target.absolute().parent / f".{target.name}.tmp-{os.getpid()}"

    def __enter__(self) -> Self:
        with disk(self.target):
            self.folder.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if isinstance(error, OSError):
            _raise_disk(error, self.target)

    def trace(self, rank: int) -> Path:
        """Where rank ``rank``'s trace goes."""
        return self.folder / f"rank{rank}.trace.json.gz"

    def recording(self, recording: Recording, rank: int | None = None) -> None:
        """The recording, or that of one rank of several."""
        self._write(RECORDING if rank is None else f"rank{rank}.json", msgspec.json.encode(recording))

    def nvml(self, nvml: Nvml) -> None:
        self._write(NVML, msgspec.json.encode(nvml))

    def _write(self, name: str, content: bytes) -> None:
        with disk(self.target):
            (self.folder / name).write_bytes(content)

    def commit(self) -> Path:
        """Gives the recording its name."""
        return publish(self.folder, self.target, self.force)


def publish(folder: Path, target: Path, force: bool) -> Path:
    """Renames a complete folder to its target; what it replaces is removed last, and put back when that fails."""
    replaced = folder.with_name(f"{folder.name}.old")
    with disk(target):
        if force and target.exists():
            target.rename(replaced)
        try:
            folder.rename(target)
        except BaseException:
            if replaced.exists():
                replaced.rename(target)
            raise
    if replaced.is_dir():
        shutil.rmtree(replaced, ignore_errors=True)
    else:
        replaced.unlink(missing_ok=True)
    return target


@contextmanager
def disk(target: Path) -> Iterator[None]:
    """Around writing: an OSError becomes a MeasurementError that names ``target``."""
    try:
        yield
    except OSError as error:
        _raise_disk(error, target)


def _raise_disk(error: OSError, target: Path) -> None:
    reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
    raise MeasurementError(f"{target}: cannot be written, {reason}", "nothing was left behind") from None
