"""The examples, run as they stand."""

import ast
import html
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from attached import attached_to_nothing
from msgspec.structs import replace

import loraprof
from loraprof.model.recording import Recording, Timing
from loraprof.report.page.svg import escape
from loraprof.report.shown import document_of

EXAMPLES = Path(__file__).parents[1] / "examples"
NEEDED = 6 + 1 + 10 + 3 + 3  # steps of a recording by default: a first one, then a better one


@contextmanager
def called(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> Iterator[None]:
    """A folder and a command line of the example's own."""
    with monkeypatch.context() as own, attached_to_nothing(own):
        own.chdir(folder)
        own.setattr(sys, "argv", list(arguments))
        yield


def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with called(monkeypatch, folder, name, "x.loraprof"):
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_all_examples_are_run_here() -> None:
    listed = {line.split("`")[1] for line in (EXAMPLES / "README.md").read_text().splitlines() if line[:3] == "| `"}
    files = (path for path in EXAMPLES.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    there = {str(path.relative_to(EXAMPLES)) for path in files} - {"README.md", "fields.md"}
    assert listed == there
    assert all(name in Path(__file__).read_text() for name in there)


def test_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("loop.py", tmp_path, monkeypatch)
    report, out = loraprof.diagnose(tmp_path / "x.loraprof"), capsys.readouterr().out
    assert report.adapter is not None
    assert (report.adapter.modules, report.adapter.rank) == (2, 8)
    assert report.verdict.sentence in out
    assert [line for line in out.splitlines() if re.match(r"[A-Z]\d+: ", line)] == [
        f"{finding.id}: {finding.title}; {finding.remedy}" for finding in report.findings
    ]


def test_the_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("hf_trainer.py", tmp_path, monkeypatch)
    out = capsys.readouterr().out
    assert f"stopped after {NEEDED} steps" in out
    assert loraprof.diagnose(tmp_path / "x.loraprof").verdict.sentence in out


def test_accumulation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("accumulate.py", tmp_path, monkeypatch)
    assert f"4 micro-batches, {4 * 8 * 64} tokens per step" in capsys.readouterr().out


@pytest.mark.slow
def test_the_notebook(tmp_path: Path) -> None:
    cells = json.loads((EXAMPLES / "notebook.ipynb").read_text())["cells"]
    assert all(cell["outputs"] == [] for cell in cells if cell["cell_type"] == "code")
    ran = _executed(tmp_path)
    found = loraprof.diagnose(tmp_path / "notebook.loraprof")
    shown, data = (cell["outputs"][-1]["data"] for cell in ran["cells"] if cell.get("outputs"))
    page = html.unescape(shown["text/html"].split('"', 2)[1])
    assert escape(document_of(found).headline) in page
    assert 'id="timeline"' in page
    assert "width:100%" in shown["text/html"]
    assert ast.literal_eval(data["text/plain"]) == {finding.id: finding.remedy for finding in found.findings}


def _executed(folder: Path) -> dict[str, Any]:
    """The notebook as a kernel of its own leaves it, in ``folder``."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    book = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    client = nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": str(folder)}})
    ran: dict[str, Any] = client.execute(env=os.environ | {"PYTHONPATH": str(EXAMPLES.parent)})
    return ran


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recording of the unmodified script."""
    place = tmp_path / "train.loraprof"
    with (
        called(monkeypatch, tmp_path, "train.py", "--steps", str(NEEDED)),
        loraprof.profile(place, name="train.py"),
    ):
        runpy.run_path(str(EXAMPLES / "train.py"), run_name="__main__")
    return place


def at(recording: Path, step_ns: int, target: Path) -> Path:
    """The same recording with steady steps of this length."""
    shutil.copytree(recording, target)
    found = msgspec.json.decode((target / "recording.json").read_bytes(), type=Recording)
    timing = Timing(samples_ns=[step_ns, step_ns + step_ns // 1000] * 20, dropped=0, clock="perf_counter_ns")
    (target / "recording.json").write_bytes(msgspec.json.encode(replace(found, timing=timing)))
    return target


def test_the_comparison(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base, new = at(trained, 10_000_000, tmp_path / "base.loraprof"), at(trained, 20_000_000, tmp_path / "new.loraprof")
    monkeypatch.setattr(sys, "argv", ["compare.py", str(base), str(new)])
    runpy.run_path(str(EXAMPLES / "compare.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert "base: 10.0 ms per step" in out
    assert "new takes 2.00 times base (2.00 to 2.00): slower" in out


def environment(folder: Path) -> dict[str, str]:
    """As on a runner: ``loraprof`` and ``pip`` are commands; the package is this clone, so pip has nothing to do."""
    for name, does in {"loraprof": f'exec "{sys.executable}" -m loraprof "$@"', "pip": "exit 0"}.items():
        (folder / name).write_text(f"#!/bin/sh\n{does}\n")
        (folder / name).chmod(0o755)
    paths = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(EXAMPLES.parent)}
    return {**os.environ, **paths, "OMP_NUM_THREADS": "1"}


QUICK = f"--timed 10 --steps 1 {EXAMPLES / 'train.py'} --lr 3e-4"
FAST_NS, SLOW_NS = 1_000, 10**12  # far faster, and far slower, than this machine can be


@pytest.mark.slow
def test_the_gate(trained: Path, tmp_path: Path) -> None:
    base = at(trained, FAST_NS, tmp_path / "base.loraprof")
    words = ["sh", str(EXAMPLES / "ci_gate.sh"), str(base), *QUICK.split()]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment(tmp_path))
    assert done.returncode == 3, done.stderr
    assert "::error" in done.stdout
    assert "::" in (tmp_path / "profile.txt").read_text()


def shell(script: str, folder: Path, **names: str) -> "subprocess.CompletedProcess[str]":
    """As runners do: the shell ends at the first command that fails."""
    env = {**environment(folder), **names}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=env)


@pytest.mark.slow
def test_the_action(trained: Path, tmp_path: Path) -> None:
    """Every step's own script, with what it takes from the inputs, by their names."""
    yaml = pytest.importorskip("yaml")
    action = yaml.safe_load((EXAMPLES / "github-action/action.yml").read_text())
    base = at(trained, FAST_NS, tmp_path / "base.loraprof")
    given = {"command": QUICK, "base": str(base)}
    inputs = {name: given.get(name, said.get("default")) for name, said in action["inputs"].items()}
    summary = tmp_path / "summary.md"
    done = []
    for step in action["runs"]["steps"]:
        names = {
            key: inputs[value.removeprefix("${{ inputs.").removesuffix(" }}")] for key, value in step["env"].items()
        }
        assert "${{" not in step["run"]  # what a pull request names is no part of a script
        done.append(shell(step["run"], tmp_path, GITHUB_STEP_SUMMARY=str(summary), **names))
    assert [one.returncode for one in done] == [0, 0, 3], done[-1].stderr
    assert done[1].stdout.startswith("::notice title=loraprof::")
    assert "::error title=loraprof%3A threshold missed::" in done[2].stdout
    assert "loraprof compare" in summary.read_text()
    assert (tmp_path / action["outputs"]["recording"]["value"]).is_dir()

    compare = action["runs"]["steps"][2]["run"]
    slow = at(trained, SLOW_NS, tmp_path / "slow.loraprof")
    names = {"GITHUB_STEP_SUMMARY": str(summary), "FAIL_ON": "slower>3%"}
    assert shell(compare, tmp_path, BASE=str(slow), **names).returncode == 0
    assert shell(compare, tmp_path, BASE="", **names).returncode == 0
    assert summary.read_text().count("## loraprof") == 3


@pytest.mark.slow
def test_the_gitlab_job(trained: Path, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load((EXAMPLES / "gitlab-ci.yml").read_text())["loraprof"]
    base = at(trained, FAST_NS, tmp_path / "base.loraprof")
    names = {**job["variables"], "COMMAND": QUICK, "BASE": str(base)}
    done = shell("\n".join(job["script"]), tmp_path, **names)
    assert done.returncode == 3, done.stderr
    assert all((tmp_path / place).exists() for place in job["artifacts"]["paths"])
    assert "--fail-on slower>3%: new is slower than base" in done.stderr
