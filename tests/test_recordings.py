"""Recordings are written whole or not at all, and what is damaged is refused in one line with its file's name."""

import errno
import itertools
import os
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest
from recordings import NVML, recording, trace_bytes, write_recording

from loraprof.errors import InputError, LoraprofError, MeasurementError, UsageError
from loraprof.model.recording import SCHEMA
from loraprof.store.kineto.read import read_trace
from loraprof.store.recordings import RecordingWriter, load_source


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def refused(path: Path, why: str) -> LoraprofError:
    with pytest.raises(InputError, match=why) as caught:
        load_source(path)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value


def test_what_is_written_is_read(tmp_path: Path) -> None:
    place = write_recording(tmp_path / "a.loraprof", nvml=NVML)
    assert names(tmp_path) == ["a.loraprof"]
    assert names(place) == ["nvml.json", "rank0.trace.json", "recording.json"]
    source = load_source(place)
    assert (source.kind, source.path, source.recording, source.nvml) == ("recording", place, recording(), NVML)
    assert source.traces == (place / "rank0.trace.json",)
    assert len(read_trace(source.traces[0]).device) == 2


def test_without_nvml_there_is_none(tmp_path: Path) -> None:
    assert load_source(write_recording(tmp_path / "a.loraprof")).nvml is None


def test_ranks_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    place = write_recording(tmp_path / "a.loraprof", ranks=12)
    (place / "rank3.trace.json.gz.part").write_bytes(b"")
    (place / "notes.txt").write_bytes(b"")
    assert [p.name for p in load_source(place).traces] == [f"rank{i}.trace.json" for i in range(12)]


def test_a_file_is_a_foreign_trace(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(trace_bytes())
    source = load_source(path)
    assert (source.kind, source.recording, source.traces, source.nvml) == ("trace", None, (path,), None)


def test_an_existing_recording_is_kept_without_force(tmp_path: Path) -> None:
    place = write_recording(tmp_path / "a.loraprof")
    before = (place / "recording.json").read_bytes()
    with pytest.raises(UsageError, match=r"a\.loraprof: exists already"):
        RecordingWriter(place)
    assert (place / "recording.json").read_bytes() == before


@pytest.mark.parametrize("directory", [True, False])
def test_force_replaces_what_was_there(tmp_path: Path, directory: bool) -> None:
    place = tmp_path / "a.loraprof"
    if directory:
        write_recording(place, nvml=NVML)
    else:
        place.write_bytes(b"old")
    write_recording(place, force=True)
    assert names(place) == ["rank0.trace.json", "recording.json"]
    assert names(tmp_path) == ["a.loraprof"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, ValueError])
def test_nothing_is_left_of_an_interrupted_recording(tmp_path: Path, stop: type[BaseException]) -> None:
    old = write_recording(tmp_path / "old.loraprof", nvml=NVML)
    for target, force in ((tmp_path / "a.loraprof", False), (old, True)):
        with pytest.raises(stop):
            save(target, force, stop())
    assert names(tmp_path) == ["old.loraprof"]
    assert names(old) == ["nvml.json", "rank0.trace.json", "recording.json"]


def test_leaving_without_commit_writes_nothing(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "a.loraprof") as writer:
        writer.recording(recording())
    assert names(tmp_path) == []


def full(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("method", ["write_bytes", "mkdir", "rename"])
def test_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, method, full)
        with pytest.raises(MeasurementError, match=r"a\.loraprof: cannot be written, the disk is full"):
            save(tmp_path / "a.loraprof")
    assert names(tmp_path) == []


def save(target: Path, force: bool = False, stop: BaseException | None = None) -> None:
    with RecordingWriter(target, force) as writer:
        writer.recording(recording())
        if stop is not None:
            raise stop
        writer.commit()


def test_full_disk_while_the_trace_is_exported(tmp_path: Path) -> None:
    """The profiler writes the trace itself; its error passes through the with block."""
    with pytest.raises(MeasurementError, match="the disk is full"), RecordingWriter(tmp_path / "a.loraprof"):
        full()
    assert names(tmp_path) == []


@pytest.mark.parametrize("good", [0, 1])
def test_a_full_disk_keeps_the_old_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: int) -> None:
    place = write_recording(tmp_path / "a.loraprof")
    rename, calls = Path.rename, itertools.count()

    def failing(self: Path, target: Path) -> Path:
        return full() if next(calls) == good else rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing)
        with pytest.raises(MeasurementError, match="the disk is full"):
            write_recording(place, force=True, nvml=NVML)
    assert next(calls) > good
    assert names(place) == ["rank0.trace.json", "recording.json"]
    assert names(tmp_path) == ["a.loraprof"]


def test_missing_and_foreign_paths(tmp_path: Path) -> None:
    assert refused(tmp_path / "none", "no such file or directory").hint
    assert refused(tmp_path, "not a recording: it has no recording.json").hint


def test_a_recording_without_a_trace(tmp_path: Path) -> None:
    place = write_recording(tmp_path / "a.loraprof")
    (place / "rank0.trace.json").unlink()
    assert refused(place, "holds no trace").hint


@pytest.mark.parametrize("name", ["recording.json", "nvml.json"])
@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b'{"schema": 1}', b"\xff\xfe", b'{"schema": "x"'])
def test_damaged_files_of_a_recording(tmp_path: Path, name: str, damage: bytes) -> None:
    place = write_recording(tmp_path / "a.loraprof", nvml=NVML)
    (place / name).write_bytes(damage)
    with pytest.raises(InputError) as caught:
        load_source(place)
    assert caught.value.message.startswith(f"{place / name}: ")
    assert caught.value.hint


@pytest.mark.parametrize("schema", ["loraprof.recording/2", "loraprof.report/1", ""])
def test_other_schemas_are_refused_by_name(tmp_path: Path, schema: str) -> None:
    place = write_recording(tmp_path / "a.loraprof")
    document = msgspec.json.decode((place / "recording.json").read_bytes()) | {"schema": schema, "device": 3}
    (place / "recording.json").write_bytes(msgspec.json.encode(document))
    error = refused(place, f"schema '{schema}' is not '{SCHEMA}'")
    assert error.hint


def test_fields_added_by_a_later_minor_version_are_ignored(tmp_path: Path) -> None:
    place = write_recording(tmp_path / "a.loraprof")
    document = msgspec.json.decode((place / "recording.json").read_bytes()) | {"new": [1]}
    (place / "recording.json").write_bytes(msgspec.json.encode(document))
    assert load_source(place).recording == recording()


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    place = tmp_path / "a.loraprof"
    (place / "recording.json").mkdir(parents=True)
    refused(place, "recording.json")
