"""How many bytes do the largest kernels really move? ncu's DRAM counters beside the minimum that the report states.

    ncu --metrics dram bytes, --clock-control none --cache-control none, the one step inside an NVTX range

The same step is recorded by ``loraprof profile``; kernels are matched by their order, and only where grid and block
agree too. ncu's defaults flush the caches and lock the clock: both would change the answer.
"""

import csv
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.gpu.results import Counted, Counters, NotHere, Options
from benchmarks.gpu.workload import spec_of, words_of
from loraprof.analysis.analyse import analyse
from loraprof.analysis.partition.gpu import device_work
from loraprof.analysis.step.busy import busy_of
from loraprof.model.vocabulary import ROLES, DeviceKind
from loraprof.model.workload import WorkloadSpec
from loraprof.runs.compare.workers import profile_pass
from loraprof.store.kineto.read import read_trace
from loraprof.store.recordings import load_source

WORKLOAD: Final = "tinyllama-1.1b"
CHANGES: Final = {"layers": "2", "batch": "4", "seq": "512"}
LARGEST: Final = 20
RANGE: Final = "loraprof"
READ, WRITTEN = "dram__bytes_read.sum", "dram__bytes_write.sum"
WARM_UP: Final = 3


@dataclass(frozen=True, slots=True)
class Launched:
    """One kernel as ncu saw it."""

    name: str
    blocks: int
    threads: int
    dram_bytes: int


def run(options: Options) -> Counters:
    ncu = shutil.which("ncu")
    if options.device != "cuda":
        raise NotHere("needs CUDA")
    if ncu is None:
        raise NotHere("ncu is not on PATH: install Nsight Compute")
    place = options.out / "raw" / "counters.loraprof"
    place.parent.mkdir(exist_ok=True)
    words = words_of(spec_of(options, WORKLOAD, CHANGES))
    if problem := profile_pass(["--force", "--timed", "5", "--steps", "3", *words], place):
        raise RuntimeError(f"the step could not be recorded: {problem}")
    return matched(place, counted(ncu, options))


def counted(ncu: str, options: Options) -> list[Launched]:
    """The kernels of one step under ncu. Raises RuntimeError with ncu's own words, NotHere without permission."""
    log = options.out / "raw" / "ncu.csv"
    flags = ["--metrics", f"{READ},{WRITTEN}", "--clock-control", "none", "--cache-control", "none"]
    flags += ["--nvtx", "--nvtx-include", RANGE, "--csv", "--page", "raw", "--print-units", "base"]
    target = [sys.executable, "-m", "benchmarks.gpu.counters", options.device, options.size]
    done = subprocess.run([ncu, *flags, "--log-file", str(log), *target], capture_output=True, text=True)
    said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    if "ERR_NVGPUCTRPERM" in said + done.stdout + done.stderr:
        raise NotHere("counters are for administrators only here (ERR_NVGPUCTRPERM)")
    found = parsed(said.splitlines())
    if not found:
        errors = [line for line in [*said.splitlines(), *done.stderr.splitlines()] if "ERROR" in line.upper()]
        raise RuntimeError(f"ncu counted nothing: {errors[0] if errors else f'code {done.returncode}'}")
    return found


def parsed(lines: Iterable[str]) -> list[Launched]:
    """Kernels of an ncu CSV, raw page, in order; lines of ncu's own talk and the row of units are passed over."""
    rows = csv.DictReader(line for line in lines if line.startswith('"'))
    return [
        Launched(
            name=row["Kernel Name"],
            blocks=_product(row["Grid Size"]),
            threads=_product(row["Block Size"]),
            dram_bytes=round(_number(row[READ]) + _number(row[WRITTEN])),
        )
        for row in rows
        if row.get("ID", "").isdigit()
    ]


def _product(text: str) -> int:
    """``(128, 1, 1)``."""
    return prod(int(number) for number in re.findall(r"\d+", text))


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def matched(place: Path, launched: list[Launched]) -> Counters:
    """The largest kernels of the recorded step with ncu's bytes. Raises RuntimeError where the steps differ."""
    source = load_source(place)
    trace = read_trace(source.traces[0])
    analysis = analyse(trace, source.recording)
    assert analysis.reported is not None
    ledger = analysis.ledgers[analysis.reported]
    busy, device = busy_of(analysis, ledger), trace.device
    work = device_work(trace, analysis.links, analysis.attribution, np.ones(len(device), dtype=np.bool_))
    near = work.rows[work.overlapping(ledger.window)]
    kernels = [(i, row) for i, row in enumerate(near.tolist()) if device.kind[row] == DeviceKind.KERNEL]
    kernels.sort(key=lambda pair: (int(device.correlation[pair[1]]), int(device.start[pair[1]])))
    if len(kernels) != len(launched):
        raise RuntimeError(f"the recorded step has {len(kernels)} kernels, ncu counted {len(launched)}")
    agreed = [
        (i, row, one)
        for (i, row), one in zip(kernels, launched, strict=True)
        if (int(device.blocks[row]), int(device.threads[row])) == (one.blocks, one.threads)
    ]
    largest = sorted(agreed, key=lambda found: -int(busy.ns[found[0]]))[:LARGEST]
    paths = analysis.attribution.paths
    return Counters(
        kernels=[
            Counted(
                name=one.name,
                role=ROLES[int(ledger.role[i])],
                module=paths[int(ledger.module[i])] if ledger.module[i] >= 0 else None,
                ns=int(busy.ns[i]),
                dram_bytes=one.dram_bytes,
                min_bytes=getattr(busy.work[i], "min_bytes", None),
            )
            for i, _, one in largest
        ],
        matched=len(agreed),
        of=len(kernels),
    )


def step_for_ncu(spec: WorkloadSpec) -> None:
    """Warm-up, then one LoRA step inside the range that ncu looks at."""
    import torch

    from loraprof.workloads.build import build

    built, nvtx = build(spec, "lora"), torch.cuda.nvtx
    for _ in range(WARM_UP):
        built.step()
    torch.cuda.synchronize()
    start: Any = nvtx.range_start  # of all threads: the backward pass runs in one of its own
    end: Any = nvtx.range_end
    inside = start(RANGE)
    built.step()
    torch.cuda.synchronize()
    end(inside)


if __name__ == "__main__":
    device, size = sys.argv[1:3]
    step_for_ncu(spec_of(Options(device=device, size=size, folder="."), WORKLOAD, CHANGES))  # type: ignore[arg-type]
