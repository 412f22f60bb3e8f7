"""Module, phase and role of real CPU steps: complete, consistent by two rules, honest about a lost marker."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from recorded import PRESETS, recorded

import loraprof
from loraprof.analysis.costmodel import gemm_counts
from loraprof.model.report import Report

pytestmark = pytest.mark.slow

GEMMS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::mkldnn_convolution", "aten::convolution_backward")


def report_of(name: str, *overrides: str) -> Report:
    return loraprof.diagnose(recorded(name, *overrides))


def busy(report: Report, **where: Any) -> int:
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


def counted_gemms(report: Report) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for kernel in report.kernels:
        if kernel.name in GEMMS and kernel.role.startswith(("base", "adapter")):
            counts[kernel.role, kernel.phase] += kernel.count
    return counts


def predicted_gemms(layers: int, lowest: int, checkpointing: bool = False) -> Counter[tuple[str, str]]:
    """By the launch table; the ``lowest`` layers read an input that needs no gradient."""
    counts: Counter[tuple[str, str]] = Counter()
    for input_grad, n in ((True, layers - lowest), (False, lowest)):
        for key, gemms in gemm_counts("V1", checkpointing, input_grad).items():
            counts[key] += n * gemms
    return counts


@pytest.mark.parametrize(
    ("name", "lowest"),
    [("tiny-llama-cpu", 3), ("qwen2.5-0.5b", 3), ("gpt2-xl", 1), ("minimind-26m", 3), ("roberta-base", 2)],
)
def test_gemms_per_role_are_those_of_the_launch_table(name: str, lowest: int) -> None:
    """The first block's adapted layers read the frozen embedding's output, which needs no gradient."""
    report = report_of(name)
    assert report.adapter is not None
    found, expected = counted_gemms(report), predicted_gemms(report.adapter.modules, lowest)
    for (role, phase), n in expected.items():
        if role == "base.linear":  # linears without an adapter have the role too
            assert found[role, phase] >= n
        else:
            assert found[role, phase] == n, (role, phase)
    assert found.keys() == expected.keys()


@pytest.mark.parametrize("mode", ["reentrant", "non-reentrant"])
def test_checkpointing_is_recompute(mode: str) -> None:
    report = report_of("tiny-llama-cpu", f"checkpointing={mode}")
    assert busy(report, phase="recompute", role="base.linear") > 0
    assert report.closure.attribution_disagreements == 0
    assert report.closure.unattributed_ns <= 0.01 * busy(report)
    assert report.adapter is not None
    found = counted_gemms(report)
    # Checkpointing makes the embedding's output require a gradient, so no layer is without.
    expected = predicted_gemms(report.adapter.modules, 0, checkpointing=True)
    for (role, phase), n in expected.items():
        stops_early = mode == "non-reentrant" and phase == "recompute" and role in ("base.linear", "adapter.up")
        assert n - (2 if stops_early else 0) <= found[role, phase] <= n, (role, phase)


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


def test_a_bare_trace_has_its_adapters_and_roles_by_shapes() -> None:
    """Without modules, most work has the role that the recording's modules give it."""
    folder = recorded("tiny-llama-cpu")
    bare, known = loraprof.diagnose(folder / "rank0.trace.json.gz"), loraprof.diagnose(folder)
    step, own = bare.step(), known.step()
    assert bare.adapter is not None
    assert known.adapter is not None
    assert (bare.adapter.modules, bare.adapter.rank) == (known.adapter.modules, known.adapter.rank)
    assert {layer.how for layer in bare.adapter.sites} == {"shapes"}
    assert any("by shapes" in note for note in bare.closure.notes)
    assert step is not None
    assert own is not None
    for role in ("base.linear", "adapter.down", "adapter.up", "adapter.elementwise", "norm", "attention", "optimizer"):
        assert step.ns(kind="busy", role=role) == pytest.approx(own.ns(kind="busy", role=role), rel=0.05), role
