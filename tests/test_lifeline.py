"""What loraprof starts ends with it, also where it is killed and can say nothing to anyone."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from loraprof.lifeline import bound

OUTLIVED = "outlived its parent"
# A worker that holds the pipe open as long as it lives, and says so if that is too long.
WORKER = f"""
import sys, time
pipe = open({{pipe!r}}, "w")
print("up", file=pipe, flush=True)
time.sleep(30)
print("{OUTLIVED}", file=pipe)
"""
STARTERS = {
    "a cell of a sweep": """
from loraprof.model.sweep import SweepCell
from loraprof.runs.executor import in_turn
list(in_turn(lambda job, answer: [sys.executable, worker], SweepCell, print)({"rank=4": b""}))
""",
    "an arm of a script": """
from loraprof.runs.compare.job import Job
from loraprof.runs.compare.workers import run_job
run_job(Job(arm="lora", target=[worker], steps=1))
""",
    "the profile pass of an arm": """
from loraprof.runs.compare.workers import profile_pass
profile_pass([worker], folder / "a.loraprof")
""",
}


@pytest.mark.parametrize(
    "starter", [pytest.param(name, marks=[pytest.mark.slow] if "arm" in name else []) for name in STARTERS]
)
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_worker_ends_with_what_started_it(how: signal.Signals, starter: str, tmp_path: Path) -> None:
    pipe, worker = tmp_path / "pipe", tmp_path / "worker.py"
    os.mkfifo(pipe)
    worker.write_text(WORKER.format(pipe=str(pipe)))
    begin = f"import sys\nfrom pathlib import Path\nworker, folder = {str(worker)!r}, Path({str(tmp_path)!r})\n"
    parent = subprocess.Popen([sys.executable, "-c", begin + STARTERS[starter]])
    with pipe.open() as alive:  # opens when the worker has
        assert alive.readline() == "up\n"
        parent.send_signal(how)
        assert parent.wait() == -how
        assert alive.read() == ""  # ends when nobody holds the pipe any more


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_profiled_command_hears_that_it_is_to_end(how: signal.Signals, tmp_path: Path) -> None:
    """As a launcher expects it, so that its workers end too."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    code = f"""
import signal, sys
pipe = open({str(pipe)!r}, "w")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("told", file=pipe)))
print("up", file=pipe, flush=True)
signal.pause()
"""
    words = ["-m", "loraprof", "profile", "--record", str(tmp_path / "r.loraprof"), "--", sys.executable, "-c", code]
    with subprocess.Popen([sys.executable, *words], stderr=subprocess.DEVNULL) as parent, pipe.open() as alive:
        assert alive.readline() == "up\n"
        parent.send_signal(how)
        assert alive.read() == "told\n"


def test_a_terminated_command_clears_its_folder(tmp_path: Path) -> None:
    code = """
import time
from tempfile import TemporaryDirectory
from loraprof.report.output import terminable
with terminable(), TemporaryDirectory() as name:
    print(name, flush=True)
    time.sleep(30)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        folder = Path(command.stdout.readline().strip())
        assert folder.is_dir()
        command.terminate()
        assert command.wait() == 128 + signal.SIGTERM
    assert not folder.exists()


def test_a_bound_command_is_the_command() -> None:
    code = "import os, sys; print(os.getpid(), sys.argv[1:]); sys.exit(7)"
    child = subprocess.Popen(bound([sys.executable, "-c", code, "a b", "-I"]), stdout=subprocess.PIPE, text=True)
    said, _ = child.communicate()
    assert said == f"{child.pid} ['a b', '-I']\n"
    assert child.returncode == 7


def test_a_parent_that_is_gone_already() -> None:
    command = bound([sys.executable, "-c", "print('started')"])
    command[command.index(str(os.getpid()))] = "1"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
