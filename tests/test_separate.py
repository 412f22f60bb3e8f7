"""Causes that may gain the same are named together with the measurement that decides between them."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from provoke import made, synthetic, workload

import loraprof
from loraprof.diagnosis import build
from loraprof.diagnosis.case import Case
from loraprof.diagnosis.judge import RULES
from loraprof.diagnosis.separate import unclear
from loraprof.diagnosis.verdict import limiting
from loraprof.model.finding import Finding, Gain, RemedyReport
from loraprof.model.recording import Workload
from loraprof.model.report import TimingReport, Unprofiled

BUILTIN = Workload(name="gpt2-xl", kind="builtin", argv=["gpt2-xl"], options={"batch": 4, "rank": 16})
SCRIPT = Workload(name="train.py", kind="script", argv=["train.py", "--name", "a b"])


def cause(id: str, low: float, high: float, severity: Any = "major") -> Finding:
    gain = Gain(ns=1, speedup=(low + high) / 2, low=low, high=high, basis="model") if low else None
    remedies = [RemedyReport(kind=r.kind, stack="plain", text="", arm=r.arm) for r in RULES[id].remedies]
    return Finding(id=id, severity=severity, title="", evidence=[], remedy="", gain=gain, remedies=remedies)


@pytest.fixture(scope="module")
def case() -> Any:
    """A case whose workload can be chosen; nothing else of it is asked for."""
    run = synthetic("bandwidth-v1")
    path = made(run, **workload(run.recording))
    seen: list[Case] = []
    keep = build.findings

    def spy(found: Case) -> list[Finding]:
        seen.append(found)
        return keep(found)

    build.findings = spy  # type: ignore[assignment]
    try:
        loraprof.diagnose(path)
    finally:
        build.findings = keep

    def with_workload(work: Workload, unprofiled: bool = True) -> Case:
        recording = msgspec.structs.replace(run.recording, workload=work)
        timing = TimingReport(
            unprofiled=Unprofiled(median_ns=1, low_ns=1, high_ns=1, steps=9) if unprofiled else None,
            profiled_ns=1, inflation=None, tokens_per_step=None,
        )  # fmt: skip
        return replace(seen[0], timing=timing, recording=recording)

    return with_workload


def test_a_clear_lead_needs_no_measurement(case: Any) -> None:
    assert unclear(case(BUILTIN), [cause("L1", 1.2, 1.3), cause("H1", 1.1, 1.19)]) is None
    assert unclear(case(BUILTIN), [cause("L1", 1.2, 1.3)]) is None
    assert (
        unclear(case(BUILTIN), [cause("G2", 1.2, 1.3, "info"), cause("L1", 1.2, 1.3), cause("B6", 1.0, 1.3, "info")])
        is None
    )


@pytest.mark.parametrize(
    ("ids", "work", "measure"),
    [
        (("L1", "L2"), BUILTIN, "loraprof compare --arms lora,lora-fused,lora-bf16 gpt2-xl would decide"),
        (("L2", "L3"), BUILTIN, "loraprof compare --arms lora,lora-bf16 gpt2-xl would decide"),
        (("H1", "L1"), BUILTIN, "gpt2-xl or loraprof profile gpt2-xl --batch 8 would decide"),
        (("L5", "L1"), BUILTIN, "loraprof profile gpt2-xl --rank 32 would decide"),
        (("H1", "L4"), SCRIPT, "overlap; a profile with the batch doubled would decide"),
        (("W1", "B6"), SCRIPT, "loraprof compare --arms lora,full train.py --name 'a b' would decide"),
        (("B3", "B6"), SCRIPT, "their intervals overlap"),
    ],
)
def test_overlapping_gains_name_what_decides(case: Any, ids: tuple[str, str], work: Workload, measure: str) -> None:
    said = unclear(case(work), [cause(ids[0], 1.1, 1.3), cause(ids[1], 1.05, 1.2)])
    assert said is not None
    assert said.startswith(f"{ids[0]} and {ids[1]} may gain the same")
    assert said.endswith(measure)


def test_without_an_unprofiled_time_nothing_is_ranked(case: Any) -> None:
    found = [cause("H1", 0, 0), cause("L1", 0, 0)]
    said = unclear(case(SCRIPT, unprofiled=False), found)
    assert said is not None
    assert said.startswith("H1, L1 cannot be ranked")
    assert unclear(case(SCRIPT), found) is None


def test_the_limiting_cause_surely_gains_something() -> None:
    vague, sure = cause("B10", 1.0, 4.0), cause("L4", 1.1, 1.2)
    assert limiting([cause("G2", 1.5, 1.6, "info"), vague, sure]) == "L4"
    assert limiting([vague]) == "B10"
    assert limiting([cause("H1", 0, 0), cause("L1", 0, 0)]) is None  # in no order
    assert limiting([cause("G6", 1.1, 1.2, "info")]) is None


def test_the_report_carries_it() -> None:
    path: Path = made(synthetic("bandwidth-v5"))
    report = loraprof.diagnose(path)
    gains = [f.gain for f in report.findings if f.gain and f.id[0] != "G" and f.severity != "info"]
    overlap = len(gains) > 1 and gains[1].high >= gains[0].low
    assert (report.verdict.unclear is not None) == overlap
