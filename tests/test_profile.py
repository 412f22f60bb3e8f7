"""``loraprof profile`` on unmodified scripts: steps, exit codes, nothing half-written, nothing left attached."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from warm import python

import loraprof

pytestmark = pytest.mark.slow
SCRIPTS = Path(__file__).parent / "scripts"


def run(cwd: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return python("-m", "loraprof", *args, cwd=cwd, **env)


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_bare_loop(tmp_path: Path) -> None:
    done = run(tmp_path, "profile", "--record", "x.loraprof", str(SCRIPTS / "bare.py"), "--lr", "1e-3")
    assert done.returncode == 0, done.stderr
    assert f"argv ['--lr', '1e-3'] __main__ {tmp_path}" in done.stdout
    assert "steps 23 " in done.stdout  # stopped cleanly after 6 for a first recording, 1 + 10 timed + 3 + 3
    assert files(tmp_path) == ["x.loraprof"]
    report = loraprof.diagnose(tmp_path / "x.loraprof")
    assert report.adapter is not None
    assert (report.adapter.modules, report.adapter.rank) == (2, 4)
    step = report.step()
    assert step is not None
    assert len(report.steps) == 3
    assert report.timing.unprofiled is not None
    assert report.timing.unprofiled.steps == 10
    assert "wrote x.loraprof" in done.stderr.splitlines()[-1]


def test_finish_lets_the_script_go_on_with_its_own_exit_code(tmp_path: Path) -> None:
    plain = python(str(SCRIPTS / "bare.py"), "--lr", "1e-3")
    done = run(
        tmp_path, "profile", "--finish", "--record", "x.loraprof", str(SCRIPTS / "bare.py"), "--lr", "1e-3", CODE="7"
    )
    assert done.returncode == 7, done.stderr
    loss = re.findall(r"steps 40 loss \S+", done.stdout)
    assert loss == re.findall(r"steps 40 loss \S+", plain.stdout)  # bit for bit what it computes without loraprof
    assert files(tmp_path) == ["x.loraprof"]


def test_accumulation_under_a_gradient_scaler(tmp_path: Path) -> None:
    done = run(tmp_path, "profile", "--format", "json", "--record", "x.loraprof", str(SCRIPTS / "scaler.py"))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    parts = [p for p in report["steps"][0]["partition"] if p["kind"] == "busy"]
    assert {p["role"] for p in parts} >= {"base.linear", "grad_clip", "optimizer", "loss"}
    forwards = [k for k in report["kernels"] if k["name"] == "aten::addmm" and k["phase"] == "forward"]
    assert sum(k["count"] for k in forwards) == 4  # two linears, two micro-batches
    assert report["adapter"] is None


def test_the_trainer(tmp_path: Path) -> None:
    done = run(tmp_path, "profile", "--record", "x.loraprof", str(SCRIPTS / "trainer.py"), str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr[-2000:]
    report = loraprof.diagnose(tmp_path / "x.loraprof")
    assert report.adapter is not None
    assert report.adapter.modules == 4
    assert report.timing.tokens_per_step == 4 * 2 * 32
    assert report.closure.attribution_disagreements == 0


@pytest.mark.parametrize(
    ("script", "code", "text"),
    [
        ("never.py", 4, "without an optimizer step"),
        ("crash.py", 1, 'raise ValueError("boom")'),
        ("missing.py", 2, "no such script or workload"),
    ],
)
def test_no_recording_says_why(tmp_path: Path, script: str, code: int, text: str) -> None:
    done = run(tmp_path, "profile", "--record", "x.loraprof", str(SCRIPTS / script))
    assert done.returncode == code
    assert text in done.stderr
    assert "loraprof/capture" not in done.stderr
    assert files(tmp_path) == []


def test_a_script_that_ends_too_early(tmp_path: Path) -> None:
    done = run(tmp_path, "profile", str(SCRIPTS / "bare.py"), "--lr", "1", STEPS="5")
    assert done.returncode == 4
    assert "after 5 optimizer steps; the recording needs 6" in done.stderr
    assert files(tmp_path) == []


def test_nothing_is_overwritten_and_options_have_owners(tmp_path: Path) -> None:
    (tmp_path / "x.loraprof").mkdir()
    done = run(tmp_path, "profile", "--record", "x.loraprof", str(SCRIPTS / "never.py"))
    assert done.returncode == 2
    assert "exists already" in done.stderr
    assert "no training here" not in done.stdout
    done = run(tmp_path, "profile", "--rank", "8", str(SCRIPTS / "never.py"))
    assert done.returncode == 2
    assert "--rank is for built-in workloads" in done.stderr


def test_interrupt_leaves_nothing(tmp_path: Path) -> None:
    folder, said = tmp_path / "here", tmp_path / "said.txt"
    folder.mkdir()
    command = [sys.executable, "-m", "loraprof", "profile", "--timed", "100000", str(SCRIPTS / "bare.py"), "--lr", "1"]
    with said.open("wb") as err:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, "STEPS": "10000000"}, stdout=subprocess.DEVNULL, stderr=err
        )
    while b"a step takes" not in said.read_bytes():  # it trains
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    assert files(folder) == []


def test_report_and_help_never_import_torch(tmp_path: Path) -> None:
    code = "import sys; from loraprof.cli.app import run; run({}); assert 'torch' not in sys.modules"
    from recorded import recorded

    for argv in (["report", "--format", "json", str(recorded("tiny-llama-cpu"))], ["--help"], ["workloads"]):
        done = subprocess.run([sys.executable, "-c", code.format(argv)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


ODD = ("--skip", "1", "--timed", "1", "--steps", "1", "--record", "x.loraprof")


@pytest.mark.parametrize("what", ["thread", "elsewhere", "stdout"])
def test_odd_scripts_are_recorded(tmp_path: Path, what: str) -> None:
    """Trained in a thread (only that thread can stop its profiler), in another folder, with a stdout of its own."""
    done = run(tmp_path, "profile", *ODD, str(SCRIPTS / "odd.py"), what)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert files(tmp_path) == ["x.loraprof"]
    assert "\nWhere the " in done.stdout
    if what == "thread":  # what the script waits for is not taken from it
        assert "the thread ended after 30 steps" in done.stdout
    report = loraprof.diagnose(tmp_path / "x.loraprof")
    assert report.closure.attribution_disagreements == 0
    assert {p.phase for p in report.steps[0].partition if p.kind == "busy"} >= {"forward", "backward", "optimizer"}


def test_interrupted_after_the_recording_was_complete(tmp_path: Path) -> None:
    done = run(tmp_path, "profile", "--finish", *ODD, str(SCRIPTS / "odd.py"), "interrupted")
    assert done.returncode == 130
    assert "loraprof: interrupted" in done.stderr
    assert files(tmp_path) == ["x.loraprof"]
    assert "\nWhere the " in done.stdout


@pytest.mark.parametrize("what", ["profiler", "profiler-waits"])
def test_a_script_with_a_profiler_of_its_own(tmp_path: Path, what: str) -> None:
    """Also one that waits for its schedule, in a script that swallows every exception."""
    done = run(tmp_path, "profile", *ODD, str(SCRIPTS / "odd.py"), what)
    assert done.returncode == 4
    assert "loraprof: the script runs a profiler of its own" in done.stderr
    assert "Traceback" not in done.stderr
    assert files(tmp_path) == []


def test_a_thread_that_ends_too_early(tmp_path: Path) -> None:
    done = run(tmp_path, "profile", "--timed", "1", "--skip", "1", str(SCRIPTS / "odd.py"), "short-thread")
    assert done.returncode == 4
    assert "after 3 optimizer steps" in done.stderr
    assert files(tmp_path) == []
