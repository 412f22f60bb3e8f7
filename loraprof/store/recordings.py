"""Recordings on disk: ``NAME.loraprof/`` with ``recording.json``, one trace per rank, ``nvml.json``.

A recording is written beside its target under a temporary name and renamed when complete, so there is never half a
recording, whatever interrupts.
"""

import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar

import msgspec
from msgspec import Struct

from loraprof import units
from loraprof.errors import InputError
from loraprof.model.fix import Fix
from loraprof.model.recording import SCHEMA, Nvml, Recording
from loraprof.store.brackets import TooDeep, check_depth
from loraprof.store.checks import check_nvml, check_recording
from loraprof.store.directories import Directory, RankFile, directory_of
from loraprof.store.layout import FIX, NVML, RECORDING, own_name, trace_name
from loraprof.store.places import Place, RemotePath, place_of
from loraprof.store.writing import check_target, disk, not_written, temporary

T = TypeVar("T")


class Source(Struct, frozen=True):
    """What a path given by the user is: a recording directory, foreign traces of several ranks, or one trace."""

    path: Place
    kind: Literal["recording", "trace"]
    recording: Recording | None
    traces: tuple[Place, ...]  # in rank order
    nvml: Nvml | None
    ranks: tuple[RankFile, ...] = ()  # per trace of a directory; their recordings are read when they are needed
    notes: tuple[str, ...] = ()  # what of a directory was not read, and what is not there


class _Schema(msgspec.Struct):
    schema: str = "none"


def load_source(path: str | os.PathLike[str] | RemotePath) -> Source:
    """Reads everything but the traces and the ranks' own recordings; ``path`` may be a URL.

    Raises InputError, one line that names the file.
    """
    place = place_of(path)
    try:
        if not place.exists():
            raise InputError(f"{place}: no such file or directory", "pass a NAME.loraprof recording or a trace")
        if not place.is_dir():
            return Source(place, "trace", None, (place,), None)
        found = directory_of(place)
    except OSError as error:
        raise InputError(f"{place}: cannot be read, {error.strerror or error}") from None
    recording, nvml = _described(found), found.nvml
    if not found.ranks or (found.foreign and place.suffix == ".loraprof"):
        raise InputError(f"{place}: {_nothing(found)}", "pass a NAME.loraprof directory; record again if it is one")
    sampled = _decode(read(nvml), Nvml, check_nvml, nvml) if nvml is not None else None
    kind: Literal["recording", "trace"] = "trace" if found.foreign else "recording"
    traces = tuple(file.trace for file in found.ranks)
    return Source(place, kind, recording, traces, sampled, found.ranks, tuple(_notes(found, recording)))


def fix_of(source: Source) -> Fix | None:
    """What ``loraprof fix`` measured of the recorded program; None where it did not. Raises InputError."""
    place = source.path / FIX
    if source.kind != "recording" or not place.exists():
        return None
    return _decode(read(place), Fix, _ratios, place)


def _ratios(found: Fix) -> str | None:
    measured = [*(t.measured for t in found.remedies), found.together.measured if found.together else None]
    sound = all(0 < m.low <= m.ratio <= m.high < math.inf for m in measured if m)
    return None if sound else "a measured ratio lies outside its interval, or is not above 0"


def _described(found: Directory) -> Recording | None:
    """``recording.json``, or what the lowest rank wrote where the leader never came to it."""
    path = found.recording or next((file.own for file in found.ranks if file.own is not None), None)
    return read_recording(path) if path is not None else None


def _nothing(found: Directory) -> str:
    if found.recording is not None:
        return "the recording holds no trace (rank0.trace.json.gz)"
    if found.ranks:
        return f"not a recording: it has no {RECORDING}"
    return f"not a recording: it has no {RECORDING}, and none of its {len(found.ignored):,} files is a trace"


def _notes(found: Directory, recording: Recording | None) -> Iterator[str]:
    if found.recording is None and not found.foreign:
        yield f"an unfinished recording: it has no {RECORDING}, whoever was to write it did not come to it"
    if recording is not None:
        here = {file.rank for file in found.ranks}
        missing = set(range(recording.environment.world_size)) - here - set(recording.missing_ranks)
        if missing:
            yield f"no trace here of {units.named('rank', missing)}"
    if (ignored := found.note()) is not None:
        yield ignored


def read_recording(path: Place) -> Recording:
    """A ``recording.json`` or one rank's own. Raises InputError."""
    text = read(path)
    schema = _decode(text, _Schema, lambda _: None, path).schema
    if schema != SCHEMA:
        raise InputError(f"{path}: schema {schema!r} is not {SCHEMA!r}", "a newer loraprof may have written it")
    return _decode(text, Recording, check_recording, path)


def read(path: Place) -> bytes:
    """Raises InputError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None


def _decode(text: bytes, kind: type[T], check: Callable[[T], str | None], path: Place) -> T:
    """The one way in: decoded within the ranges of its types, then checked against itself."""
    try:
        text.decode()
        check_depth(text)
        decoded = msgspec.json.decode(text, type=kind)
        problem = check(decoded)
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 at byte {error.start}"
    except (msgspec.DecodeError, ValueError, TooDeep) as error:
        problem = str(error)
    if problem is not None:
        raise InputError(f"{path}: {problem}", "the file is damaged or was edited; record again") from None
    return decoded


class RecordingWriter:
    """Context manager around a temporary directory; ``commit`` renames it, leaving without it removes it.

    Raises UsageError when the target exists (without ``force``), MeasurementError when the disk is full.
    """

    def __init__(self, target: Path, force: bool = False) -> None:
        self.target, self.force = target, force
        check_target(target, force)
        self.folder = temporary(target)

    def __enter__(self) -> Self:
        with disk(self.target):
            self.folder.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise not_written(error, self.target) from None

    def trace(self, rank: int) -> Path:
        """Where rank ``rank``'s trace goes."""
        return self.folder / trace_name(rank)

    def recording(self, recording: Recording, rank: int | None = None) -> None:
        """The recording, or that of one rank of several."""
        self._write(RECORDING if rank is None else own_name(rank), msgspec.json.encode(recording))

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
    check_target(target, force=True)
    replaced = folder.with_name(f"{temporary(target).name}.old")
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
