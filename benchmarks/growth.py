"""How does the time of a report grow with steps and with nested ops?

``python benchmarks/growth.py [--steps N] [--nested N]``

Writes traces of N / 2 and N, reports each in every format in a process of its own, and prints seconds of the processor,
which other programs on the machine lengthen little, their ratio, and seconds on the clock.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPORT = """
import sys
from loraprof.diagnosis.load import diagnose
from loraprof.report.registry import RENDERERS, render
report = diagnose(sys.argv[1])
for form in RENDERERS:
    render(report, form)
"""
Row = dict[str, Any]


def _event(cat: str, name: str, ts: int, dur: int, tid: int = 1, **args: int) -> Row:
    return {"ph": "X", "cat": cat, "name": name, "pid": 1, "tid": tid, "ts": ts, "dur": dur, "args": args}


def steps(count: int) -> Iterator[Row]:
    """Steps of one launch each."""
    for i in range(count):
        at = 100 * i + 10
        yield _event("user_annotation", f"ProfilerStep#{i}", at, 90)
        yield _event("cpu_op", "aten::mm", at + 5, 50)
        yield _event("cuda_runtime", "cudaLaunchKernel", at + 10, 5, correlation=i + 1)
        yield _event("kernel", "gemm", at + 20, 40, 7, correlation=i + 1, device=0, stream=7)


def nested(count: int) -> Iterator[Row]:
    """One op in another, all the way down."""
    yield _event("user_annotation", "ProfilerStep#0", 0, 4 * count + 10)
    for i in range(count):
        yield _event("cpu_op", f"aten::op{i % 7}", 1 + i, 2 * (2 * count - i))


def seconds(rows: Iterator[Row], folder: Path) -> tuple[float, float]:
    """Of the processor, and on the clock."""
    place = folder / "t.json"
    place.write_text(json.dumps(list(rows)))
    began, before = time.perf_counter(), _processor_s()
    subprocess.run([sys.executable, "-c", REPORT, str(place)], check=True)
    return _processor_s() - before, time.perf_counter() - began


def _processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--nested", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for make, most in ((steps, options.steps), (nested, options.nested)):
            (half, _), (whole, wall) = (seconds(make(count), Path(name)) for count in (most // 2, most))
            told = f"half as many {half:.1f} s, {whole / half:.2f} times; {wall:.1f} s on the clock"
            print(f"{most:,} {make.__name__}: {whole:.1f} s, {told}", flush=True)


if __name__ == "__main__":
    main()
