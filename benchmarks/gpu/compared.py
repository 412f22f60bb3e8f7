"""``loraprof compare full,frozen,lora`` as a user runs it: its own prediction, and bars that add up."""

import time

import msgspec

from benchmarks.gpu.results import Compared, Options
from benchmarks.gpu.shell import loraprof
from benchmarks.gpu.workload import spec_of, words_of
from loraprof.model.compare import Comparison

WORKLOAD = "tinyllama-1.1b"


def run(options: Options) -> Compared:
    words = words_of(spec_of(options, WORKLOAD, {}))
    budget = options.pick("5s", "10s", "60s")
    begin = time.perf_counter()
    said = loraprof("compare", "--arms", "full,frozen,lora", "--budget", budget, "--format", "json", *words)
    wall_s = time.perf_counter() - begin
    found = msgspec.json.decode(said, type=Comparison)
    full, lora = found.arms["full"].median_ns, found.arms["lora"].median_ns
    fall = found.waterfall
    return Compared(
        workload=WORKLOAD,
        wall_s=wall_s,
        predicted=found.predicted.full_over_lora if found.predicted else None,
        measured=full / lora if full and lora else None,
        bars_ns=sum(bar.ns for bar in fall.bars) if fall else 0,
        difference_ns=fall.to_ns - fall.from_ns if fall else 0,
        notes=found.notes,
    )
