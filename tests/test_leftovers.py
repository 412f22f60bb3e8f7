"""The next run removes what killed runs left, and nothing of a living process, another machine or another user."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from recordings import write_recording

from loraprof.store.leftovers import OLD_S, clear_leftovers, scratch
from loraprof.store.owners import is_gone, owner
from loraprof.store.recordings import load_source
from loraprof.store.writing import check_target, temporary, write


@pytest.fixture(scope="module")
def dead() -> str:
    """A process that is no more."""
    code = "from loraprof.store.owners import owner; print(owner())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def elsewhere(name: str) -> str:
    """The same process number of another machine."""
    return f"{int(name[:8], 16) ^ 1:08x}{name[8:]}"


def age(path: Path) -> None:
    for one in (*path.iterdir(), path) if path.is_dir() else (path,):
        os.utime(one, (time.time() - OLD_S - 60,) * 2)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_process_is_known_by_when_it_began(dead: str) -> None:
    machine, pid, start = owner().split("-")
    assert is_gone(owner()) is False
    assert is_gone(dead) is True
    assert is_gone(f"{machine}-{pid}-{int(start) + 1}") is True  # its number was given out anew
    assert is_gone(elsewhere(dead)) is None
    assert is_gone(f"{machine}-{pid}-0") is None  # a system that does not say when


def test_one_that_nobody_waited_for_is_gone() -> None:
    code = "from loraprof.store.owners import owner; print(owner(), flush=True)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        name = child.stdout.read().strip()  # ends with the process
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert is_gone(name) is True


@pytest.mark.parametrize("folder", [False, True])
def test_half_files_go_with_their_process(folder: bool, dead: str, tmp_path: Path) -> None:
    kept = [f".a.json.tmp-{owner()}-00", f".b.json.tmp-{elsewhere(dead)}-00", ".c.tmp-99-00", "tmp-x", ".profile"]
    gone = [f".d.json.tmp-{dead}-00", f".e.json.tmp-{elsewhere(dead)}-11", f"..tmp-1-2-3.tmp-{dead}-00"]
    for name in (*kept, *gone):
        (tmp_path / name).mkdir() if folder else (tmp_path / name).touch()
    age(tmp_path / gone[1])
    write(tmp_path / "x", b"")
    assert names(tmp_path) == sorted([*kept, "x"])


def test_what_was_being_replaced_comes_back(dead: str, tmp_path: Path) -> None:
    """Killed between the two renames, and after the second."""
    lost, kept = tmp_path / "lost.loraprof", write_recording(tmp_path / "kept.loraprof")
    write_recording(tmp_path / f".{lost.name}.tmp-{dead}-00.old")
    (tmp_path / f".{kept.name}.tmp-{dead}-00.old").mkdir()
    check_target(kept, force=True)
    assert names(tmp_path) == ["kept.loraprof", "lost.loraprof"]
    assert load_source(lost).recording == load_source(kept).recording


CLAIMS = {
    "all are gone": (["dead dead", "dead dead"], False, True),
    "one lives": (["dead dead", "own dead"], True, False),
    "their launcher lives and may start another": (["dead own"], False, False),
    "and started none for long": (["dead own"], True, True),
    "one is on another machine": (["dead dead", "far far"], False, False),
    "which was not heard of for long": (["dead dead", "far far"], True, True),
    "none has said so yet": ([], False, False),
    "nor for long": ([""], True, True),
}


@pytest.mark.parametrize("case", CLAIMS)
def test_the_folder_that_ranks_share(case: str, dead: str, tmp_path: Path) -> None:
    claims, old, gone = CLAIMS[case]
    folder = tmp_path / ".x.loraprof.tmp-ranks-0123456789ab"
    folder.mkdir()
    (folder / "rank0.trace.json.gz").touch()
    for rank, words in enumerate(claims):
        text = words.replace("dead", dead).replace("own", owner()).replace("far", elsewhere(dead))
        (folder / f"rank{rank}.claim").write_text(text)
    if old:
        age(folder)
    clear_leftovers(tmp_path)
    assert folder.exists() != gone


def test_temporary_folders(dead: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept = [
        f"loraprof-{owner()}-a",
        f"loraprof-{elsewhere(dead)}-a",
        "loraprof-page-abc",
        "loraprof-x",
        "loraprof-1-2-3-x",
    ]
    for name in (*kept, f"loraprof-{dead}-a"):
        (tmp_path / name / "inner").mkdir(parents=True)
    with scratch() as folder:
        (folder / "x").touch()
        assert is_gone(folder.name.removeprefix("loraprof-").rpartition("-")[0]) is False
        assert names(tmp_path) == sorted([*kept, folder.name])
    assert names(tmp_path) == sorted(kept)


def test_a_link_is_removed_not_followed(dead: str, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "kept").touch()
    (tmp_path / f".x.tmp-{dead}-00").symlink_to(tmp_path / "victim")
    clear_leftovers(tmp_path)
    assert names(tmp_path) == ["victim"]
    assert names(tmp_path / "victim") == ["kept"]


def test_of_another_user_nothing_is_touched(dead: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = temporary(tmp_path / "x").name.replace(owner(), dead)
    (tmp_path / left).touch()
    monkeypatch.setattr(os, "getuid", lambda: -1)
    clear_leftovers(tmp_path)
    assert names(tmp_path) == [left]
