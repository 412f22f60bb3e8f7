"""How does the time of a report grow with steps and with nested ops?

``python benchmarks/growth.py [--steps N] [--nested N]``

Writes traces of N / 2 and N, reports each in every format in a process of its own, and prints seconds and their ratio.
"""

import argparse
import json
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


def seconds(rows: Iterator[Row], folder: Path) -> float:
    place = folder / "t.json"
    place.write_text(json.dumps(list(rows)))
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", REPORT, str(place)], check=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--nested", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for make, most in ((steps, options.steps), (nested, options.nested)):
            half, whole = (seconds(make(count), Path(name)) for count in (most // 2, most))
            print(f"{most:,} {make.__name__}: {whole:.1f} s, half as many {half:.1f} s, {whole / half:.2f} times")


if __name__ == "__main__":
    main()
