"""``loraprof report`` on what it cannot read: exit code 5, one line that names the file, a hint, no traceback."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from recordings import NVML, trace_bytes, write_recording

from loraprof.cli.app import run

FOREIGN = {"name": "package", "version": "1.0.0"}
OTHER_EVENTS = {"traceEvents": [{"ph": "X", "cat": "blink", "name": "paint", "ts": 1, "dur": 2, "pid": 1, "tid": 1}]}

Make = Callable[[Path], Path]


def file(name: str, content: bytes) -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def damaged(name: str, content: bytes | None) -> Make:
    """A recording in which one file has other content, or none; named by that file."""

    def make(folder: Path) -> Path:
        place = write_recording(folder / "a.loraprof", nvml=NVML)
        if content is None:
            (place / name).unlink()
        else:
            (place / name).write_bytes(content)
        return place

    return make


def newer(folder: Path) -> Path:
    place = write_recording(folder / "a.loraprof")
    document = json.loads((place / "recording.json").read_bytes())
    (place / "recording.json").write_text(json.dumps(document | {"schema": "loraprof.recording/9"}))
    return place


def bomb(folder: Path) -> Path:
    """300 MB of blanks in 300 kB."""
    path = folder / "t.json.gz"
    path.write_bytes(gzip.compress(b"[") + 30 * gzip.compress(b" " * (10 << 20), 9))
    return path


TRACE = trace_bytes()
CASES: dict[str, tuple[Make, str]] = {
    "missing": (lambda folder: folder / "none.json", "no such file"),
    "empty": (file("t.json", b""), "empty"),
    "directory": (lambda folder: folder, "not a recording"),
    "truncated JSON": (file("t.json", TRACE[:-200]), "truncated"),
    "truncated gzip": (file("t.json.gz", gzip.compress(TRACE)[:-30]), "truncated"),
    "damaged gzip": (file("t.json.gz", gzip.compress(TRACE)[:40] + b"\0" * 400), "damaged"),
    "text": (file("t.json", b"step,ms\n1,2\n"), "not JSON"),
    "pickle": (file("t.json", b"\x80\x04\x95\x10"), "not JSON"),
    "other JSON": (file("t.json", json.dumps(FOREIGN).encode()), "without traceEvents"),
    "other events": (file("t.json", json.dumps(OTHER_EVENTS).encode()), "no profiler events"),
    "no events": (file("t.json", b'{"traceEvents": []}'), "no profiler events"),
    "unescaped quotes": (file("t.json", TRACE.replace(b"aten::mm", b'aten::"mm"', 1)), "invalid JSON"),
    "gzip bomb": (bomb, "inflates to more than"),
    "damaged recording.json": (damaged("recording.json", b'{"schema": "loraprof.recording/1", "created": 3}'), "json"),
    "cut recording.json": (damaged("recording.json", b'{"schema": "lorapr'), "json"),
    "no recording.json": (damaged("recording.json", None), "not a recording"),
    "damaged nvml.json": (damaged("nvml.json", b"[]"), "nvml.json"),
    "no trace": (damaged("rank0.trace.json", None), "no trace"),
    "cut trace": (damaged("rank0.trace.json", TRACE[: len(TRACE) // 2]), "rank0.trace.json: the JSON is truncated"),
    "newer schema": (newer, "recording.json: schema 'loraprof.recording/9'"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_a_hint_and_exit_code_5(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, why = CASES[case]
    path = make(tmp_path)
    assert run(["report", str(path)]) == 5
    out, err = capsys.readouterr()
    message, hint = err.splitlines()
    assert out == ""
    assert message.startswith(f"loraprof: {path}")
    assert why in message
    assert hint.startswith(" " * 10)
    assert len(hint.split()) > 2


@pytest.mark.parametrize("case", ["truncated gzip", "newer schema"])
def test_the_same_from_a_shell(case: str, tmp_path: Path) -> None:
    path = CASES[case][0](tmp_path)
    command = [sys.executable, "-m", "loraprof", "report", "--format", "json", "-o", str(tmp_path / "out"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (5, "")
    assert len(done.stderr.splitlines()) == 2
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_sound_input_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (file("t.json", TRACE)(tmp_path), write_recording(tmp_path / "a.loraprof", nvml=NVML)):
        assert run(["report", "--format", "json", str(path)]) == 0
        report = json.loads(capsys.readouterr().out)
        assert [step["wall_ns"] for step in report["steps"]] == [6000, 10_000]
        assert report["closure"]["notes"] is not None


def test_broken_events_are_notes_and_the_sums_stay_exact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(TRACE)
    first = document["traceEvents"][0]
    document["traceEvents"] += [
        first | {"ts": None},
        first | {"dur": -5},
        first | {"ts": 1e300},
        first | {"cat": "martian"},
        first,
        {"ph": "X", "cat": "kernel", "name": "k", "ts": 0, "dur": 0, "pid": 0, "tid": 7},
    ]
    path = file("t.json", json.dumps(document).encode())(tmp_path)
    assert run(["report", "--format", "json", str(path)]) == 0
    report = json.loads(capsys.readouterr().out)
    notes = " | ".join(report["closure"]["notes"])
    for part in ("no time", "end before they start", "not a number", "martian (1)", "exact copies", "no duration"):
        assert part in notes
    assert report["closure"]["zero_timestamps"] == 1
    assert not report["closure"]["ok"]
    assert len(report["steps"]) == 2
    for step in report["steps"]:
        assert sum(part["ns"] for part in step["partition"]) == step["wall_ns"]


def test_an_output_that_exists_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = file("t.json", TRACE)(tmp_path), tmp_path / "out.json"
    out.write_text("mine")
    arguments = ["report", "--format", "json", "-o", str(out), str(path)]
    assert run(arguments) == 2
    assert out.read_text() == "mine"
    assert f"{out}: exists already" in capsys.readouterr().err
    assert run([*arguments, "--force"]) == 0
    assert json.loads(out.read_bytes())["schema"] == "loraprof.report/1"


@pytest.mark.parametrize(
    ("line", "what", "where"),
    [
        ("export a.json --to pdf -o x", "'pdf' is not one of 'tensorboard', 'perfetto'", "loraprof export"),
        ("export a.json", "missing option '--to'", "loraprof export"),
        ("exprt", "no such command 'exprt'", "loraprof"),
        ("profile --nope", "no such option: --nope", "loraprof profile"),
        ("profile --rank many", "invalid value for '--rank'", "loraprof profile"),
        ("profile --format", "'--format' requires an argument", "loraprof"),
        ("report", "missing argument 'path'", "loraprof report"),
    ],
)
def test_a_usage_error_is_one_line_and_where_help_is(
    line: str, what: str, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(line.split()) == 2
    out, err = capsys.readouterr()
    message, hint = err.splitlines()
    assert out == ""
    assert message.startswith("loraprof: ")
    assert what in message
    assert "Value error" not in message
    assert hint.split("`")[1] == f"{where} --help"


def test_without_a_verb_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    said = "".join(capsys.readouterr())
    assert "Usage: loraprof" in said
    assert "loraprof: " not in said
