"""Inputs and outputs behind URLs, in fsspec's memory file system; without fsspec one clear line."""

import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import msgspec
import pytest
from fakeray import FakeRay
from fleets import fleet
from recordings import write_recording

import loraprof
from loraprof.analysis.ranks.examine import processes
from loraprof.cli.app import run
from loraprof.errors import InputError, UsageError
from loraprof.report.registry import render
from loraprof.store.places import RemotePath, entries, is_url, place_of

BUCKET = "memory://bucket"


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    yield
    fsspec.filesystem("memory").store.clear()


def upload(folder: Path, url: str) -> str:
    for path in folder.iterdir():
        (place_of(url) / path.name).write_bytes(path.read_bytes())
    return url


@pytest.mark.parametrize(
    ("text", "url"), [("s3://b/x", True), ("memory://x", True), ("C:/x", False), ("/a//b", False), ("x.json", False)]
)
def test_what_is_a_url(text: str, url: bool) -> None:
    assert is_url(text) == url
    assert url or not isinstance(place_of(text), RemotePath)


def test_a_recording_behind_a_url_gives_the_same_report(monkeypatch: pytest.MonkeyPatch) -> None:
    place = fleet(3)
    url = upload(place, f"{BUCKET}/fleet.loraprof")
    there, here = loraprof.diagnose(url), loraprof.diagnose(place)
    assert there.source.path == url
    same = msgspec.structs.replace(there, source=here.source)
    assert render(same, "json") == render(here, "json")
    monkeypatch.setattr("loraprof.analysis.ranks.examine.WORTH_BYTES", 0)  # another process would see no memory://
    assert render(loraprof.diagnose(url, processes), "json") == render(there, "json")


def test_report_and_export_take_urls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = upload(fleet(2), f"{BUCKET}/in.loraprof")
    assert run(["report", url]) == 0
    assert "Rank 1 is the slowest of 2" in " ".join(capsys.readouterr().out.split())
    assert run(["export", url, "--to", "json", "-o", str(tmp_path / "x.json")]) == 0
    assert b'"rank_summary"' in (tmp_path / "x.json").read_bytes()
    assert run(["export", url, "--to", "recording", "-o", f"{BUCKET}/out.loraprof", "--redact"]) == 0
    assert f"next: loraprof report {BUCKET}/out.loraprof" in capsys.readouterr().err
    names = {entry.name for entry in entries(place_of(f"{BUCKET}/out.loraprof"))}
    assert names == {"recording.json", "rank0.json", "rank1.json", "rank0.trace.json.gz", "rank1.trace.json.gz"}
    assert loraprof.diagnose(f"{BUCKET}/out.loraprof").source.ranks == 2
    assert run(["export", url, "--to", "html", "-o", f"{BUCKET}/page.html"]) == 0
    assert (place_of(f"{BUCKET}/page.html")).read_bytes().startswith(b"<!doctype html>")
    capsys.readouterr()
    assert run(["export", url, "--to", "html", "-o", f"{BUCKET}/page.html"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_foreign_trace_behind_a_url() -> None:
    trace = write_recording(Path(fleet(1).parent) / "a.loraprof") / "rank0.trace.json"
    place_of(f"{BUCKET}/t.json").write_bytes(trace.read_bytes())
    assert loraprof.diagnose(f"{BUCKET}/t.json").source.kind == "trace"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (f"{BUCKET}/none.loraprof", "no such file or directory"),
        ("nonsense://x/y", "Protocol not known"),
        (f"{BUCKET}/empty", "no such file or directory"),
    ],
)
def test_one_line_for_what_is_not_there(url: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", url]) == 5
    message, hint = capsys.readouterr().err.splitlines()
    assert message.startswith(f"loraprof: {url}: ")
    assert why in message
    assert hint


def test_without_fsspec_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    assert run(["report", "s3://bucket/x.loraprof"]) == 5
    message, hint = capsys.readouterr().err.splitlines()
    assert message == "loraprof: s3://bucket/x.loraprof: s3:// paths need fsspec, which is not installed"
    assert "pip install 'loraprof[remote]'" in hint


def test_a_driver_that_fails_midway_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    url = upload(fleet(2), f"{BUCKET}/x.loraprof")

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("token\nexpired")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "ls", broken)
    with pytest.raises(InputError, match="cannot be read, RuntimeError: token expired"):
        loraprof.diagnose(url)


def test_address_without_ray_and_where_it_makes_no_sense(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = fleet(2)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run(["report", str(place), "--address", "local"]) == 4
    assert "pip install 'loraprof[ray]'" in capsys.readouterr().err
    assert run(["report", str(place / "rank0.trace.json"), "--address", "local"]) == 2
    assert "--address is for many ranks" in capsys.readouterr().err


def test_ranks_as_ray_tasks_give_the_same_report(monkeypatch: pytest.MonkeyPatch) -> None:
    from loraprof.runs.ray_ranks import ranks_on_ray

    place = fleet(3)
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.chdir(place.parent)
    assert render(loraprof.diagnose(place.name, ranks_on_ray("local")), "json") == render(
        loraprof.diagnose(place.name), "json"
    )
    assert (ray.started, ray.open) == (3, False)


def test_ranks_on_ray_itself() -> None:
    pytest.importorskip("ray", reason="pip install 'loraprof[ray]'")
    from loraprof.runs.ray_ranks import ranks_on_ray

    place = fleet(3)
    assert render(loraprof.diagnose(place, ranks_on_ray("local")), "json") == render(loraprof.diagnose(place), "json")


def test_a_ray_task_that_dies_leaves_its_rank_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from loraprof.runs.ray_ranks import ranks_on_ray

    monkeypatch.setitem(sys.modules, "ray", FakeRay(dies=2))
    report = loraprof.diagnose(fleet(3), ranks_on_ray("local"))
    assert [row.rank for row in report.ranks or []] == [0, 1]
    assert any("rank 2 left out" in note and "out of memory" in note for note in report.closure.notes)


def test_ray_workers_see_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from loraprof.runs.ray_ranks import ranks_on_ray

    monkeypatch.setitem(sys.modules, "ray", FakeRay())
    with pytest.raises(UsageError, match="no other process sees it"):
        loraprof.diagnose(upload(fleet(2), f"{BUCKET}/x.loraprof"), ranks_on_ray("local"))


def test_an_address_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ray", FakeRay())
    assert run(["report", str(fleet(2)), "--address", "127.0.0.1:1"]) == 4
    assert "Ray at 127.0.0.1:1:" in capsys.readouterr().err
