"""A directory is listed once: what belongs to ranks is found, what does not is counted and named."""

from pathlib import Path

import pytest
from recordings import trace_bytes, write_recording

from loraprof.cli.app import run
from loraprof.errors import InputError
from loraprof.store import directories
from loraprof.store.directories import directory_of
from loraprof.store.recordings import load_source


def test_thousands_of_other_files_are_one_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = write_recording(tmp_path / "a.loraprof", ranks=2)
    for i in range(2_000):
        (place / f"core.{i:05}").touch()
    listings = []
    listed = directories.entries
    monkeypatch.setattr(directories, "entries", lambda path: listings.append(path) or listed(path))
    source = load_source(place)
    assert listings == [place]
    assert source.notes == ("ignored 2,000 files that belong to no rank: core.00000, core.00001, core.00002, …",)
    assert [file.rank for file in source.ranks] == [0, 1]


def test_the_note_reaches_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = write_recording(tmp_path / "a.loraprof")
    (place / "notes.txt").touch()
    assert run(["report", str(place), "--full"]) == 0
    assert "ignored 1 file that belongs to no rank: notes.txt" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("other", ["rank1.trace.json.gz", "rank01.trace.json"])
def test_two_traces_of_one_rank_are_refused(tmp_path: Path, other: str, capsys: pytest.CaptureFixture[str]) -> None:
    place = write_recording(tmp_path / "a.loraprof", ranks=2)
    (place / other).write_bytes(trace_bytes())
    assert run(["report", str(place)]) == 5
    message, hint = capsys.readouterr().err.splitlines()
    assert "rank 1 has two traces" in message
    assert other in message
    assert "take one of them away" in hint


def test_a_folder_without_traces_says_how_much_is_in_it(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.txt").touch()
    with pytest.raises(InputError, match=r"not a recording: it has no recording\.json, and none of its 3 files"):
        load_source(tmp_path)


@pytest.mark.parametrize(
    ("name", "rank"),
    [
        ("rank3.json", 3),
        ("rank_3.json.gz", 3),
        ("trace-rank-12.json", 12),
        ("host_1.169.pt.trace.json.gz", None),
        ("results.json", "no trace"),
        ("ranking.json", "no trace"),
    ],
)
def test_names_of_foreign_traces(tmp_path: Path, name: str, rank: object) -> None:
    (tmp_path / name).touch()
    found = directory_of(tmp_path)
    if rank == "no trace":
        assert (found.ranks, found.ignored) == ((), (name,))
    else:
        assert [(file.rank, file.trace.name) for file in found.ranks] == [(rank, name)]
        assert found.foreign


@pytest.mark.parametrize("goal", ["nowhere", "rank1.trace.json"])
def test_a_link_to_nothing_costs_one_rank_not_the_directory(tmp_path: Path, goal: str) -> None:
    place = write_recording(tmp_path / "a.loraprof", ranks=2)
    (place / "rank1.trace.json").unlink()
    (place / "rank1.trace.json").symlink_to(goal)
    (place / "rank2.trace.json").mkdir()
    found = directory_of(place)
    assert [(file.rank, file.size_bytes > 0) for file in found.ranks] == [(0, True), (1, False)]
