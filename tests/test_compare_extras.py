"""``compare --quality`` and ``--iso-memory``: what they add to a comparison."""

import math
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from benchmarks.shrink import shrink
from loraprof.capture.device.cpu import Cpu
from loraprof.model.compare import ArmResult, Comparison, Ratio
from loraprof.model.workload import WorkloadSpec
from loraprof.runs.compare import extras as compare_extras
from loraprof.runs.compare.extras import with_iso_memory, with_quality
from loraprof.runs.compare.job import Job, Outcome
from loraprof.store.specs import load_workload

MIB = 2**20


def tiny() -> WorkloadSpec:
    return replace(shrink(load_workload("tiny-llama-cpu")), device="cpu")


def comparison(**arms: ArmResult) -> Comparison:
    return Comparison(
        workload="tiny",
        device_name="CPU",
        arms=arms,
        ratios=[],
        noise_floor=None,
        waterfall=None,
        findings=[],
        predicted=None,
        recommendation="Run lora.",
    )


def quietly(_: str) -> None:
    pass


def test_every_arm_that_runs_is_trained_with_three_seeds() -> None:
    before = comparison(full=ArmResult(), lora=ArmResult(), dora=ArmResult(status="oom", reason="too big"))
    found = with_quality(before, tiny(), 20, quietly)
    full, lora = found.arms["full"], found.arms["lora"]
    assert full.initial_loss is not None
    assert full.final_loss is not None
    assert len(full.initial_loss) == len(full.final_loss) == 3
    assert len(set(full.final_loss)) == 3
    assert full.initial_loss == pytest.approx(lora.initial_loss)  # the same weights and batches
    assert all(last < first for first, last in zip(full.initial_loss, full.final_loss, strict=True))  # type: ignore[operator]
    assert found.arms["dora"].final_loss is None


def test_a_loss_that_is_not_finite_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(spec: Any, arm: str, steps: int, seed: int) -> list[float]:
        return [2.0, math.nan if seed == 1 else 1.0]

    monkeypatch.setattr(compare_extras, "train", train)
    found = with_quality(comparison(lora=ArmResult()), tiny(), 2, quietly)
    assert "training diverges, its loss is not finite: lora (seed 1)" in found.notes
    assert found.arms["lora"].initial_loss == [2.0, 2.0, 2.0]
    assert found.arms["lora"].final_loss == [1.0, None, 1.0]
    assert msgspec.json.decode(msgspec.json.encode(found), type=Comparison) == found


def test_a_training_run_out_of_memory_and_one_too_short(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(spec: Any, arm: str, steps: int, seed: int) -> list[float]:
        if arm == "dora":
            raise MemoryError("out of memory")
        return [4.0, 3.5] if arm == "lora" else [4.0, 3.0]

    monkeypatch.setattr(compare_extras, "train", train)
    before = comparison(full=ArmResult(), lora=ArmResult(), dora=ArmResult())
    found = with_quality(before, tiny(), 2, quietly)
    assert found.notes == [
        "arm dora ran out of memory in its training run: what it learns is not known",
        "in 2 steps no arm loses half of its first loss: too few to tell what the arms learn",
    ]
    assert found.arms["dora"].final_loss is None
    assert found.quality_steps == 2


def test_what_is_learnt_decides_what_is_recommended(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = {"full": 1.0, "lora": 3.0}
    monkeypatch.setattr(compare_extras, "train", lambda spec, arm, steps, seed: [4.0, ends[arm]])
    faster = Ratio(of="lora", to="full", ratio=0.8, low=0.79, high=0.81, verdict="faster")
    before = replace(comparison(full=ArmResult(), lora=ArmResult()), ratios=[faster])
    told = with_quality(before, tiny(), 2, quietly).recommendation
    assert told is not None
    assert "learning visibly worse than full in the same steps: lora" in told
    ends["lora"] = 1.1
    told = with_quality(before, tiny(), 2, quietly).recommendation
    assert told is not None
    assert told.startswith("Run lora")


def test_the_largest_batch_is_said_in_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_job(job: Job) -> Outcome:
        assert job.spec is not None
        fixed = {"full": 600, "lora": 200, "dora": 2000}[job.arm]
        batch = job.spec.batch
        return Outcome(times_ns=[batch * 10**6] * 3, tokens_per_step=batch * 100, peak_bytes=(fixed + 50 * batch) * MIB)

    monkeypatch.setattr(compare_extras, "run_job", run_job)
    monkeypatch.setattr(Cpu, "available_bytes", lambda _: 10**12)
    slower = Ratio(of="lora", to="full", ratio=1.2, low=1.1, high=1.3, verdict="slower")
    arms = {"full": ArmResult(), "lora": ArmResult(), "dora": ArmResult(), "top": ArmResult(status="refused")}
    before = replace(comparison(**arms), ratios=[slower])
    found = with_iso_memory(before, tiny(), 1000 * MIB, quietly)
    assert {name: arm.iso_batch for name, arm in found.arms.items()} == {
        "full": 8,
        "lora": 16,
        "dora": None,
        "top": None,
    }
    assert found.arms["lora"].iso_tokens_per_s == pytest.approx(100_000)
    assert found.arms["lora"].iso_peak_bytes == 1000 * MIB
    assert found.recommendation == ("Run lora. Within 1,000 MiB: full runs batch 8 at 100,000 tokens/s.")
    assert "not even a batch of 1 fits into 1,000 MiB: dora" in found.notes
    monkeypatch.setattr(Cpu, "available_bytes", lambda _: 500 * MIB)
    lowered = with_iso_memory(before, tiny(), 1000 * MIB, quietly)
    assert lowered.arms["lora"].iso_batch == 4
    assert "memory limit lowered to 400 MiB: more is not free here" in lowered.notes
