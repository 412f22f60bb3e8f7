"""No report of a real step contradicts itself."""

import json
from pathlib import Path
from typing import Any

import pytest
import reference
from contradictions import contradictions
from recorded import recorded
from reports import REAL, diagnosed

from loraprof.model.report import Report
from loraprof.report.json import to_json
from loraprof.store.profiles import profiles_dir

RECORDINGS = reference.found_in(profiles_dir() / "recordings")
TRACES = sorted(REAL.glob("*.json.gz"))


def said(path: Path) -> list[str]:
    return said_of(diagnosed(path))


def said_of(report: Report) -> list[str]:
    return list(contradictions(json.loads(to_json(report))))


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda p: p.stem)
def test_a_reference_recording(path: Path) -> None:
    assert said_of(reference.job(path).report) == []


@pytest.mark.skipif(not TRACES, reason="the public traces are not beside this checkout")
@pytest.mark.parametrize("path", TRACES, ids=lambda p: p.name)
def test_a_public_trace(path: Path) -> None:
    assert said(path) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny-llama-cpu", "resnet18"])
def test_a_cpu_recording(name: str) -> None:
    assert said(recorded(name)) == []


GAIN = {"ns": 100, "speedup": 1.111, "low": 1.05, "high": 1.2, "basis": "model"}
PART = {"kind": "busy", "ns": 1000}
LONG = {"what": "their time", "unit": "ns", "value": 1001}
SOUND: dict[str, Any] = {
    "steps": [{"name": "a", "wall_ns": 1000, "partition": [PART]}],
    "reported_step": "a",
    "unprofiled": {"wall_ns": 1000, "partition": [PART]},
    "timing": {"unprofiled": {"median_ns": 1000}},
    "adapter": {"predicted_frozen_ns": 900},
    "verdict": {"speedup_vs_full": 1.2, "ideal_speedup": 1.3, "limiting_cause": "L1"},
    "findings": [{"id": "L1", "severity": "major", "gain": GAIN, "remedies": []}],
    "kernels": [{"name": "k", "roof_ns": 90, "total_ns": 100, "note": None}],
    "nvml": {"energy_j_per_step": 1e-4, "power_w": 100.0},
    "networks": [{"busy_ns": 1000}],
}
WRONG: dict[str, dict[str, Any]] = {
    "step": {"steps": [{"name": "a", "wall_ns": 1001, "partition": [PART]}]},
    "unprofiled": {"unprofiled": {"wall_ns": 999, "partition": [PART]}},
    "ideal": {"verdict": {"speedup_vs_full": 1.4, "ideal_speedup": 1.3, "limiting_cause": "L1"}},
    "frozen": {"adapter": {"predicted_frozen_ns": 1100}},
    "no adapter": {"adapter": None},
    "outside": {"findings": [{"id": "L1", "severity": "major", "gain": {**GAIN, "low": 1.15}}]},
    "narrow": {"findings": [{"id": "L1", "severity": "major", "gain": {**GAIN, "low": 1.11, "high": 1.112}}]},
    "not its ns": {"findings": [{"id": "L1", "severity": "major", "gain": {**GAIN, "ns": 200}}]},
    "no finding": {"verdict": {"speedup_vs_full": 1.2, "ideal_speedup": 1.3, "limiting_cause": "B1"}},
    "roof": {"kernels": [{"name": "k", "roof_ns": 120, "total_ns": 100, "note": "impossible"}]},
    "energy": {"nvml": {"energy_j_per_step": 2e-4, "power_w": 100.0}},
    "networks": {"networks": [{"busy_ns": 1100}]},
    "evidence": {"findings": [{"id": "L1", "severity": "major", "gain": GAIN, "remedies": [], "evidence": [LONG]}]},
}


def test_a_sound_report_is_passed() -> None:
    assert list(contradictions(SOUND)) == []


@pytest.mark.parametrize("what", WRONG)
def test_each_kind_is_seen(what: str) -> None:
    assert len(list(contradictions(SOUND | WRONG[what]))) == 1
