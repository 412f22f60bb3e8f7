"""Starts a process per arm and reads its answer; says what happened to one that died."""

import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from loraprof.lifeline import bound
from loraprof.runs.compare.job import Job, Outcome
from loraprof.runs.worker import ask, of_module
from loraprof.store.leftovers import scratch

ARM: Final = of_module("loraprof.runs.compare.arm_process")


def run_job(job: Job) -> Outcome:
    """Runs ``job`` in a process of its own.

    A process that the system killed counts as out of memory, one that crashed as refused, with its last line.
    """
    found, ended = ask(ARM, job, Outcome)
    if found is not None:
        return replace(found, reason=f"{found.reason}: {ended.said}") if found.failed else found
    if ended.code == -signal.SIGKILL:
        why = "killed by the system: out of memory"
        return Outcome(status="oom", reason=why, peak_bytes=ended.peak_bytes, exit_code=4)
    return Outcome(status="refused", reason=f"its process ended with code {ended.code}: {ended.said}", exit_code=4)


def profile_pass(words: list[str], place: Path, ranks: int = 1) -> str | None:
    """Records one arm through the command line; ``words`` are the options and the target. Returns what went wrong."""
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    front = [sys.executable, *several, "-m", "loraprof", "profile", "--record", str(place)]
    front += ["--quiet", "--format", "json"]
    with scratch() as folder:
        back = ["-o", str(folder / "report.json"), *words]
        line = bound([*front, *back])
        done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode == 0 and place.exists():
        return None
    return next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit code {done.returncode}")


def settings(overrides: Mapping[str, object]) -> list[str]:
    """The options of ``profile`` that give a workload these fields."""
    return [word for key, value in overrides.items() for word in ("--set", f"{key}={value}")]
