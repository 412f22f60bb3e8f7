"""What do loraprof and its peers cost on the same traces? Time and peak memory, and how far above the floor they are.

    python benchmarks/peers.py [SEED.json.gz ...] [--mb 10 54 260] [--rounds 3] [--work DIR]

Each seed (default: two recordings of a built-in workload, without and with Python frames) is repeated up to the given
sizes before compression. HolisticTraceAnalysis, its successor traceinsight, torch-tb-profiler and perfetto's trace
processor get environments of their own in DIR; what cannot be installed or fails is named below the table. In each
round every tool reads the file once, in turn, each in a process of its own, from the start of the interpreter to its
answer; a first round on the first file, in which bytecode is compiled, does not count. A cell is the median time, the
highest peak of memory and, in brackets, the medians over the rounds of the tool's time and memory divided by loraprof's
in the same round: ratios survive a machine that is busy, seconds do not.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.processes import Used, environment, run  # noqa: E402
from benchmarks.tools import BASE, OURS, PEERS, Installed, install  # noqa: E402


@dataclass(frozen=True, slots=True)
class File:
    path: Path
    events: int
    size_bytes: int
    frames: int

    @property
    def title(self) -> str:
        frames = f", {self.frames / self.events:.0%} Python frames" if self.frames else ""
        return f"{self.size_bytes / 1e6:.0f} MB, {self.events / 1e3:,.0f} k events{frames}"


def made(command: Sequence[str]) -> str:
    """What a helper process prints; this process stays small, see benchmarks.processes."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment())
    if done.returncode:
        raise SystemExit(done.stderr.strip().splitlines()[-1])
    return done.stdout


def seeds_of(given: list[Path], work: Path) -> list[Path]:
    code = "import sys; from pathlib import Path; from benchmarks.traces import recorded; "
    code += "print(recorded(Path(sys.argv[1]), bool(int(sys.argv[2]))))"
    if given:
        return given
    return [Path(made(["-c", code, str(work), frames]).strip()) for frames in ("0", "1")]


def files_of(seed: Path, sizes_mb: list[float], folder: Path) -> list[File]:
    """One trace per size, made from ``seed``."""
    script = str(ROOT / "benchmarks" / "traces.py")
    path = folder / f"{seed.name.split('.')[0]}.json.gz"
    one = json.loads(made([script, str(seed), "1", str(path)]))
    files = []
    for mb in sizes_mb:
        events = round(mb * 1e6 / one["size_bytes"] * one["events"])
        path = folder / f"{seed.name.split('.')[0]}-{mb:g}.json.gz"
        files.append(File(path, **json.loads(made([script, str(seed), str(events), str(path)]))))
    return files


def measure(tools: list[Installed], file: File, rounds: int, limit_s: float) -> dict[str, list[Used]]:
    """Per tool one run per round; who begins changes from round to round, one that failed is not run again."""
    runs: dict[str, list[Used]] = {one.tool.name: [] for one in tools}
    for i in range(rounds):
        for one in [*tools[i % len(tools) :], *tools[: i % len(tools)]]:
            done = runs[one.tool.name]
            if not any(used.error for used in done):
                done.append(run(one.command(file.path), limit_s))
    return runs


def cell(mine: list[Used], ours: list[Used]) -> str:
    """``1.6 s, 146 MB (3.1×, 2.0×)``; our own row carries no ratio."""
    if any(used.error for used in mine):
        return "failed"
    text = f"{median(u.wall_s for u in mine):.2f} s, {max(u.peak_mb for u in mine):.0f} MB"
    if mine is ours or any(used.error for used in ours):
        return text
    pairs = list(zip(mine, ours, strict=True))
    time = median(a.wall_s / b.wall_s for a, b in pairs)
    memory = median(a.peak_mb / b.peak_mb for a, b in pairs)
    return f"{text} ({time:.2f}×, {memory:.2f}×)"


def table(found: list[tuple[File, dict[str, list[Used]]]], skipped: list[str]) -> str:
    """Markdown: a row per tool, a column per file, and what is missing below."""
    lines = ["| tool | " + " | ".join(file.title for file, _ in found) + " |", "|---" * (len(found) + 1) + "|"]
    for name in found[0][1]:
        cells = (cell(runs[name], runs[OURS.name]) for _, runs in found)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    notes = [
        f"{name}, {file.title}: {used.error[:160]}"
        for file, runs in found
        for name, done in runs.items()
        for used in done
        if used.error
    ]
    lines += ["", *(f"* {note}" for note in [*skipped, *notes])]
    return "\n".join(lines).rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", type=Path, nargs="*", help="traces in the C++ exporter's layout")
    parser.add_argument("--mb", type=float, nargs="+", default=[10, 54, 260], help="sizes before compression")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=300, help="seconds after which one run is given up")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "loraprof-peers")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    places = [install(tool, options.work.absolute()) for tool in (OURS, BASE, *PEERS)]
    tools = [place for place in places if isinstance(place, Installed)]
    skipped = [place for place in places if isinstance(place, str)]
    found: list[Any] = []
    with tempfile.TemporaryDirectory(dir=options.work) as scratch:
        for seed in seeds_of(options.seeds, Path(scratch)):
            for file in files_of(seed, options.mb, Path(scratch)):
                if not found:
                    measure(tools, file, 1, options.limit)
                found.append((file, measure(tools, file, options.rounds, options.limit)))
                print(f"peers: {file.title} done", file=sys.stderr, flush=True)
                file.path.unlink()
    print(table(found, skipped))


if __name__ == "__main__":
    main()
