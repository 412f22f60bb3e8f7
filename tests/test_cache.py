"""The cache of analyses: never seen in what is written, never believed when it is not what was kept, never large."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from provoke import made, synthetic
from recordings import trace_bytes, write_recording

from loraprof.cli.app import run
from loraprof.model.report import Report
from loraprof.report.export.job import Job
from loraprof.store import cache as module
from loraprof.store.cache import FOLDER, MAGIC, Cache, cache_folder, cache_of


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def analyses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows with every report and scene that is computed."""
    seen: list[str] = []

    def counted(what: str, make: Callable[[Job], object]) -> Callable[[Job], object]:
        return lambda job: (seen.append(what), make(job))[1]

    monkeypatch.setattr(Job, "_report", counted("report", Job._report))
    monkeypatch.setattr(Job, "_drawn", counted("drawn", Job._drawn))
    return seen


def report(path: Path, *words: str) -> bytes:
    out = path.parent / "out"
    assert run(["report", str(path), "-o", str(out), "--force", "--quiet", *words]) == 0
    return out.read_bytes()


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    (tmp_path / "trace.json").write_bytes(trace_bytes())
    return tmp_path / "trace.json"


def test_what_is_written_is_the_same_with_and_without(folder: Path, tmp_path: Path, analyses: list[str]) -> None:
    recording = str(made(synthetic("bandwidth-v1")))

    def written(form: str, *words: str) -> bytes:
        out = tmp_path / form
        assert run(["report", recording, "--format", form, "-o", str(out), "--force", *words]) == 0
        return out.read_bytes()

    first = {form: written(form, "--no-cache") for form in ("json", "html")}
    assert analyses == ["report", "report", "drawn"]
    assert not folder.exists()
    kept = {form: [written(form), written(form)] for form in ("json", "html")}
    assert analyses[3:] == ["report", "drawn"]
    assert all(found == [first[form]] * 2 for form, found in kept.items())
    assert run(["export", recording, "--to", "html", "-o", str(tmp_path / "x.html")]) == 0
    assert (tmp_path / "x.html").read_bytes() == first["html"]
    assert len(analyses) == 5


def test_what_is_kept_is_shown_without_an_analysis(folder: Path, trace: Path) -> None:
    report(trace)
    code = "import sys; from loraprof.cli.app import run; print(run(sys.argv[1:]), 'numpy' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    words = [sys.executable, "-c", code, "report", str(trace), "-o", str(trace.with_name("out")), "--force"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "0 False\n"


def test_many_ranks_and_traces_are_kept_too(tmp_path: Path, folder: Path, analyses: list[str], trace: Path) -> None:
    several = write_recording(tmp_path / "ranks.loraprof", ranks=2)
    for path in (several, trace):
        assert len({report(path, "--format", "json", word) for word in ("--no-cache", "--cache", "--cache")}) == 1
        assert report(path, "--as-profiled") == report(path, "--as-profiled", "--no-cache")
    assert len(analyses) == 2 * 3


def test_what_changed_is_analysed_anew(
    folder: Path, trace: Path, analyses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = report(trace)
    same = trace.stat()
    trace.write_bytes(trace.read_bytes().replace(b"aten::mm", b"aten::xx"))
    os.utime(trace, ns=(same.st_atime_ns, same.st_mtime_ns))  # as large, and as old
    assert report(trace, "--format", "json") != before
    assert len(analyses) == 2
    moved = trace.rename(trace.with_name("moved.json"))
    assert b"moved.json" in report(moved, "--format", "json")
    monkeypatch.setattr(module, "__version__", "0.0.0")
    report(moved)
    monkeypatch.setattr(module, "_own_files", lambda: [("analyse.py", 1, 2)])
    report(moved)
    assert len(analyses) == 5


def test_a_file_beside_the_ranks_is_named_in_a_note(tmp_path: Path, folder: Path) -> None:
    path = write_recording(tmp_path / "run.loraprof")
    report(path, "--format", "json")
    (path / "left.txt").write_text("")
    assert b"left.txt" in report(path, "--format", "json")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[: len(MAGIC)] + bytes(32) + content[len(MAGIC) + 32 :],
        lambda content: content[:100] + bytes([content[100] ^ 1]) + content[101:],
        lambda content: MAGIC + module._digest(b"\xc0") + b"\xc0",  # null, whole
        lambda content: MAGIC + module._digest(b"\x91" * 10**5) + b"\x91" * 10**5,  # deep
    ],
)
def test_what_is_damaged_is_not_there(
    damage: Callable[[bytes], bytes], folder: Path, trace: Path, analyses: list[str]
) -> None:
    first = report(trace)
    (entry,) = folder.iterdir()
    entry.write_bytes(damage(entry.read_bytes()))
    assert report(trace) == first
    assert len(analyses) == 2
    assert report(trace) == first  # and was replaced
    assert len(analyses) == 2


def test_a_report_whose_parts_do_not_add_up_is_not_there(folder: Path, trace: Path, analyses: list[str]) -> None:
    first = report(trace)
    (entry,) = folder.iterdir()
    whole = msgspec.msgpack.decode(entry.read_bytes()[len(MAGIC) + 32 :])
    whole["steps"][0]["wall_ns"] += 1
    payload = msgspec.msgpack.encode(whole)
    entry.write_bytes(MAGIC + module._digest(payload) + payload)
    assert report(trace) == first
    assert len(analyses) == 2


def test_what_others_may_write_is_not_believed(folder: Path, trace: Path, analyses: list[str]) -> None:
    report(trace)
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    report(trace)
    assert len(analyses) == 2


def test_a_folder_that_cannot_be_is_no_error(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, analyses: list[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(FOLDER, str(tmp_path / "file" / "cache"))
    assert report(trace) == report(trace)
    assert len(analyses) == 2


def test_what_was_used_longest_ago_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 400)
    folder = tmp_path / "cache"
    keys = [f"{i:064x}" for i in range(5)]
    caches = [Cache(folder, key, ()) for key in keys]
    for i, cache in enumerate(caches[:4]):
        cache.get("x", bytes, lambda: bytes(60))  # 60 and what stands before them
        (folder / "of-somebody-else").write_bytes(bytes(500))
        os.utime(folder / f"{keys[i]}.x", ns=(i, i))
        if i == 2:
            assert caches[0].get("x", bytes, lambda: b"new") == bytes(60)  # used: now the newest
    kept = ["of-somebody-else", *(f"{keys[i]}.x" for i in (0, 2, 3))]
    assert sorted(path.name for path in folder.iterdir()) == sorted(kept)
    caches[4].get("x", bytes, lambda: bytes(500))  # larger than all that may be kept
    assert len(list(folder.iterdir())) == 4


def test_an_input_that_changes_meanwhile_is_not_kept(folder: Path, trace: Path) -> None:
    cache = cache_of(trace)
    assert cache is not None

    def make() -> bytes:
        trace.write_bytes(b"{}")
        return b"x"

    cache.get("x", bytes, make)
    assert not folder.exists()


def test_a_redacted_export_leaves_nothing_behind(tmp_path: Path, folder: Path) -> None:
    path = write_recording(tmp_path / "run.loraprof")
    assert run(["export", str(path), "--to", "json", "--redact", "-o", str(tmp_path / "x.json")]) == 0
    assert not folder.exists()
    assert b"run.loraprof" not in (tmp_path / "x.json").read_bytes()
    report(path)  # and what is kept of the whole is not taken for the redacted one
    assert run(["export", str(path), "--to", "json", "--redact", "-o", str(tmp_path / "y.json")]) == 0
    assert (tmp_path / "x.json").read_bytes() == (tmp_path / "y.json").read_bytes()


@pytest.mark.parametrize(
    ("names", "place"),
    [
        ({FOLDER: "/kept"}, "/kept"),
        ({FOLDER: ""}, None),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/loraprof/analyses"),
        ({"XDG_CACHE_HOME": "here", "HOME": "/home/user"}, "/home/user/.cache/loraprof/analyses"),
        ({"HOME": "/home/user"}, "/home/user/.cache/loraprof/analyses"),
    ],
)
def test_where_it_is(names: dict[str, str], place: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (FOLDER, "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == (Path(place) if place else None)


def test_a_number_of_another_kind_comes_back_as_it_was(tmp_path: Path) -> None:
    """Evidence holds whole numbers, fractions and words in one field."""
    from sample_report import report as sample

    made = sample()
    values = [1, 1.0, "1", True, None, 0.1 + 0.2, 2**53 + 1]
    first = made.findings[0]
    many = [replace(first.evidence[0], value=value) for value in values if not isinstance(value, bool)]
    made = replace(made, findings=[replace(first, evidence=many)])
    cache = Cache(tmp_path / "cache", "k", ())
    cache.get("report", Report, lambda: made)
    found = cache.get("report", Report, sample)
    assert msgspec.json.encode(found) == msgspec.json.encode(made)
