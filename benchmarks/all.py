"""Which of loraprof's limits are met on this machine? One command; every limit beside what was measured.

    python benchmarks/all.py --quick    # two to five minutes: small traces, no peers, no overhead
    python benchmarks/all.py            # also a trace of 1.3 million events, and what loraprof costs the job it watches

What is compared takes turns in one run, and a cell is the median of the rounds' ratios: ratios survive a busy machine,
seconds do not. Missed is missed: the exit code is 0 either way.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.processes import environment, run  # noqa: E402
from benchmarks.tools import FLOOR  # noqa: E402

LORAPROF = [sys.executable, "-m", "loraprof"]
NUMPY = [sys.executable, "-c", "import numpy"]
GPU = ROOT / "profiles" / "recordings" / "h100-sxm" / "llama-3.2-1b.loraprof"
STEPS = re.compile(r"steps ([\d.]+) s\b")
JUDGED = re.compile(r"\b(?:met|missed)\b", re.IGNORECASE)
QUICK_EVENTS, EVENTS = 216_000, 1_300_000


class Limit(NamedTuple):
    """``at_most`` bounds ``value``; ``note`` says of what."""

    what: str
    value: float
    at_most: float
    unit: str
    note: str = ""

    def row(self) -> str:
        met = "met" if self.value <= self.at_most else "MISSED"
        return f"| {self.what} | {self.value:.2f}{self.unit} | {self.at_most:.3g}{self.unit} | {met} | {self.note} |"


def cpu_s(command: Sequence[str], cache: str = "") -> float:
    """User and system time of one run."""
    used = run(command, cache=cache)
    if used.error:
        raise SystemExit(f"{' '.join(command)}: {used.error}")
    return used.cpu_s


def starts(small: Path, rounds: int) -> Iterator[Limit]:
    """Process time against numpy's import."""
    cases = {"--help": ([*LORAPROF, "--help"], 0.8), "report, small": ([*LORAPROF, "report", str(small)], 3.0)}
    for command, _ in cases.values():
        cpu_s(command)  # compiles
    for what, (command, at_most) in cases.items():
        pairs = [(cpu_s(command), cpu_s(NUMPY)) for _ in range(rounds)]
        ratio = median(one / numpy for one, numpy in pairs)
        yield Limit(what, ratio, at_most, "x", f"of `import numpy`, {median(n for _, n in pairs):.2f} s")


def second_looks(folder: Path, rounds: int) -> Iterator[Limit]:
    """What was analysed before against the first time."""
    for form in ("terminal", "json", "html"):
        command = [*LORAPROF, "report", str(GPU), "--format", form, "-o", str(folder / "out"), "--force"]
        ratios = []
        for i in range(rounds + 1):
            cache = str(folder / f"cache-{form}-{i}")
            first, second = (cpu_s(command, cache) for _ in range(2))
            ratios.append(second / first)
        yield Limit(f"second report, {form}", median(ratios[1:]), 1 / 3, "x", f"of the first, {first:.2f} s")


def reading(seed: Path, events: int, folder: Path, rounds: int) -> Iterator[Limit]:
    """A large trace against what any reader in Python pays, on the clock: several processes read the largest."""
    path = folder / "large.json.gz"
    command = [sys.executable, str(ROOT / "benchmarks" / "traces.py"), str(seed), str(events), str(path)]
    made = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)  # memory of its own
    written, size_bytes = made["events"], made["size_bytes"]
    ratios, used, peak_mb, whole_s = [], [], 0.0, 0.0
    for _ in range(rounds):
        report, floor = run([*LORAPROF, "report", str(path)]), run([sys.executable, "-c", FLOOR, str(path)])
        if report.error or floor.error:
            raise SystemExit(f"{path}: {report.error or floor.error}")
        ratios.append(report.wall_s / floor.wall_s)
        used.append(report.cpu_s / floor.cpu_s)
        peak_mb, whole_s = max(peak_mb, report.peak_mb), report.wall_s
    what, of = f"report, {written:,} events", f"of inflating and decoding {size_bytes / 1e6:.0f} MB"
    yield Limit(what, median(ratios), 1.5, "x", f"{of}; {whole_s:.2f} s, {median(used):.2f}x in processor time")
    yield Limit(f"{what}, peak", peak_mb, 200.0, " MB")


def profiled(target: Path) -> Limit:
    """The CPU default from start to page, less its steps."""
    start = time.perf_counter()
    command = [*LORAPROF, "profile", "tiny-llama-cpu", "--record", str(target)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment())
    whole_s = time.perf_counter() - start
    said = done.stderr.splitlines()[-1].removeprefix("loraprof: ")
    return Limit("profile, beside its steps", whole_s - float(STEPS.findall(said)[0]), 8.0, " s", said)


def said_by(program: str, *words: str) -> Iterator[str]:
    """The lines of another benchmark that judge themselves."""
    command = [sys.executable, str(ROOT / "benchmarks" / program), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    lines = [line for line in done.stdout.splitlines() if JUDGED.search(line)]
    yield from (f"* {program}: {line.strip('| ')}" for line in lines or [f"failed, {done.stderr[-200:].strip()}"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Every limit, met or missed.")
    parser.add_argument("--quick", action="store_true", help="what takes minutes")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, of which {os.getloadavg()[0]:.1f} are in use before the first run\n")
    print("| limit | measured | at most | | |\n|---|---:|---:|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        small = folder / "small.loraprof"
        print(profiled(small).row(), flush=True)
        events = QUICK_EVENTS if options.quick else EVENTS
        rows = (
            *starts(small, options.rounds),
            *second_looks(folder, options.rounds),
            *reading(small / "rank0.trace.json.gz", events, folder, options.rounds),
        )
        for limit in rows:
            print(limit.row(), flush=True)
    print()
    for line in said_by("published.py"):
        print(line, flush=True)
    for line in () if options.quick else said_by("overhead.py"):
        print(line, flush=True)


if __name__ == "__main__":
    main()
