"""How fast is a trace read and diagnosed, in what memory, and is that linear in its size?

    python benchmarks/parse.py [SEED.json.gz] [--events 216000 650000 1300000] [--large] [--keep DIR]

Each file repeats the events of SEED (a trace in the C++ exporter's layout; default: the recording of a built-in CPU
workload, made first) with later times and higher ids. ``read`` is file to columns; ``report`` is the whole command,
from the start of the interpreter to the last printed line. Each runs in a process of its own, three times; the best
time and the highest peak of resident memory (Linux, interpreter included) count. The exponent is the slope of
log(time) over log(events): 1 is linear. Last, ``--paired RECORDING`` (default: a reference recording from a GPU) is
repeated to the last of the sizes, and reported in turn with and without the step's records moved to where they end up
without the profiler: what that adds to the report's time and peak.
"""

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.traces import recorded, write  # noqa: E402

TRACE = "rank0.trace.json.gz"
SIZES = (216_000, 650_000, 1_300_000)
LARGE = (4_000_000, 13_000_000)

# ru_maxrss would include the parent's memory at the fork.
PEAK = """
def peak_kb():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""
READ = """
import json, sys, time
from loraprof.store.kineto.read import read_trace
start = time.perf_counter()
trace = read_trace(sys.argv[1])
print(json.dumps({"seconds": time.perf_counter() - start, "kb": peak_kb()}))
"""
REPORT = """
import json, os, sys
from loraprof.cli.app import run
code, saved = None, os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
code = run(["report", sys.argv[1], "--no-cache"])
sys.stdout.flush()
os.dup2(saved, 1)
assert code == 0, code
print(json.dumps({"kb": peak_kb()}))
"""


PAIRED = """
import os, sys
import loraprof.diagnosis.build as build
if sys.argv[2] == "without":
    build.moved_ledger = lambda *_: None
""" + REPORT.replace('"--no-cache"', '"--no-cache", "--format", "json"')
RECORDING = ROOT / "profiles" / "recordings" / "h100-sxm" / "llama-3.2-1b.loraprof"


@dataclass(frozen=True, slots=True)
class Cost:
    seconds: float
    peak_mb: float


def once(script: str, *words: str) -> Cost:
    """One run in a fresh process."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", PEAK + script, *words], check=True, capture_output=True)
    whole = time.perf_counter() - start
    said = json.loads(done.stdout)
    return Cost(said.get("seconds", whole), said["kb"] / 1024)


def best(costs: list[Cost]) -> Cost:
    """The best time and the highest peak."""
    return Cost(min(c.seconds for c in costs), max(c.peak_mb for c in costs))


def cost(script: str, path: Path, runs: int) -> Cost:
    """Of several runs."""
    return best([once(script, str(path)) for _ in range(runs)])


def paired(recording: Path, size: int, folder: Path, runs: int) -> None:
    """Prints what the moved step adds to the report of a recording of ``size`` events."""
    place = folder / "paired.loraprof"
    place.mkdir()
    (place / "recording.json").write_bytes((recording / "recording.json").read_bytes())
    events, _ = write(gzip.decompress((recording / TRACE).read_bytes()), size, place / TRACE)
    costs: dict[str, list[Cost]] = {"with": [], "without": []}
    for _ in range(runs):
        for how, found in costs.items():
            found.append(once(PAIRED, str(place), how))
    took, peak = ([getattr(best(costs[how]), f) for how in costs] for f in ("seconds", "peak_mb"))
    print(
        f"the step moved, {events:,} events: {took[0]:.2f} s against {took[1]:.2f} s, {took[0] / took[1] - 1:+.1%}; "
        f"peak {peak[0]:.0f} MB against {peak[1]:.0f} MB, {peak[0] / peak[1] - 1:+.1%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed and memory of reading and diagnosing a trace.")
    parser.add_argument("seed", type=Path, nargs="?")
    parser.add_argument("--events", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--large", action="store_true", help="add 4 and 13 million events (3 GB)")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--paired", type=Path, default=RECORDING, help="recording of a GPU")
    parser.add_argument("--keep", type=Path, help="folder that keeps the files made")
    options = parser.parse_args()
    counts: list[int] = []
    found: dict[str, list[float]] = {"read": [], "report": []}
    print("      events       MB    gz MB |  read s   MB/s   events/s  peak MB | report s   MB/s  peak MB")
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        seed = gzip.decompress((options.seed or recorded(folder)).read_bytes())
        for size in sorted({*options.events, *(LARGE if options.large else ())}):
            path = folder / f"parse-{size}.json.gz"
            events, size_bytes = write(seed, size, path)
            read, report = cost(READ, path, options.runs), cost(REPORT, path, options.runs)
            counts.append(events)
            found["read"].append(read.seconds)
            found["report"].append(report.seconds)
            mb = size_bytes / 1e6
            print(
                f"{events:12,} {mb:8.1f} {path.stat().st_size / 1e6:8.1f} | {read.seconds:7.2f}"
                f" {mb / read.seconds:6.0f} {events / read.seconds:10,.0f} {read.peak_mb:8.0f} |"
                f" {report.seconds:8.2f} {mb / report.seconds:6.0f} {report.peak_mb:8.0f}",
                flush=True,
            )
            if not options.keep:
                path.unlink()
        paired(options.paired, max(options.events), folder, options.runs)
    if len(set(counts)) > 1:
        for what, times in found.items():
            print(f"{what}: time grows as events^{np.polyfit(np.log(counts), np.log(times), 1)[0]:.2f}")


if __name__ == "__main__":
    main()
