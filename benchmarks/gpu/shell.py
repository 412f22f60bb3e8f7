"""Runs ``loraprof`` as a user would, in a process of its own."""

import subprocess
import sys
import time
from typing import Any

import msgspec


class CommandError(Exception):
    """``loraprof`` ended with a code that was not expected, or without a result; the message is its own."""


def loraprof(*words: str, expect: tuple[int, ...] = (0,)) -> str:
    """What it wrote to stdout. Raises CommandError."""
    command = [sys.executable, "-m", "loraprof", *words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    sys.stderr.write(done.stderr)
    if done.returncode not in expect or (done.returncode and not done.stdout):
        said = [line for line in done.stderr.splitlines() if line.strip()]
        reason = next((line for line in said if line.startswith("loraprof: ")), said[-1] if said else "it said nothing")
        raise CommandError(f"loraprof {words[0]} ended with code {done.returncode}: {reason}")
    return done.stdout


def json_of(*words: str, expect: tuple[int, ...] = (0,)) -> Any:
    """Its JSON."""
    return msgspec.json.decode(loraprof(*words, expect=expect))


def timed(*words: str) -> float:
    """Seconds it took, the start of Python included."""
    begin = time.perf_counter()
    loraprof(*words)
    return time.perf_counter() - begin
