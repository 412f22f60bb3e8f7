"""Arms measured in turn: what their profile passes say about the pair, and what is said when they cannot be trusted."""

from pathlib import Path

import pytest
from msgspec.structs import replace
from recorded import recorded
from test_comparison import MS, timed, variant

from loraprof.comparison.arms import disturbed, measured
from loraprof.comparison.differences import Profiled
from loraprof.comparison.ratios import Series, Timed
from loraprof.comparison.recordings import load_recorded
from loraprof.model.compare import ArmResult, Comparison
from loraprof.report.terminal.render import to_text

pytestmark = pytest.mark.slow


def profiled(place: Path, step_ns: int, *overrides: str) -> Profiled:
    return load_recorded(variant(recorded("tiny-llama-cpu", *overrides), place, timed(step_ns)))


@pytest.fixture
def passes(tmp_path: Path) -> dict[str, Profiled]:
    return {
        "full": profiled(tmp_path / "full.loraprof", 100 * MS, "arm=full"),
        "lora": profiled(tmp_path / "lora.loraprof", 80 * MS),
    }


def series(step_ns: int) -> Series:
    return Series(tuple(tuple(step_ns + (block * 7 + j) % 5 * 1000 for j in range(4)) for block in range(8)))


def compared(passes: dict[str, Profiled], **diverged: bool) -> Comparison:
    times = {"full": series(100 * MS), "frozen": series(50 * MS), "lora": series(80 * MS)}
    engine = Timed("full", times, series(100 * MS), "perf_counter_ns", "told so", diverged=frozenset(diverged))
    return measured("w", "d", engine, dict.fromkeys(times, ArmResult()), dict.fromkeys(times, 256), passes, ["last"])


def test_the_bound_and_the_verdicts_come_from_the_same_blocks(passes: dict[str, Profiled]) -> None:
    found = compared(passes)
    assert found.ideal is not None
    assert (found.ideal.of, found.ideal.to, found.ideal.verdict) == ("full", "frozen", "slower")
    assert found.ideal.low <= 2.0 <= found.ideal.high + 1e-4
    assert [(r.of, r.verdict) for r in found.ratios] == [("frozen", "faster"), ("lora", "faster")]
    assert found.recommendation is not None
    assert found.recommendation.startswith("Run lora")
    assert "G1" not in {f.id for f in found.findings}
    assert found.notes == ["stopped because told so", "last"]


def test_an_arm_that_alone_recomputes_is_a_finding(passes: dict[str, Profiled], tmp_path: Path) -> None:
    other = profiled(tmp_path / "c.loraprof", 80 * MS, "checkpointing=non-reentrant")
    finding = compared({**passes, "lora": other}).findings[0]
    assert (finding.id, finding.severity) == ("G1", "major")
    assert [e.value for e in finding.evidence] == ["none in full, some in lora"]


def test_other_tokens_forbid_the_comparison_and_are_said_first(passes: dict[str, Profiled]) -> None:
    recording = passes["lora"].recording
    more = replace(recording, workload=replace(recording.workload, tokens_per_step=10**6))
    found = compared({**passes, "lora": Profiled(passes["lora"].report, passes["lora"].samples_ns, more)})
    assert (found.findings[0].id, found.findings[0].severity) == ("G1", "blocker")
    assert "beware  G1: The arms differ in more than LoRA" in to_text(found, 80).decode()


def test_a_disturbed_profile_pass_is_told(passes: dict[str, Profiled], tmp_path: Path) -> None:
    slow = profiled(tmp_path / "slow.loraprof", 90 * MS)
    arms = {"full": ArmResult(median_ns=105 * MS), "lora": ArmResult(median_ns=80 * MS)}
    assert disturbed(passes, arms) == {}
    assert disturbed({**passes, "lora": slow}, arms) == {"lora": pytest.approx(1.125, rel=1e-3)}
    notes = compared({**passes, "lora": slow}).notes
    said = "disturbed profile pass, the same steps took another time in it: lora 1.12x; read the bars with care"
    assert said in notes


def test_a_loss_that_is_not_finite_is_not_hidden(passes: dict[str, Profiled]) -> None:
    found = compared(passes, lora=True)
    assert found.arms["lora"].loss_finite is False
    assert "not finite is the loss of lora: the time of such a step says nothing" in found.notes
    assert found.recommendation is not None
    assert "with a loss that is not finite: lora" in found.recommendation
