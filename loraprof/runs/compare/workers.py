"""Starts a process per arm and reads its answer; says what happened to one that died."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec
from msgspec.structs import replace

from loraprof.lifeline import bound
from loraprof.runs.compare.job import Job, Outcome

TAIL: Final = 2000  # characters of a dead worker's output


def run_job(job: Job) -> Outcome:
    """Runs ``job`` in a process of its own; its output is kept from the terminal.

    A process that the system killed counts as out of memory, one that crashed as refused, with its last line.
    """
    with TemporaryDirectory(prefix="loraprof-") as name:
        folder = Path(name)
        (folder / "job.json").write_bytes(msgspec.json.encode(job))
        answer = folder / "outcome.json"
        with (folder / "log").open("wb") as log:
            code, peak = _wait(command(folder / "job.json", answer), log.fileno())
        said = (folder / "log").read_text(encoding="utf-8", errors="replace")[-TAIL:].strip()
        last = said.splitlines()[-1] if said else "it printed nothing"
        if answer.exists():
            found = msgspec.json.decode(answer.read_bytes(), type=Outcome)
            return replace(found, reason=f"{found.reason}: {last}") if found.failed else found
    if code == -signal.SIGKILL:
        return Outcome(status="oom", reason="killed by the system: out of memory", peak_bytes=peak, exit_code=4)
    return Outcome(status="refused", reason=f"its process ended with code {code}: {last}", exit_code=4)


def command(job: Path, answer: Path) -> list[str]:
    """The command line of a worker."""
    return [sys.executable, "-m", "loraprof.runs.compare.arm_process", str(job), str(answer)]


def _wait(command: list[str], log: int) -> tuple[int, int]:
    """Exit code (negative: the signal) and peak resident bytes."""
    process = subprocess.Popen(bound(command), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.kill()
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss * 1024


def profile_pass(words: list[str], place: Path) -> str | None:
    """Records one arm through the command line; ``words`` are the options and the target. Returns what went wrong."""
    front = [sys.executable, "-m", "loraprof", "profile", "--record", str(place), "--quiet", "--format", "json"]
    with TemporaryDirectory(prefix="loraprof-") as name:
        back = ["-o", str(Path(name) / "report.json"), *words]
        line = bound([*front, *back])
        done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode == 0 and place.exists():
        return None
    return next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit code {done.returncode}")


def settings(overrides: Mapping[str, object]) -> list[str]:
    """The options of ``profile`` that give a workload these fields."""
    return [word for key, value in overrides.items() for word in ("--set", f"{key}={value}")]
