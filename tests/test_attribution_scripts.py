"""Roles of what no preset covers: LoRA written by hand in many ways, layers with names that say nothing, other models.

Counts and sums only: what ran is known, how long it took is not.
"""

from functools import cache

import pytest
from recorded import profiled

import loraprof
from loraprof.model.report import Report

pytestmark = pytest.mark.slow
WAYS = ("parameters", "functional", "parametrized", "outside", "fused")


@cache
def reported(script: str, word: str) -> Report:
    return loraprof.diagnose(profiled(script, word, timed=1, steps=1))


def ops(report: Report, name: str, **where: str) -> int:
    return sum(k.count for k in report.kernels if k.op == name and all(getattr(k, f) == v for f, v in where.items()))


def unplaced(report: Report) -> list[str]:
    """Ops of the model without a module or a role; the loop's own lines aside."""
    placed = [k for k in report.kernels if k.phase != "other"]
    return [f"{k.op} in {k.module}" for k in placed if k.role == "other" or not k.module]


@pytest.mark.parametrize("way", WAYS)
def test_handwritten_lora(way: str) -> None:
    report = reported("handwritten.py", way)
    assert unplaced(report) == []
    assert report.adapter is not None
    layers = 2 if way == "fused" else 8  # qkv, out, up, down of two blocks
    assert report.adapter.modules == layers
    assert report.adapter.rank == (8 if way == "fused" else 4)
    assert report.closure.attribution_disagreements == 0
    roles = {p.role for p in report.steps[0].partition}
    assert {"base.linear", "adapter.down", "adapter.up", "adapter.elementwise", "attention", "norm", "head"} <= roles
    passes = 2 if way == "functional" else 1  # LBFGS calls its closure twice
    assert ops(report, "aten::bmm", role="attention", phase="forward") == 2 * 2 * passes
    assert ops(report, "aten::rsqrt", role="norm", phase="forward") == 5 * passes
    assert ops(report, "aten::mm", role="head", phase="forward") == passes
    assert report.timing.tokens_per_step == 4 * 24 * passes
    products = sum(ops(report, "aten::mm", role=f"adapter.{side}", phase="forward") for side in ("down", "up"))
    assert products == {"parametrized": layers, "fused": layers}.get(way, 2 * layers * passes)


def test_a_closure_is_not_the_optimizer() -> None:
    """LBFGS runs forward, loss and backward inside its step."""
    report = reported("handwritten.py", "functional")
    step = report.steps[0]
    assert {p.phase for p in step.partition if p.kind == "busy"} >= {"forward", "backward", "optimizer"}
    assert ops(report, "aten::_log_softmax", role="loss", phase="forward") == 2
    assert not [k for k in report.kernels if k.role == "optimizer" and k.phase != "optimizer"]
    assert not [k for k in report.kernels if k.phase == "optimizer" and k.op == "aten::gelu"]


@pytest.mark.parametrize(
    ("name", "layers", "tokens"),
    [("t5", 20, 3 * (20 + 12)), ("clip", 12, 3 * 20), ("mixtral", 4, 3 * 20), ("bloom", 2, 3 * 20)],
)
def test_models_that_no_preset_has(name: str, layers: int, tokens: int) -> None:
    report = reported("models.py", name)
    assert report.adapter is not None
    assert report.adapter.modules == layers
    assert report.timing.tokens_per_step == tokens
    busy = sum(p.ns for p in report.steps[0].partition if p.kind == "busy")
    assert len(unplaced(report)) <= 0.02 * len(report.kernels), unplaced(report)
    assert report.closure.unattributed_ns <= 0.01 * busy


def test_experts_are_linear_layers_and_their_routing_moves_the_stream() -> None:
    report = reported("models.py", "mixtral")
    experts = [k for k in report.kernels if k.module and k.module.endswith("experts")]
    assert {k.role for k in experts if k.op == "aten::mm"} == {"base.linear"}
    assert {k.role for k in experts if k.op == "aten::index"} == {"residual"}
    assert not [k for k in experts if k.role == "attention"]


def test_an_autograd_function_of_the_model_has_its_module_s_role() -> None:
    report = reported("models.py", "bloom")
    assert {k.role for k in report.kernels if k.module and k.module.endswith("gelu_impl")} == {"activation"}
