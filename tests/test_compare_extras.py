"""``compare --quality`` and ``--iso-memory``: what they add to a comparison."""

import math
from typing import Any

import pytest
from msgspec.structs import replace

from loraprof.capture.job import Job, Outcome
from loraprof.cli import compare_extras
from loraprof.cli.compare_extras import with_iso_memory, with_quality
from loraprof.model.compare import ArmResult, Comparison
from loraprof.model.workload import WorkloadSpec
from loraprof.store.specs import load_workload
from loraprof.workloads.build import shrink

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
    assert all(last < first for first, last in zip(full.initial_loss, full.final_loss, strict=True))
    assert found.arms["dora"].final_loss is None


def test_a_loss_that_is_not_finite_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(spec: Any, arm: str, steps: int, seed: int) -> list[float]:
        return [2.0, math.nan if seed == 1 else 1.0]

    monkeypatch.setattr(compare_extras, "train", train)
    found = with_quality(comparison(lora=ArmResult()), tiny(), 2, quietly)
    assert "arm lora diverges: its loss is not finite with seed 1" in found.notes


def test_the_largest_batch_is_said_in_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_job(job: Job) -> Outcome:
        assert job.spec is not None
        fixed = {"full": 600, "lora": 200, "dora": 2000}[job.arm]
        batch = job.spec.batch
        return Outcome(times_ns=[batch * 10**6] * 3, tokens_per_step=batch * 100, peak_bytes=(fixed + 50 * batch) * MIB)

    monkeypatch.setattr(compare_extras, "run_job", run_job)
    monkeypatch.setattr(compare_extras, "available_bytes", lambda _: 10**12)
    before = comparison(full=ArmResult(), lora=ArmResult(), dora=ArmResult(), top=ArmResult(status="refused"))
    found = with_iso_memory(before, tiny(), 1000 * MIB, quietly)
    assert {name: arm.iso_batch for name, arm in found.arms.items()} == {
        "full": 8,
        "lora": 16,
        "dora": None,
        "top": None,
    }
    assert found.arms["lora"].iso_tokens_per_s == pytest.approx(100_000)
    assert found.recommendation is not None
    assert found.recommendation.startswith("Run lora. Within 1,000 MiB full takes batch 8 and 100,000 tokens/s, lora")
    assert "arm dora: not even a batch of 1 fits into 1,000 MiB" in found.notes
    monkeypatch.setattr(compare_extras, "available_bytes", lambda _: 500 * MIB)
    lowered = with_iso_memory(before, tiny(), 1000 * MIB, quietly)
    assert lowered.arms["lora"].iso_batch == 4
    assert "memory limit lowered to 400 MiB: more is not free here" in lowered.notes
