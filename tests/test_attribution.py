"""Module, phase and role of real CPU steps: complete, consistent by two rules, honest about a lost marker."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
from recorded import PRESETS, recorded

import loraprof
from loraprof.model.report import Report

GEMMS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::mkldnn_convolution", "aten::convolution_backward")
CONV = ("aten::mkldnn_convolution", "aten::_slow_conv2d_forward", "aten::thnn_conv2d")


def report_of(name: str, *overrides: str) -> Report:
    return loraprof.diagnose(recorded(name, *overrides))


def busy(report: Report, **where: str) -> int:
    step = report.step()
    assert step is not None
    return step.ns(kind="busy", **where)


@pytest.mark.parametrize("name", PRESETS)
def test_nearly_all_busy_time_has_a_module_and_a_role(name: str) -> None:
    report = report_of(name)
    assert report.closure.unattributed_ns <= 0.01 * busy(report)
    assert busy(report, role="other") <= 0.01 * busy(report)
    assert report.closure.attribution_disagreements == 0
    assert report.adapter is not None
    assert report.adapter.modules > 0
    assert not [n for n in report.closure.notes if "cross" in n]


def gemm_counts(report: Report) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for kernel in report.kernels:
        if kernel.name in GEMMS and kernel.role.startswith(("base", "adapter")):
            counts[kernel.role, kernel.phase] += kernel.count
    return counts


@pytest.mark.parametrize("name", ["tiny-llama-cpu", "qwen2.5-0.5b", "gpt2-xl", "minimind-26m", "roberta-base"])
def test_gemms_per_role_are_those_of_the_low_rank_path(name: str) -> None:
    """Per adapted linear: base 1 forward + 1 backward, A and B each 1 forward + 2 backward (dx and dW)."""
    report = report_of(name)
    assert report.adapter is not None
    n = report.adapter.modules
    counts = gemm_counts(report)
    assert counts["adapter.down", "forward"] == n
    assert counts["adapter.up", "forward"] == n
    assert counts["adapter.up", "backward"] == 2 * n
    # The first adapted layers read the frozen embedding's output, which needs no gradient: dA only.
    missing = 2 * n - counts["adapter.down", "backward"]
    first = {"roberta-base": 2, "gpt2-xl": 1}.get(name, 3)
    assert missing in (0, first)
    assert counts["base.linear", "forward"] >= n


@pytest.mark.parametrize("mode", ["reentrant", "non-reentrant"])
def test_checkpointing_is_recompute(mode: str) -> None:
    report = report_of("tiny-llama-cpu", f"checkpointing={mode}")
    assert busy(report, phase="recompute", role="base.linear") > 0
    assert report.closure.attribution_disagreements == 0
    assert report.closure.unattributed_ns <= 0.01 * busy(report)
    counts = gemm_counts(report)
    assert counts["adapter.down", "recompute"] == counts["adapter.down", "forward"]


def test_bf16_base_with_fp32_adapters() -> None:
    report = report_of("tiny-llama-cpu", "dtype=bfloat16", "dropout=0.1")
    assert report.adapter is not None
    assert report.adapter.dtype == "float32"
    assert report.closure.unattributed_ns <= 0.01 * busy(report)


def test_a_lost_marker_is_exactly_its_time(tmp_path: Path) -> None:
    """Without the markers of one root call its own ops become unattributed, and nothing else changes hands."""
    source = recorded("tiny-llama-cpu")
    place = tmp_path / "cut.loraprof"
    place.mkdir()
    meta = json.loads((source / "recording.json").read_text())
    norm = next(m for m in meta["modules"] if m["path"].endswith("model.norm"))
    meta["calls"] = []
    (place / "recording.json").write_text(json.dumps(meta))
    trace = json.loads(gzip.decompress((source / "rank0.trace.json.gz").read_bytes()))
    (place / "rank0.trace.json.gz").write_bytes(gzip.compress(json.dumps(trace).encode()))
    whole = loraprof.diagnose(place)
    path = norm["path"]
    mine = sum(m.busy_ns for m in whole.modules if m.path == path)
    trace["traceEvents"] = [e for e in trace["traceEvents"] if e.get("name") != f"loraprof::m{norm['id']}"]
    (place / "rank0.trace.json.gz").write_bytes(gzip.compress(json.dumps(trace).encode()))
    cut = loraprof.diagnose(place)
    assert mine > 0
    assert not [m for m in cut.modules if m.path == path]
    assert busy(cut) == busy(whole)
    parent = path.rpartition(".")[0]

    def own(report: Report) -> int:
        return sum(m.busy_ns for m in report.modules if m.path == parent)

    assert own(cut) - own(whole) == mine
