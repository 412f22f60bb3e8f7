"""Work that needs a process of its own: JSON in, JSON out, whatever becomes of the process.

``ask`` starts ``python -m MODULE JOB.json ANSWER.json`` and reads the answer; the module ends in ``answer``, which
reads the job, works, and lets the answer appear complete or not at all.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import msgspec

from loraprof.lifeline import bound
from loraprof.store.leftovers import scratch
from loraprof.store.writing import write

Job = TypeVar("Job", bound=msgspec.Struct)
Answer = TypeVar("Answer", bound=msgspec.Struct)
Command = Callable[[Path, Path], list[str]]  # of the job's file and the answer's
TAIL: Final = 2000  # bytes of a worker's output that are looked at


class Ended(NamedTuple):
    """``code``: negative, the signal. ``said``: the last line that the process printed."""

    code: int
    said: str
    peak_bytes: int


def of_module(name: str) -> Command:
    """The command line of a worker."""
    return lambda job, answer: [sys.executable, "-m", name, str(job), str(answer)]


def ask(command: Command, job: msgspec.Struct | bytes, kind: type[Answer]) -> tuple[Answer | None, Ended]:
    """Runs ``job`` in a process of its own, whose output is kept from the terminal; no answer where it died."""
    with scratch() as folder:
        question, place, log = (folder / part for part in ("job.json", "answer.json", "log"))
        question.write_bytes(job if isinstance(job, bytes) else msgspec.json.encode(job))
        with log.open("wb") as out:
            code, peak = _run(command(question, place), out.fileno())
        lines = log.read_bytes()[-TAIL:].decode(errors="replace").strip().splitlines()
        found = msgspec.json.decode(place.read_bytes(), type=kind) if place.exists() else None
    return found, Ended(code, lines[-1] if lines else "it printed nothing", peak)


def _run(command: list[str], log: int) -> tuple[int, int]:
    """Exit code and peak resident bytes."""
    process = subprocess.Popen(bound(command), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.kill()
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss * 1024


def answer(kind: type[Job], work: Callable[[Job], msgspec.Struct]) -> None:
    """The worker's side of ``ask``."""
    question, place = (Path(word) for word in sys.argv[1:3])
    write(place, msgspec.json.encode(work(msgspec.json.decode(question.read_bytes(), type=kind))))
