"""A file is there whole or not at all, nothing but files and recordings is ever replaced, and errors are one line."""

import errno
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from recordings import trace_bytes, write_recording

from loraprof.cli.app import run
from loraprof.errors import MeasurementError, UsageError
from loraprof.store.owners import owner
from loraprof.store.recordings import RecordingWriter
from loraprof.store.writing import check_target, disk, replacing, write


def special(folder: Path, kind: str) -> Path:
    """Something that is there and no file."""
    place = folder / "x"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(place))
    elif kind == "device":
        return Path("/dev/null")
    elif kind == "link to a device":
        place.symlink_to("/dev/null")
    else:
        place.mkdir()
        (place / "kept").touch()
    return place


SPECIAL = ["pipe", "socket", "device", "link to a device", "directory"]


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize("kind", SPECIAL)
def test_no_report_goes_there(kind: str, force: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.json").write_bytes(trace_bytes())
    place = special(tmp_path, kind)
    before = stat.S_IFMT(place.lstat().st_mode)
    for argv in (["report", "--format", "json"], ["export", "--to", "json"], ["export", "--to", "trace"]):
        assert run([*argv, str(tmp_path / "t.json"), "-o", str(place), *force]) == 2
        err = capfd.readouterr().err
        assert f"{place}: is a {'device' if 'device' in kind else kind}" in err
        assert len(err.splitlines()) <= 2
    assert stat.S_IFMT(place.lstat().st_mode) == before


def test_no_recording_replaces_a_folder_that_is_none(tmp_path: Path) -> None:
    home = tmp_path / "home.loraprof"
    (home / "work").mkdir(parents=True)
    with pytest.raises(UsageError, match="is a directory and no recording"):
        RecordingWriter(home, force=True)
    assert run(["profile", "tiny-llama-cpu", "--record", str(home), "--force"]) == 2
    assert (home / "work").is_dir()
    (home / "work").rmdir()
    check_target(home, force=True)  # an empty one is no loss
    check_target(write_recording(tmp_path / "a.loraprof"), force=True)


def test_a_temporary_name_is_nobody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.urandom", lambda _: b"\0")
    beside = tmp_path / f".a.tmp-{owner()}-00"
    (tmp_path / "victim").write_text("old")
    beside.symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError):
        write(tmp_path / "a", b"new")
    assert (tmp_path / "victim").read_text() == "old"


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("old")
    (tmp_path / "a").symlink_to(tmp_path / "victim")
    write(tmp_path / "a", b"new")
    assert (tmp_path / "victim").read_text() == "old"
    assert (tmp_path / "a").read_bytes() == b"new"
    assert not (tmp_path / "a").is_symlink()


def half_written(target: Path) -> None:
    with replacing(target) as out:
        out.write(b"half")
        raise KeyboardInterrupt


def test_what_was_there_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    write(tmp_path / "a", b"old")
    with pytest.raises(KeyboardInterrupt):
        half_written(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_full_disk_in_words(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="the disk is full"), disk(tmp_path / "a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("kind", ["full", "closed", "gone"])
@pytest.mark.parametrize("argv", [["report", "--format", "json"], ["report"], ["schema", "report"]])
def test_stdout_that_takes_nothing(argv: list[str], kind: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_bytes(trace_bytes())
    words = argv if argv[0] == "schema" else [*argv, str(tmp_path / "t.json")]
    end = {"full": ">/dev/full", "closed": ">&-", "gone": "| true"}[kind]
    line = f"{sys.executable} -m loraprof {' '.join(words)} {end}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if kind != "gone":
        assert done.returncode == 4
        assert "standard output" in done.stderr.splitlines()[0]
        assert len(done.stderr.splitlines()) <= 2


SCRIPT = """
import sys, torch
w = torch.nn.Linear(4, 4)
o = torch.optim.SGD(w.parameters(), 0.1)
for _ in range(40):
    w(torch.ones(2, 4)).sum().backward(); o.step(); o.zero_grad()
sys.exit(3)
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", [">/dev/full", ">&-", "| true"])
def test_the_recording_and_the_scripts_exit_code_are_kept(end: str, tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(SCRIPT)
    line = f"{sys.executable} -m loraprof profile --finish --record r.loraprof s.py {end}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode == 3
    assert run(["report", str(tmp_path / "r.loraprof"), "--format", "json", "-o", str(tmp_path / "out")]) == 0
