"""Traces of any size: a real one, its events repeated with later times and higher ids.

    python benchmarks/traces.py SEED.json.gz EVENTS OUT.json.gz

The seed is in the C++ exporter's layout, as torch.profiler writes it. Prints events, bytes before compression and how
many of the events are Python frames, as JSON.
"""

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

from isal import igzip

IDS = 1_000_000  # per repetition: more than a seed has
LEAST_US = 10_000_000  # from one to the next, more where a seed lasts longer
REST_US = 1_000_000
LAST = 4096  # bytes that hold what follows the events
NUMBER = re.compile(rb'("(?:ts|correlation|External id|Ev Idx|id)"\s*:\s*)(\d+)')
FRAMES = """
import sys, torch
from loraprof.store.specs import load_workload
from loraprof.workloads.build import build
step = build(load_workload("tiny-llama-cpu", {"layers": 2}), "lora").step
step()
with torch.profiler.profile(with_stack=True, record_shapes=True) as session:
    for i in range(3):
        with torch.profiler.record_function(f"ProfilerStep#{i}"):
            step()
session.export_chrome_trace(sys.argv[1])
"""


def split(text: bytes) -> tuple[bytes, bytes, bytes]:
    """Head up to the bracket of ``traceEvents``, its events, and the tail from the closing bracket."""
    head = re.search(rb'"traceEvents"\s*:\s*\[', text)
    ends = [*re.finditer(rb"\}\s*\](?=\s*[,}])", text[-LAST:])] if head else []
    tail = len(text) - min(LAST, len(text)) + ends[-1].start() + 1 if ends else 0
    if head is None or not tail:
        raise SystemExit("the seed is not in the C++ exporter's layout")
    return text[: head.end()], text[head.end() : tail], text[tail:]


def write(seed: bytes, events: int, path: Path) -> tuple[int, int]:
    """Writes about ``events`` events; returns their number and the bytes before compression."""
    head, body, tail = split(seed)
    per_round = body.count(b'"ph"')
    times = [int(found[2]) for found in NUMBER.finditer(body) if b'"ts"' in found[1]]
    rounds, size = max(1, round(events / per_round)), 0
    step_us = max(LEAST_US, max(times) - min(times) + REST_US)
    with igzip.open(path, "wb", compresslevel=1) as out:
        for i in range(rounds):

            def moved(match: re.Match[bytes], i: int = i) -> bytes:
                step = step_us if b'"ts"' in match[1] else IDS
                return match[1] + str(int(match[2]) + i * step).encode()

            size += out.write((head if i == 0 else b",") + NUMBER.sub(moved, body))
        size += out.write(tail)
    return rounds * per_round, size


def recorded(folder: Path, frames: bool = False) -> Path:
    """The trace of a built-in workload, as a seed for machines that have no other; with Python frames on demand."""
    if frames:
        path = folder / "frames.json.gz"
        subprocess.run([sys.executable, "-c", FRAMES, str(path)], check=True, capture_output=True)
        return path
    place = folder / "seed.loraprof"
    command = [sys.executable, "-m", "loraprof", "profile", "tiny-llama-cpu", "--record", str(place), "--quiet"]
    subprocess.run(command, check=True, capture_output=True)
    return place / "rank0.trace.json.gz"


def main() -> None:
    seed_path, events, out = sys.argv[1:]
    seed = gzip.decompress(Path(seed_path).read_bytes())
    written, size = write(seed, int(events), Path(out))
    frames = seed.count(b'"python_function"') * written // seed.count(b'"ph"')
    print(json.dumps({"events": written, "size_bytes": size, "frames": frames}))


if __name__ == "__main__":
    main()
