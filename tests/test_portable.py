"""A system without fork and POSIX's modules: what was recorded elsewhere is read, compared and handed on there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from provoke import made, synthetic

# What Python's own library reaches for on the system that it runs on is left in place.
WITHOUT = """
import os, signal, subprocess, sys, warnings
for name in "fcntl grp pty pwd readline resource syslog termios tty".split():
    sys.modules[name] = None
gone = {
    os: "fork forkpty register_at_fork sched_getaffinity getuid geteuid getgid getegid getpgid setsid killpg sysconf"
    " fchdir statvfs mkfifo getloadavg nice pread wait3 wait4 waitid WNOHANG O_NOFOLLOW O_CLOEXEC O_DIRECTORY",
    signal: "SIGKILL SIGHUP SIGALRM SIGUSR1 SIGCHLD SIGPIPE setitimer alarm pthread_sigmask",
}
for module, names in gone.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
warnings.filterwarnings("error", category=EncodingWarning, module="loraprof")  # a locale's encoding is not UTF-8 there
import shlex
from loraprof.cli.app import run
codes = [run(shlex.split(line)) for line in sys.stdin.read().splitlines()]
sys.stdout.flush()
print("codes", codes, file=sys.stderr)
"""

READS = (
    "report given.loraprof --format json -o report.json",
    "report given.loraprof --format html -o report.html",
    "compare given.loraprof given.loraprof",
    "export given.loraprof --to perfetto -o tracks.json.gz",
    "export given.loraprof --to recording --redact -o open.loraprof",
    "report open.loraprof",
    "explain L2",
    "explain turnaround",
    "estimate llama-3-8b --gpu h100-sxm",
    "workloads",
    "schema report",
)
RUNS = ("profile", "profile train.py", "fix", "watch train.py", "sweep --over rank=4,8", "compare --arms full,lora")


@pytest.mark.parametrize(("lines", "code"), [(READS, 0), (RUNS, 4)], ids=["reading", "running"])
def test_reading_needs_no_posix_and_running_says_that_it_does(
    lines: tuple[str, ...], code: int, tmp_path: Path
) -> None:
    made(synthetic("bandwidth-v1")).rename(tmp_path / "given.loraprof")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", "-c", WITHOUT],
        input="\n".join(lines).encode(),
        capture_output=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    said = done.stderr.decode("cp1252").splitlines()
    assert done.returncode == 0, "\n".join(said[-5:])
    assert said[-1] == f"codes {[code] * len(lines)}", "\n".join(said[-20:])
    assert sum("needs a POSIX system" in line for line in said) == (len(lines) if code else 0)
