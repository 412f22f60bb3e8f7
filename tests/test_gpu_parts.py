"""Parts of the GPU suite that can be held against something without a GPU: words, crossings, ncu's counters."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from synthetic.presets import preset
from synthetic.simulate import simulate

from benchmarks.gpu import counters
from benchmarks.gpu.counters import Launched, matched, parsed
from benchmarks.gpu.linear import crossing
from benchmarks.gpu.models import CASES
from benchmarks.gpu.results import Layer, NotHere, Options
from benchmarks.gpu.workload import spec_of, words_of
from loraprof.analysis.analyse import analyse
from loraprof.cli.workload_options import OPTIONS
from loraprof.store.kineto import read_trace
from loraprof.store.specs import load_workload


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(device="cpu", size="small", folder=str(tmp_path))


@pytest.mark.parametrize("size", ["small", "full"])
@pytest.mark.parametrize("case", CASES)
def test_words_give_the_same_workload(case: str, size: Any) -> None:
    workload, changes, _ = CASES[case]
    spec = spec_of(Options(device="cpu", size=size, folder="."), workload, changes)
    words = words_of(spec)
    given = dict(zip(words[:-1:2], words[1:-1:2], strict=True))
    assert all(key.removeprefix("--") in OPTIONS for key in given)
    pairs = dict(word.split("=", 1) for flag, word in pairwise(words) if flag == "--set")
    overrides = {k.removeprefix("--"): v for k, v in given.items() if k != "--set"} | pairs
    assert load_workload(words[-1], overrides) == spec


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ({1024: 2.0, 4096: 0.5}, 2048.0),
        ({1024: 1.0, 4096: 0.5}, 1024.0),
        ({1024: 2.0, 4096: 1.5}, None),
        ({1024: 0.5, 4096: 0.4}, None),
    ],
)
def test_where_lora_begins_to_gain(ratios: dict[int, float], expected: float | None) -> None:
    layers = [Layer(hidden=d, tokens=1, full_ns=1000, variants={"V1": round(1000 * x)}) for d, x in ratios.items()]
    assert crossing(layers, "V1") == (expected if expected is None else pytest.approx(expected))


NCU = """==PROF== Connected to process 4242
"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC","dram__bytes_read.sum","dram__bytes_write.sum"
"","","","","","","","","","","","byte","byte"
"0","4242","python","host","gemm, tiled","1","7","(128, 1, 1)","(32, 2, 1)","0","9.0","1,048,576","512"
"1","4242","python","host","add","1","7","(128, 1, 1)","(64, 1, 1)","0","9.0","100","20.0"
"""  # noqa: E501


def test_ncu_is_read() -> None:
    assert parsed(NCU.splitlines()) == [Launched("gemm, tiled", 64, 128, 1_049_088), Launched("add", 64, 128, 120)]
    assert parsed(["==ERROR== no kernels were profiled"]) == []


def test_counted_bytes_meet_their_kernels(tmp_path: Path) -> None:
    run = simulate(*preset("bandwidth-v1"))
    place = run.save(tmp_path)
    report = analyse(read_trace(place / "rank0.trace.json.gz"), run.recording)
    assert report.reported is not None
    step = report.ledgers[report.reported].window
    events = [e for e in run.document["traceEvents"] if e.get("cat") == "kernel"]
    mine = [e for e in events if step.start <= int(e["ts"] * 1000) < step.end]
    mine.sort(key=lambda e: e["args"]["correlation"])
    launched = [Launched(e["name"], 64, 128, 1000 + i) for i, e in enumerate(mine)]
    launched[5] = Launched("another", 1, 1, 0)
    found = matched(place, launched)
    assert (found.matched, found.of) == (len(mine) - 1, len(mine))
    longest = sorted((e for i, e in enumerate(mine) if i != 5), key=lambda e: -e["dur"])[:20]
    assert [k.ns for k in found.kernels] == [int(e["dur"] * 1000) for e in longest]
    for kernel in found.kernels:
        assert mine[kernel.dram_bytes - 1000]["name"] == kernel.name
        assert kernel.min_bytes or "gemm" not in kernel.name
    with pytest.raises(RuntimeError, match=f"has {len(mine)} kernels, ncu counted {len(mine) - 1}"):
        matched(place, launched[1:])


@pytest.mark.parametrize(
    ("says", "error", "reason"),
    [
        ("==ERROR== ERR_NVGPUCTRPERM - no permission", NotHere, "administrators"),
        ("==ERROR== LibraryNotLoaded", RuntimeError, "LibraryNotLoaded"),
        ("", RuntimeError, "ncu counted nothing: code 9"),
    ],
)
def test_what_ncu_refuses_is_told(
    options: Options, tmp_path: Path, says: str, error: type[Exception], reason: str
) -> None:
    (tmp_path / "raw").mkdir()
    ncu = tmp_path / "ncu"
    ncu.write_text(f'#!/bin/sh\necho "{says}" >&2\nexit 9\n')
    ncu.chmod(0o755)
    with pytest.raises(error, match=reason):
        counters.counted(str(ncu), options)
