"""``loraprof profile -- COMMAND``: whatever trains below it is recorded, and what does not ends as it would."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import loraprof
from loraprof.cli.app import run
from loraprof.runs.profile import command
from loraprof.runs.profile.attach import places
from loraprof.runs.profile.hook.sitecustomize import JOB

SCRIPTS = Path(__file__).parent / "scripts"
TWICE = """
{python} {bare} --lr 1e-3 || exit 1
{python} -c 'import torch; print("no training")' || exit 1
{python} {bare} --lr 1e-2 || exit 1
exit 7
"""


def profiled(cwd: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "loraprof", "profile", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(line, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300, check=False)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.slow
def test_a_shell_script_that_trains_twice(tmp_path: Path) -> None:
    text = TWICE.format(python=sys.executable, bare=SCRIPTS / "bare.py")
    done = profiled(tmp_path, "--record", "x.loraprof", "--", "sh", "-c", text)
    assert done.returncode == 7, done.stderr
    assert done.stdout.count("steps 23 ") == 2  # stopped as a script is
    assert "no training" in done.stdout
    assert names(tmp_path) == ["x-2.loraprof", "x.loraprof"]
    assert "wrote x.loraprof" in done.stderr.splitlines()[-1]
    for name, rate in (("x", "1e-3"), ("x-2", "1e-2")):
        assert loraprof.load(tmp_path / f"{name}.loraprof").workload.argv[-1] == rate
        report = loraprof.diagnose(tmp_path / f"{name}.loraprof")
        assert report.adapter is not None
        assert (report.adapter.modules, len(report.steps)) == (2, 3)


@pytest.mark.slow
def test_a_launcher_gives_one_recording_of_all_ranks(tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2", str(SCRIPTS / "ddp.py"))
    words = ("--record", "x.loraprof", "--format", "json", "-o", "report.json", "--", sys.executable, *launcher)
    done = profiled(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert names(tmp_path) == ["report.json", "x.loraprof"]
    report = loraprof.diagnose(tmp_path / "x.loraprof")
    assert [row.rank for row in report.ranks or []] == [0, 1]
    assert done.stderr.count("a first recording") == 1  # the first rank speaks


@pytest.mark.slow
def test_accelerate_launches_a_trainer(tmp_path: Path) -> None:
    launcher = ("accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1", "--quiet")
    script = (str(SCRIPTS / "trainer.py"), str(tmp_path / "out"))
    words = ("--record", "x.loraprof", "--quiet", "--timed", "3", "--steps", "1", "--", sys.executable, "-m")
    done = profiled(tmp_path, *words, *launcher, *script, HF_HOME=str(tmp_path / "hf"))
    assert done.returncode == 0, done.stderr
    report = loraprof.diagnose(tmp_path / "x.loraprof")
    assert report.adapter is not None
    assert (report.adapter.modules, report.adapter.rank) == (4, 4)


@pytest.mark.slow
def test_too_few_steps_and_an_error_of_the_scripts_own(tmp_path: Path) -> None:
    bare = ("--", sys.executable, str(SCRIPTS / "bare.py"), "--lr", "1")
    done = profiled(tmp_path, *bare, STEPS="5")
    assert done.returncode == 4
    assert "after 5 optimizer steps; the recording needs 6" in done.stderr
    done = profiled(tmp_path, "--", sys.executable, str(SCRIPTS / "crash.py"))
    assert done.returncode == 1
    assert 'raise ValueError("boom")' in done.stderr
    assert "the command keeps its exit code 1" in done.stderr.splitlines()[-1]
    assert names(tmp_path) == []


@pytest.mark.parametrize("code", [0, 3])
def test_a_command_that_never_trains(code: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--quiet", "--record", str(tmp_path / "x.loraprof"), "--", "sh", "-c", f"echo hello; exit {code}"]
    assert run(["profile", *words]) == code
    said = capfd.readouterr()
    assert said.out == "hello\n"
    why = "nothing was recorded: no process of the command made an optimizer step"
    assert said.err == f"loraprof: {why}; the command keeps its exit code {code}\n"


def test_a_command_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = str(tmp_path / "x.loraprof")
    assert run(["profile", "--record", place, "--", "no-such-command"]) == 2
    assert capsys.readouterr().err == "loraprof: no-such-command: cannot be started, there is no such command\n"
    assert run(["profile", "-m", "--record", place, "--", "python", "x.py"]) == 2
    assert "loraprof profile -- python -m package.module" in capsys.readouterr().err


def test_a_killed_command_ends_as_a_shell_says_it(tmp_path: Path) -> None:
    assert run(["profile", "--record", str(tmp_path / "x.loraprof"), "--", "sh", "-c", "kill -9 $$"]) == 137


def test_what_the_hook_hides_still_runs(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('the one that was there')\n")
    path = os.pathsep.join([str(command.HOOK), str(tmp_path)])
    code = "import sys; print([type(f).__name__ for f in sys.meta_path[:1]], 'loraprof' in sys.modules)"
    for told, waits in (({JOB: "{}"}, True), ({}, False)):
        environment = {"PYTHONPATH": path, **told}
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        assert said.stdout.startswith("the one that was there\n")
        assert ("_WaitForTorch" in said.stdout) == waits
        assert said.stdout.endswith("False\n")


def test_who_asks_whether_torch_is_there_imports_nothing_yet(tmp_path: Path) -> None:
    """As transformers and trl do before they import it."""
    (tmp_path / "torch.py").write_text("class optim:\n    class Optimizer:\n        def __init__(self): ...\n")
    environment = {"PYTHONPATH": os.pathsep.join([str(command.HOOK), str(tmp_path)]), JOB: "{}"}
    waits = "hasattr(torch.optim.Optimizer.__init__, '__wrapped__'), [type(f).__name__ for f in sys.meta_path[:1]]"
    code = (
        f"import sys; from importlib.util import find_spec as f; f('torch'), f('torch'); import torch; print({waits})"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert said.stdout.startswith("True")
    assert "_WaitForTorch" not in said.stdout


def test_recordings_of_further_launches_are_numbered(tmp_path: Path) -> None:
    found = [str(place) for (place, _), _ in zip(places("a/x.loraprof", tmp_path), range(3), strict=False)]
    assert found == ["a/x.loraprof", "a/x-2.loraprof", "a/x-3.loraprof"]
