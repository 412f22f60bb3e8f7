"""What does each rank of a recording cost the report, in time and memory, and is that the same for 16 as for 1,024?

    python benchmarks/ranks.py [--ranks 16 128 1024] [--keep DIR]

Every rank is a simulated GPU step with LoRA and all-reduces (tests/synthetic), one of them late, each machine of eight
ranks on a clock of its own. ``report`` runs in a process of its own and analyses ranks in as many processes as there
are cores. Printed per number of ranks: seconds in all, processor time per rank, the largest worker's memory, that of
the process that puts the ranks together, and the size of the page and of the JSON. A further rank's cost is the slope
from the smallest number.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from synthetic.fleet import Fleet, save
from synthetic.lora import Shape, program
from synthetic.simulate import simulate

RANKS = (16, 128, 1024)
PER_MACHINE = 8
LATE_NS = 3_000_000
CHILD = """
import json, resource, sys
from loraprof.analysis.ranks import examine
from loraprof.diagnosis.load import report_of
from loraprof.report.registry import render
from loraprof.store.recordings import load_source
examine.WORTH_BYTES = 0
report = report_of(load_source(sys.argv[1]), examine.processes)
peak = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
cpu, worker = sum(u.ru_utime + u.ru_stime for u in used), used[1].ru_maxrss
said = {"cpu_s": cpu, "peak_kb": peak, "worker_kb": worker, "slowest": report.rank_summary.slowest,
        "lines": render(report, "terminal").count(b"\\n"), "json": len(render(report, "json")),
        "clocks": report.rank_summary.clocks.residual_ns}
print(json.dumps(said))
"""


@dataclass(frozen=True, slots=True)
class Cost:
    ranks: int
    seconds: float
    cpu_s: float
    peak_mb: float
    worker_mb: float
    lines: int
    json_bytes: int


def made(ranks: int, folder: Path) -> Path:
    """A recording of ``ranks`` ranks, rank 3 late."""
    run = simulate(program(Shape(comm_ns=300_000, hidden=512, ffn=1376, tokens=1024)))
    offsets = {rank: rank // PER_MACHINE * 1_000_003 for rank in range(ranks)}
    fleet = Fleet(ranks, 3, LATE_NS, offsets_ns=offsets, machines=lambda rank: f"m{rank // PER_MACHINE}")
    return save(fleet, run, folder / f"{ranks}.loraprof")


def cost(ranks: int, place: Path) -> Cost:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", CHILD, str(place)], check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    said = json.loads(done.stdout)
    if said["slowest"] != 3 or said["clocks"] != 0:
        raise SystemExit(f"the late rank was not found: {said}")
    peak_mb, worker_mb = said["peak_kb"] / 1024, said["worker_kb"] / 1024
    return Cost(ranks, seconds, said["cpu_s"], peak_mb, worker_mb, said["lines"], said["json"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory of a report per rank.")
    parser.add_argument("--ranks", type=int, nargs="+", default=list(RANKS))
    parser.add_argument("--keep", type=Path, help="folder that keeps the recordings made")
    options = parser.parse_args()
    print(" ranks |  seconds  cpu ms/rank  cpu ms/further | worker MB  report MB  kB/further |  lines  JSON kB")
    first: Cost | None = None
    with tempfile.TemporaryDirectory() as scratch:
        for ranks in sorted(options.ranks):
            found = cost(ranks, made(ranks, options.keep or Path(scratch)))
            first = first or found
            more = max(found.ranks - first.ranks, 1)
            slope = f"{1000 * (found.cpu_s - first.cpu_s) / more:15.1f}" if found is not first else f"{'':15}"
            growth = f"{1024 * (found.peak_mb - first.peak_mb) / more:11.1f}" if found is not first else f"{'':11}"
            print(
                f"{ranks:6,} | {found.seconds:8.2f} {1000 * found.cpu_s / ranks:12.1f} {slope} |"
                f" {found.worker_mb:9.0f} {found.peak_mb:10.0f} {growth} |"
                f" {found.lines:6} {found.json_bytes / 1000:8.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
