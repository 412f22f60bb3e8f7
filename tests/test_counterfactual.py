"""Full and frozen steps from a LoRA recording: predicted on a machine whose other steps can be simulated too."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from provoke import made, timing
from synthetic.lora import Shape, program
from synthetic.machine import Hardware
from synthetic.program import Module, Op, Program
from synthetic.simulate import Synthetic, simulate

import loraprof
from loraprof.analysis.prediction import replayed
from loraprof.analysis.prediction.counterfactual import _half, _interval
from loraprof.analysis.prediction.gradients import factor, missing_inputs
from loraprof.model.recording import GradientCost, ModuleCall, ParameterInfo, TrainingCost
from loraprof.model.report import Interval

SMALL = Shape(layers=2, hidden=512, ffn=1376, tokens=256)
MIDDLE = Shape(layers=2, hidden=2048, ffn=5632, tokens=1024)
LARGE = Shape(layers=2, hidden=4096, ffn=11008, tokens=4096, vocab=32000)
PROFILED = Hardware(host_percent=170)


def wall_ns(run: Synthetic) -> int:
    return sorted(s.end - s.start for s in run.truth)[1]


def untrained(shape: Shape) -> Program:
    """The frozen step: nothing is trained, gradients flow through."""

    def visit(item: Op | Module) -> Op | Module:
        if isinstance(item, Module):
            return replace(item, body=tuple(visit(child) for child in item.body))
        return replace(item, grad=(item.grad or ())[:1], params=()) if item.role == "head" else item

    made = program(replace(shape, arm="frozen"))
    root = visit(made.root)
    assert isinstance(root, Module)
    return replace(made, root=root, optimizer=())


def cost(shape: Shape, run: Synthetic) -> TrainingCost:
    """What a capture would measure on this machine: by the formula the programs take their durations from."""

    def gemm(m: int, n: int, k: int) -> int:
        moved = 2 * (m * k + k * n + m * n)
        return max(shape.shortest_ns, 2 * m * n * k // shape.flops_per_ns, moved // shape.bytes_per_ns)

    frozen = {p.module: p.shape for p in run.recording.parameters if not p.trainable}
    frozen |= {m.id: (shape.vocab, shape.hidden) for m in run.recording.modules if m.path == "lm_head"}
    count = sum(n * k for n, k in frozen.values())
    return TrainingCost(
        parameters=count,
        sampled=count,
        optimizer_ns=8 * max(12_000, count * 5 // shape.bytes_per_ns),
        clip_ns=0,
        accumulate_ns=0,
        gradients=[
            GradientCost(module=m, calls=1, weight_ns=gemm(n, k, shape.tokens), input_ns=gemm(shape.tokens, k, n))
            for m, (n, k) in frozen.items()
        ],
    )


def recorded(shape: Shape, hardware: Hardware) -> tuple[Path, int]:
    """A recording whose profiled host is that of ``hardware``, and the unprofiled step."""
    plain, run = simulate(program(shape)), simulate(program(shape), hardware)
    facts = msgspec.structs.replace(run.recording.workload, micro_batches=1, tokens_per_step=shape.tokens)
    place = made(run, timing=timing(plain), training_cost=cost(shape, run), workload=facts)
    return place, wall_ns(plain)


@pytest.mark.parametrize("hardware", [Hardware(), PROFILED])
@pytest.mark.parametrize(
    "shape",
    [
        SMALL,
        MIDDLE,
        replace(MIDDLE, variant="V5"),
        replace(MIDDLE, checkpoint=True),
        LARGE,
        replace(LARGE, variant="V5"),
    ],
)
def test_the_other_arms_are_predicted(shape: Shape, hardware: Hardware) -> None:
    """Within 15 % of the difference or 3 % of the step, launch-bound and not, whatever the profiler cost."""
    place, now = recorded(shape, hardware)
    adapter = loraprof.diagnose(place).adapter
    assert adapter is not None
    assert adapter.predicted_full_ns is not None
    assert adapter.predicted_frozen_ns is not None
    full, frozen = wall_ns(simulate(program(replace(shape, arm="full")))), wall_ns(simulate(untrained(shape)))
    for truth, predicted in (
        (full - now, adapter.predicted_full_ns - now),
        (now - frozen, now - adapter.predicted_frozen_ns),
    ):
        assert abs(predicted - truth) <= max(0.15 * abs(truth), 0.03 * now)


def test_a_small_step_is_bound_by_its_host_and_says_that_lora_is_slower() -> None:
    place, now = recorded(SMALL, PROFILED)
    verdict = loraprof.diagnose(place).verdict
    assert verdict.speedup_vs_full is not None
    assert verdict.speedup_vs_full < 0.6
    assert "predicted slower than" in verdict.sentence
    assert now > wall_ns(simulate(program(replace(SMALL, arm="full"))))


def test_streams_that_are_not_seen_to_wait_for_each_other_forbid_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the all-reduces' waits the gate fails, and the report says what it withholds."""
    monkeypatch.setattr(replayed, "with_waits", lambda trace, step, *floors: step)
    place, _ = recorded(replace(LARGE, comm_ns=8_000_000), PROFILED)
    report = loraprof.diagnose(place)
    assert report.replay is not None
    assert not report.replay.accepted
    assert report.adapter is not None
    assert report.adapter.predicted_full_ns is None
    assert report.adapter.predicted_frozen_ns is None
    assert report.verdict.speedup_vs_full is None
    assert any("what depends on idle time is not predicted" in note for note in report.closure.notes)


def test_a_step_that_mostly_communicates_does_not_tell_what_another_would_send() -> None:
    place, _ = recorded(replace(LARGE, comm_ns=8_000_000), PROFILED)
    report = loraprof.diagnose(place)
    assert report.replay is not None
    assert report.replay.accepted
    assert report.unprofiled is not None
    assert report.adapter is not None
    assert report.adapter.predicted_full_ns is None
    assert any("communicates in this step" in note for note in report.closure.notes)


def test_the_step_slows_the_measurement_down_never_up() -> None:
    known = [GradientCost(module=0, calls=2, weight_ns=50, input_ns=100), GradientCost(module=1, calls=1, weight_ns=9)]
    assert factor(known, {0: 300.0, 1: 70.0}) == 1.5
    assert factor(known, {0: 100.0}) == 1.0
    assert factor(known, {0: 9e9}) == 2.0
    assert factor(known, {5: 100.0}) == 1.0
    assert factor([], {}) == 1.0


def test_the_first_layer_needs_no_gradient_of_the_data() -> None:
    def weight(module: int, trainable: bool = False) -> ParameterInfo:
        return ParameterInfo(
            id=module, name="weight", module=module, shape=(4, 4), dtype="float32", trainable=trainable, device="cpu"
        )

    def call(module: int) -> ModuleCall:
        return ModuleCall(module=module, thread=1, before=0, after=1, recompute=False, step=0)

    known = [GradientCost(module=m, calls=1, weight_ns=1, input_ns=1) for m in (1, 2, 3)]
    base = simulate(program(SMALL), Hardware()).recording
    seen = msgspec.structs.replace(
        base, parameters=[weight(0, True), weight(1), weight(2), weight(3)], calls=[call(0), call(1), call(2), call(3)]
    )
    assert [g.module for g in missing_inputs(seen, known, {3: 5.0})] == [2]
    tabled = msgspec.structs.replace(seen, parameters=[weight(0), *seen.parameters[1:]])  # an embedding in front
    assert [g.module for g in missing_inputs(tabled, known, {3: 5.0})] == [1, 2]


@pytest.mark.parametrize(
    ("changed", "variant"),
    [({}, "V1"), ({"dropout": 0.1}, "V2"), ({"dtype": "float32"}, "V5"), ({"kind": "dora"}, None)],
)
def test_the_variant_that_runs(changed: dict[str, object], variant: str | None) -> None:
    run = simulate(program(SMALL))
    sites = [msgspec.structs.replace(s, **changed) for s in run.recording.sites]
    mixed = [*sites[:-1], run.recording.sites[-1]]
    found = [loraprof.diagnose(made(run, sites=those)).adapter for those in (sites, mixed)]
    assert [a and a.variant for a in found] == [variant, variant if not changed else None]


def test_spreads_add_like_independent_errors() -> None:
    """Half the range of each, 3 and 4 ns: 5 together; no step takes less than no time."""
    assert (_half([1.0, 7.0, 3.0]), _half([2.0])) == (3.0, 0.0)
    assert _interval(10.4, _half([1.0, 7.0]), 4.0) == Interval(low=5, high=15)
    assert _interval(3.0, 3.0, 4.0) == Interval(low=0, high=8)
