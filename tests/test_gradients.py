"""What the gradients of frozen layers would take: which layers need one, of how many rows, at which rate."""

from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from synthetic.lora import Shape, program
from synthetic.simulate import simulate

from loraprof.analysis.prediction.gradients import gradients, module_ns
from loraprof.model.recording import (
    CountedOp,
    GradientCost,
    ModuleCall,
    ModuleInfo,
    ParameterInfo,
    Recording,
    TrainingCost,
)
from loraprof.model.vocabulary import PHASE, ROLE

BASE = simulate(program(Shape(layers=1, hidden=64, ffn=96, tokens=64, vocab=128)), None).recording


class Rates:
    """A product takes as many ns as it has rows, columns and terms."""

    def __init__(self, known: bool = True) -> None:
        self.known = known

    def gemm_ns(self, m: int, n: int, k: int, dtype: str) -> float | None:
        return float(1000 * m + 100 * n + k) if self.known else None


def linear(id: int, cls: str = "Linear", n: int = 3, k: int = 5, **more: Any) -> ModuleInfo:
    return ModuleInfo(id=id, path=f"m{id}", cls=cls, out_features=n, in_features=k, **more)


def weight(id: int, module: int, trainable: bool = False, shape: tuple[int, ...] = (3, 5)) -> ParameterInfo:
    return ParameterInfo(
        id=id, name="weight", module=module, shape=shape, dtype="bfloat16", trainable=trainable, device="cuda:0"
    )


def call(module: int) -> ModuleCall:
    return ModuleCall(module=module, thread=1, before=0, after=1, recompute=False, step=0)


def recording(*modules: ModuleInfo, tokens: int | None = 8, micro: int | None = 2, **changes: Any) -> Recording:
    facts = msgspec.structs.replace(BASE.workload, tokens_per_step=tokens, micro_batches=micro)
    known = {"modules": list(modules), "parameters": [weight(i, m.id) for i, m in enumerate(modules)]}
    plain: dict[str, Any] = {"sites": [], "calls": [], "counted": [], "training_cost": None, "workload": facts}
    return msgspec.structs.replace(BASE, **{**plain, **known, **changes})


def found(one: Recording, known: bool = True) -> list[tuple[int, int, int, int | None]] | None:
    rates: Any = Rates(known)
    made = gradients(one, rates)
    return None if made is None else [(g.module, g.calls, g.weight_ns, g.input_ns) for g in made]


def test_a_linear_layer_is_two_products_per_micro_batch() -> None:
    """Of 4 tokens: dW = 3 x 5 over 4, dX = 4 x 5 over 3."""
    assert found(recording(linear(0))) == [(0, 2, 3504, 4503)]
    assert found(recording(linear(0), micro=None)) == [(0, 1, 3508, 8503)]
    assert found(recording(linear(0)), known=False) is None  # no rate, no time


def test_what_was_measured_is_not_reckoned() -> None:
    cost = TrainingCost(
        parameters=1, sampled=1, optimizer_ns=0, clip_ns=0, accumulate_ns=0,
        gradients=[GradientCost(module=1, calls=7, weight_ns=11, input_ns=13)],
    )  # fmt: skip
    both = recording(linear(0), linear(1), training_cost=cost)
    assert found(both) == [(1, 7, 11, 13), (0, 2, 3504, 4503)]
    assert found(recording(linear(1), linear(1), training_cost=cost), known=False) == [(1, 7, 11, 13)]


def test_layers_that_run_and_could_train() -> None:
    one, two = linear(0), linear(1)
    assert found(recording(one, two, calls=[call(1)])) == [(1, 2, 3504, 4503)]
    trained = [weight(0, 0, trainable=True), weight(1, 1)]
    assert found(recording(one, two, parameters=trained)) == [(1, 2, 3504, 4503)]
    assert found(recording(one, linear(1, cls="Embedding"))) == [(0, 2, 3504, 4503)]
    assert found(recording(linear(0, part="base", site=0))) == [(0, 2, 3504, 4503)]
    assert found(recording(one, linear(1, part="down", site=0, root=0))) is not None
    assert found(recording(one, linear(1, part="down"))) == [(0, 2, 3504, 4503)]


@pytest.mark.parametrize("calls", [[], [call(1)]])
def test_a_convolution_that_was_not_measured_is_not_known(calls: list[ModuleCall]) -> None:
    assert found(recording(linear(0), linear(1, cls="Conv2d"), calls=calls)) is None
    assert found(recording(linear(0), linear(1, cls="Conv2d"), calls=[call(0)])) == [(0, 2, 3504, 4503)]


def test_rows_by_what_was_counted_where_no_tokens_are_known() -> None:
    """2 x 3 x 5 x 12 FLOPs forward are 12 rows, 6 per micro-batch."""

    def counted(phase: str, rows: int) -> CountedOp:
        return CountedOp(module=0, phase=phase, op="aten::mm", shapes="", count=1, flops=2 * 3 * 5 * rows, min_bytes=0)

    seen = [counted("forward", 12), counted("backward", 100)]
    assert found(recording(linear(0), tokens=None, counted=seen)) == [(0, 2, 3506, 6503)]
    assert found(recording(linear(0), tokens=None)) is None


def test_time_of_modules_in_a_phase() -> None:
    """A frozen layer's product that its adapted layer computes itself (module 1) is the frozen layer's (module 2)."""
    ledger: Any = SimpleNamespace(
        busy=np.array([True, True, True, False, True, True]),
        phase=np.array([PHASE["backward"]] * 4 + [PHASE["forward"], PHASE["backward"]]),
        module=np.array([2, 1, -1, 2, 2, 1]),
        role=np.array([ROLE["base.linear"]] * 5 + [ROLE["adapter.down"]]),
    )
    one = recording(linear(0), linear(1, site=0, part="wrapper"), linear(2, site=0, part="base"))
    time = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    assert module_ns(ledger, time, "backward", one) == {1: 32.0, 2: 3.0}
    assert module_ns(ledger, time, "forward", one) == {2: 16.0}
