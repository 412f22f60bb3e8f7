"""The benchmarks' own stopwatch: memory and time of a child, its failure, its end when it takes too long."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.processes import run

ROOT = Path(__file__).resolve().parents[1]


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def test_memory_of_a_process_and_of_its_child() -> None:
    large = "x = b'1' * (300 << 20)"
    inner = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {large!r}])"
    small_mb, large_mb, inner_mb = peaks("pass", large, inner)
    assert small_mb < 300
    assert 300 < large_mb < 400
    assert inner_mb > 300
    assert run(python(large)).cpu_s > 0


def peaks(*codes: str) -> list[float]:
    """Measured from a process of its own: Linux counts what the parent holds, and this one holds all other tests'."""
    commands = [python(code) for code in codes]
    load = "import json; from benchmarks.processes import run"
    asking = f"{load}; print(json.dumps([run(c).peak_mb for c in {commands}]))"
    said = subprocess.run([sys.executable, "-c", asking], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    found: list[float] = json.loads(said)
    return found


def test_a_failure_carries_its_last_words() -> None:
    assert run(python("raise ValueError('no such trace')")).error == "ValueError: no such trace"
    assert run(python("raise SystemExit(3)")).error == "exit code 3"


def test_one_that_takes_too_long_is_ended() -> None:
    assert run(python("import time; time.sleep(60)"), limit_s=0.2).error == "took longer than 0.2 s"
