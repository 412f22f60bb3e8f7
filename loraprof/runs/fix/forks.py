"""The server of trials, seen from the command: started once, ended with it, asked for one trial at a time."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from loraprof.errors import MeasurementError
from loraprof.lifeline import bound
from loraprof.runs.fix.job import Command, Found, Order, Trial
from loraprof.runs.fix.server import Ended
from loraprof.store.leftovers import scratch

TAIL: Final = 2000  # characters of a run's output
GRACE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Forks:
    """``run`` gives what a trial found, or says how it ended instead."""

    server: Any
    folder: Path

    def run(self, command: Command, trial: Trial, limit_s: float) -> Found:
        answer, log = self.folder / "found", self.folder / "log"
        answer.unlink(missing_ok=True)
        order = Order(command=command, trial=trial, answer=str(answer), log=str(log), limit_s=limit_s)
        self.server.stdin.write(msgspec.json.encode(order) + b"\n")
        self.server.stdin.flush()
        line = self.server.stdout.readline()
        if not line:
            raise MeasurementError("the process that starts the runs ended", None)
        ended = msgspec.json.decode(line, type=Ended)
        output = log.read_text(encoding="utf-8", errors="replace")[-TAIL:].strip() if log.exists() else ""
        return _found_or_why(ended, answer, output, limit_s)


def _found_or_why(ended: Ended, answer: Path, output: str, limit_s: float) -> Found:
    last = output.splitlines()[-1] if output else "it printed nothing"
    if answer.exists() and not ended.late:
        found = msgspec.msgpack.decode(answer.read_bytes(), type=Found)
        return replace(found, reason=f"{found.reason}: {last}") if found.exit_code and output else found
    if ended.late:
        return Found(status="failed", reason=f"it did not end within {limit_s:.0f} s")
    if ended.signal == signal.SIGKILL:
        return Found(status="failed", reason="killed by the system: out of memory")
    how = f"signal {ended.signal}" if ended.signal else f"code {ended.code}"
    return Found(status="failed", reason=f"its process ended with {how}: {last}")


@contextmanager
def forks(packages: Sequence[str]) -> Iterator[Forks]:
    """``packages`` are imported before the first trial. Compiled code is kept for the runs that follow, then gone."""
    with scratch() as folder:
        own = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled"), "TRITON_CACHE_DIR": str(folder / "triton")}
        own["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # none is left behind
        line = bound([sys.executable, "-m", "loraprof.runs.fix.server", *packages])
        with (folder / "server.log").open("wb") as log:
            server = subprocess.Popen(
                line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env={**own, **os.environ}
            )
        try:
            yield Forks(server, folder)
        finally:
            server.terminate()
            try:
                server.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
            for pipe in (server.stdin, server.stdout):
                if pipe is not None:
                    pipe.close()
