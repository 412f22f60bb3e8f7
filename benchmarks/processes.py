"""What does a process cost? Time on the clock, process time and peak memory of one run, its own children included.

Bytecode goes to a folder of the benchmark's own, as an installed package has it: where the environment forbids Python
to write any, each start would compile loraprof anew. The kernel counts a child's peak from the fork on, that is from
the size of this process: keep it small (no numpy, no traces in memory) where the child is.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMPILED = Path(tempfile.gettempdir()) / f"loraprof-benchmarks-{os.getuid()}"


@dataclass(frozen=True, slots=True)
class Used:
    """One run. ``error`` is the last line it wrote to stderr where it failed."""

    wall_s: float
    cpu_s: float  # user and system
    peak_mb: float
    error: str | None = None


def environment(cache: str = "") -> dict[str, str]:
    """This process' environment, with loraprof on the path and compiled modules kept; analyses kept in ``cache``."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": path, "PYTHONPYCACHEPREFIX": str(COMPILED), "LORAPROF_CACHE": cache}


def run(command: Sequence[str], limit_s: float = 600.0, cache: str = "") -> Used:
    """Runs ``command`` to its end, its output thrown away; one that takes longer than ``limit_s`` is ended."""
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=environment(cache))
        try:
            late = _wait(child.pid, start + limit_s)
            if late:
                child.kill()
            _, status, used = os.wait4(child.pid, 0)
        except BaseException:
            child.kill()
            raise
        wall_s = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        words = errors.read().decode(errors="replace").strip().splitlines()
    error = words[-1] if words else f"exit code {child.returncode}"
    if late:
        error = f"took longer than {limit_s:g} s"
    peak_mb = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    return Used(wall_s, used.ru_utime + used.ru_stime, peak_mb, error if child.returncode else None)


def _wait(pid: int, deadline: float) -> bool:
    """Waits for the process without reaping it; True when the deadline passed first."""
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.perf_counter() > deadline:
            return True
        time.sleep(0.002)
    return False
