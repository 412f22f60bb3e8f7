"""What a change that answers no finding would give, held against the step that has it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from provoke import CALIBRATION, made, synthetic
from synthetic.presets import preset
from synthetic.program import Op, Program
from synthetic.simulate import Synthetic, simulate

from loraprof.diagnosis.case import Case
from loraprof.diagnosis.expected import expected
from loraprof.diagnosis.load import diagnosis_of
from loraprof.diagnosis.remedies.host import LOADERS
from loraprof.live_remedies.data import WORKERS
from loraprof.model.finding import Gain
from loraprof.model.recording import GemmRate
from loraprof.store.recordings import load_source


def case_of(place: Path) -> Case:
    found = diagnosis_of(load_source(place)).case
    assert found is not None
    return found


def gain_of(place: Path, arm: str) -> Gain:
    found = expected(case_of(place))[arm]
    assert isinstance(found, Gain), found
    return found


def named(run: Synthetic, **facts: Any) -> dict[str, Any]:
    return {"workload": msgspec.structs.replace(run.recording.workload, **facts)}


def wall_ns(run: Synthetic) -> int:
    return sorted(s.end - s.start for s in run.truth)[1]


def fused(program: Program) -> Program:
    """All kernels of the optimizer as one."""
    ops: list[Op] = [op for op in program.optimizer if op.kernels]
    whole = replace(ops[0].kernels[0], ns=sum(k.ns for op in ops for k in op.kernels))
    return replace(program, optimizer=(replace(ops[0], kernels=(whole,)),))


def test_a_fused_optimizer_launches_once() -> None:
    program, hardware = preset("launch-bound")
    slow = tuple(replace(op, gap=20_000, kernels=(replace(op.kernels[0], ns=3_000),)) for op in program.optimizer)
    program = replace(program, optimizer=slow)
    run, other = simulate(program, hardware), simulate(fused(program), hardware)
    gain = gain_of(made(run, **named(run, optimizer="AdamW(foreach)")), "fused-optimizer")
    truth = wall_ns(run) / wall_ns(other)
    assert truth > 1.02
    assert gain.low <= truth <= gain.high
    assert gain.speedup == pytest.approx(truth, rel=0.01)


def test_an_unknown_optimizer_is_said_in_words() -> None:
    run = synthetic("launch-bound")
    found = expected(case_of(made(run, **named(run, optimizer="Lion"))))
    assert found["fused-optimizer"] == "the recording does not say which optimizer runs"
    assert isinstance(found["compile-blocks"], str)
    assert isinstance(found["foreach-optimizer"], str)


@pytest.mark.parametrize("load_ns", [4_000_000, 400_000_000])
def test_workers_take_the_wait_for_the_batch_as_far_as_they_are_fast_enough(load_ns: int) -> None:
    run = synthetic("data-bound", lambda program: replace(program, load_ns=load_ns))
    gain = gain_of(made(run), "loader-workers")
    waited = sum(ns for (cause, *_), ns in run.truth[1].idle.items() if cause == "data")
    assert gain.ns == pytest.approx(min(waited, wall_ns(run) - waited / LOADERS), rel=0.02)
    assert LOADERS == WORKERS  # that are started where it is measured
    nothing = gain_of(made(synthetic("bandwidth-v1")), "loader-workers")
    assert nothing.speedup == pytest.approx(1.0, abs=0.002)
    assert nothing.low < 1 < nothing.high


@pytest.mark.parametrize(("half_over_single", "faster"), [(0.25, True), (2.0, False)])
def test_autocast_is_worth_the_ratio_of_the_calibrated_rates_less_its_casts(
    half_over_single: float, faster: bool
) -> None:
    run = synthetic("bandwidth-v5")  # fp32 products of the adapters
    assert "no product was calibrated in bfloat16" in str(expected(case_of(made(run, **_rates(None))))["autocast"])
    gain = gain_of(made(run, **_rates(half_over_single)), "autocast")
    assert (gain.speedup > 1) == faster
    assert gain.low < gain.speedup < gain.high


def _rates(half_over_single: float | None) -> dict[str, Any]:
    single = GemmRate(m=512, n=512, k=512, dtype="float32", ns=1_000_000)
    half = msgspec.structs.replace(single, dtype="bfloat16", ns=round(1_000_000 * (half_over_single or 1)))
    gemm = [single, half] if half_over_single else [single]
    return {"calibration": msgspec.structs.replace(CALIBRATION, gemm=gemm)}


def test_nothing_is_expected_without_a_step_time() -> None:
    found = expected(case_of(made(synthetic("bandwidth-v1"), timing=None)))
    assert set(found.values()) == {"no step was timed without the profiler"}
