"""Names that strangers chose steer nothing: no escape codes, no runner commands, no mentions, no credentials."""

import json
import re
from pathlib import Path

import pytest
from kineto_events import event
from recordings import write_recording

from loraprof.cli.app import run
from loraprof.report.markdown import escape
from loraprof.store.places import RemotePath
from loraprof.text import LONGEST, message, printable, without_credentials

FORMATS = ["terminal", "json", "html", "markdown", "github"]
# A line that a runner obeys: "::name" where it begins (blanks aside), or "##[name" and "##vso[name" anywhere.
OBEYED = re.compile(rb"^\s*::(?!(error|warning|notice) title=)|##\[|##vso\[", re.M)
NAMES = [
    "::error file=x.py::pwned",
    "\n::set-output name=a::b",
    "##[error]pwned",
    "##vso[task.setvariable variable=a]b",
    "a" * 87 + "::error::pwned",
    "x " * 60 + "::warning::pwned",
    "\u2028::error::pwned",
    "\x1b]0;PWNED\x07\x1b[31mX",
    "\u202egnp.exe",
    "\u009b31mX",
]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_no_name_is_a_command(form: str, name: str, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    place = write_recording(tmp_path / "a.loraprof")
    document = json.loads((place / "recording.json").read_bytes())
    document["workload"]["name"] = name
    document["notes"] = [name, f"a {name}"]
    (place / "recording.json").write_text(json.dumps(document))
    trace = json.loads((place / "rank0.trace.json").read_bytes())
    for row in trace["traceEvents"]:
        if row.get("cat") == "kernel" or row["name"] == "aten::mm":
            row["name"] = f"{name} {row['name']}"
    (place / "rank0.trace.json").write_text(json.dumps(trace))
    assert run(["report", str(place), "--format", form]) == 0
    out = capfdbinary.readouterr().out
    assert not OBEYED.search(out)
    assert not [c for c in out.decode() if not c.isprintable() and c not in "\n\u200b"]


@pytest.mark.parametrize("name", NAMES)
def test_errors_are_printable(name: str, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    (tmp_path / "t.json").write_text(json.dumps([event(name)]))
    assert run(["report", str(tmp_path / "t.json")]) == 5
    assert run(["report", name + ".json"]) == 5
    assert run(["report", str(tmp_path), f"--{name}"]) == 2
    err = capfdbinary.readouterr().err
    assert not OBEYED.search(err)
    assert len(err.splitlines()) == 6
    assert not [c for c in err.decode() if not c.isprintable() and c != "\n"]


def test_a_long_name_is_cut_in_pages_and_whole_in_the_json(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    name = "k" * 100_000
    (tmp_path / "t.json").write_text(json.dumps([event("cpu_op", name, ts=1, dur=5)]))
    for form in FORMATS:
        assert run(["report", str(tmp_path / "t.json"), "--format", form]) == 0
        out = capfdbinary.readouterr().out
        assert (name.encode() in out) == (form == "json")
        assert ("k" * LONGEST).encode() not in out or form == "json"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("aten::mm", "aten::mm"),
        ("(anonymous namespace)::run", "(anonymous namespace)::run"),
        ("::error::x", ": :error::x"),
        ("a ::b ##[c", "a : :b # #[c"),
        ("a\tb\x00", "a b\ufffd"),
        ("x" * 3000, "x" * (LONGEST - 1) + "…"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://key:SECRET@bucket/x", "s3://***@bucket/x"),
        ("https://h/x?sig=SECRET&a=b cannot", "https://h/x?*** cannot"),
        ("no URL: a@b?c", "no URL: a@b?c"),
        ("memory://a/b", "memory://a/b"),
    ],
)
def test_credentials(text: str, shown: str) -> None:
    assert without_credentials(text) == message(text) == shown


def test_a_remote_place_names_itself_without_them(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("fsspec")
    assert str(RemotePath("memory://user:SECRET@a/b")) == "memory://***@a/b"
    for url in ("memory://user:SECRET@a/b?token=SECRET", "nothing://user:SECRET@a/b", "s3://user:SECRET@a/b"):
        assert run(["report", url]) == 5
        assert run(["export", url, "--to", "json", "-o", "x.json"]) == 5
    assert "SECRET" not in "".join(capfd.readouterr())


def test_markdown_mentions_nobody() -> None:
    assert "@octocat" not in escape("a @octocat b@c")
    assert escape("@octocat").startswith("\\@")


@pytest.mark.parametrize("command", ["::set-output name=a::b", "::error::x", "::stop-commands::x", "::add-mask::x"])
def test_a_command_cannot_arise_where_a_long_name_is_folded(command: str) -> None:
    assert "::" + command.split(":")[2] not in printable("a" * 79 + command)
    assert printable("at::native::error_of<c10::Half>") == "at::native::error_of<c10::Half>"
