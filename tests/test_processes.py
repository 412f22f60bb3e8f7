"""The benchmarks' own stopwatch: memory and time of a child, its failure, its end when it takes too long."""

import sys

from benchmarks.processes import run


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def test_memory_of_a_process_and_of_its_child() -> None:
    small, large = run(python("pass")), run(python("x = b'1' * (300 << 20)"))
    assert small.error is None
    assert small.peak_mb < 300
    assert 300 < large.peak_mb < 400
    inner = "import subprocess, sys; subprocess.run([sys.executable, '-c', \"b'1' * (300 << 20)\"])"
    assert run(python(inner)).peak_mb > 300
    assert large.cpu_s > 0


def test_a_failure_carries_its_last_words() -> None:
    assert run(python("raise ValueError('no such trace')")).error == "ValueError: no such trace"
    assert run(python("raise SystemExit(3)")).error == "exit code 3"


def test_one_that_takes_too_long_is_ended() -> None:
    assert run(python("import time; time.sleep(60)"), limit_s=0.2).error == "took longer than 0.2 s"
