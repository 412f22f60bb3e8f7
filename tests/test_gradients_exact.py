"""What the gradients of frozen layers take, summed by hand."""

import numpy as np
import pytest
from calibrated import COST, RATES, UNIT, made
from ledgers import BUSY, ledger
from msgspec.structs import replace

from loraprof.analysis.limits.rates import Rates
from loraprof.analysis.prediction.gradients import factor, gradients, missing_inputs, module_ns, tied_ns
from loraprof.model.recording import (
    AdapterOps,
    Calibration,
    CountedOp,
    GradientCost,
    ModuleCall,
    ModuleInfo,
    ParameterInfo,
)
from loraprof.model.trace import NONE


def test_a_tied_table_has_two_gradients_that_are_added() -> None:
    """A head of the embedding's shape that owns no weight: three times 7 x 5 elements in two bytes, 10 ns a byte."""
    modules = [
        ModuleInfo(id=0, path="e", cls="Embedding"),
        ModuleInfo(id=1, path="h", cls="Linear", in_features=5, out_features=7),
    ]
    table = ParameterInfo(id=0, name="w", module=0, shape=(7, 5), dtype="bfloat16", trainable=False, device="cpu")
    tied = made(modules=modules, parameters=[table])
    assert tied_ns(tied, RATES) == pytest.approx(3 * 35 * 2 * 10)
    assert tied_ns(replace(tied, parameters=[replace(table, dtype="strange")]), RATES) == pytest.approx(3 * 35 * 4 * 10)
    assert tied_ns(tied, Rates(Calibration(gemm=[], copy=[]))) == 0
    for other in (
        [replace(table, trainable=True)], [replace(table, shape=(7, 6))], [],
        [table, replace(table, id=1, module=1)],
    ):  # fmt: skip
        assert tied_ns(replace(tied, parameters=other), RATES) == 0
    named = replace(tied, modules=[replace(modules[0], cls="Linear"), modules[1]])
    assert tied_ns(named, RATES) == 0


def counted(module: int, shapes: str, flops: int, phase: str = "forward") -> CountedOp:
    return CountedOp(module=module, phase=phase, op="mm", shapes=shapes, count=1, flops=flops, min_bytes=0)


def test_layers_that_were_not_measured_take_what_their_shapes_take() -> None:
    """Three modules of one site and a layer of another network; 8 tokens in 2 micro-batches."""
    modules = [
        ModuleInfo(id=0, path="w", cls="Linear", site=0, part="wrapper"),
        ModuleInfo(id=1, path="w.base", cls="Linear", site=0, part="base", in_features=5, out_features=7),
        ModuleInfo(id=2, path="w.down", cls="Linear", site=0, part="down", in_features=5, out_features=2),
        ModuleInfo(id=3, path="other", cls="Linear", in_features=3, out_features=3, root=3),
    ]
    weight = ParameterInfo(id=0, name="w", module=1, shape=(7, 5), dtype="float32", trainable=False, device="cpu")
    base = made(modules=modules, parameters=[weight], training_cost=replace(COST, gradients=[]))
    told = replace(base, workload=replace(base.workload, micro_batches=2, tokens_per_step=8))
    took = round(RATES.gemm_ns(7, 5, 4, "float32") or 0)
    other = round(RATES.gemm_ns(4, 5, 7, "float32") or 0)
    expected = [GradientCost(module=1, calls=2, weight_ns=took, input_ns=other)]
    assert gradients(told, RATES) == expected
    assert (
        gradients(replace(told, calls=[ModuleCall(0, 1, 0, 1, False, 0)]), RATES) == expected
    )  # its wrapper was called
    assert gradients(replace(told, calls=[ModuleCall(3, 1, 0, 1, False, 0)]), RATES) == []
    assert gradients(told, Rates(replace(UNIT, gemm=[]))) is None
    untold = replace(told, workload=replace(told.workload, tokens_per_step=None))
    assert gradients(untold, RATES) is None
    rows = [
        counted(1, "1x1 2x2", 2 * 35 * 6), counted(0, "8x5 7x5", 2 * 35 * 2), counted(0, "8x5 5x2", 10**6),
        counted(3, "8x5 7x5", 10**6), counted(1, "1x1", 10**6, "backward"),
    ]  # fmt: skip
    assert gradients(replace(untold, counted=rows), RATES) == expected
    bf16 = [replace(weight, dtype="bfloat16")]
    assert gradients(replace(told, parameters=bf16), RATES) is None  # nothing was calibrated in its dtype
    assert gradients(replace(told, parameters=[]), RATES) == expected  # else its adapter's dtype
    labelled = [AdapterOps(3, "mm", ((0, "adapter.down"), None))]  # type: ignore[arg-type]
    both = gradients(replace(told, adapter_ops=labelled), RATES)
    assert both is not None
    assert [g.module for g in both] == [1, 3]


def test_products_that_an_adapted_layer_computes_itself_are_its_base_s() -> None:
    modules = [
        ModuleInfo(id=i, path=p, cls="Linear", site=0, part=p) for i, p in enumerate(("wrapper", "base", "down"))
    ]
    modules += [ModuleInfo(id=3, path="x", cls="Linear"), ModuleInfo(id=4, path="y", cls="Linear", part="base")]
    rows = ledger(
        (BUSY, "backward", "base.linear", 0, 3), (BUSY, "backward", "adapter.down", 0, 5),
        (BUSY, "backward", "other", 9, 7), (BUSY, "forward", "base.linear", 0, 11),
        (-1, "backward", "base.linear", 0, 13), (BUSY, "backward", "loss", NONE, 17),
        (BUSY, "backward", "base.linear", 3, 19), (BUSY, "backward", "base.linear", 4, 23),
    )  # fmt: skip
    found = module_ns(rows, rows.ns.astype(np.float64), "backward", made(modules=modules))
    assert found == {0: 5, 1: 3, 3: 19, 4: 23, 9: 7}
    assert module_ns(ledger((-1, "other", "other", NONE, 3)), np.ones(1), "backward", made(modules=[])) == {}


def test_input_gradients_that_a_step_did_without() -> None:
    known = [GradientCost(module=m, calls=1, weight_ns=5, input_ns=ns) for m, ns in enumerate((10, 20, None, 40))]
    modules = [ModuleInfo(id=i, path=str(i), cls="Linear") for i in range(4)]
    weights = [
        ParameterInfo(id=i, name="w", module=i, shape=(7, 5), dtype="float32", trainable=i == 0, device="cpu")
        for i in range(4)
    ]
    base = made(modules=modules, parameters=weights, calls=[ModuleCall(m, 1, 0, 1, False, 0) for m in (0, 1, 3)])
    assert [g.module for g in missing_inputs(base, known, {0: 1.0})] == [3]  # 1 is the first that owns frozen weights
    assert [g.module for g in missing_inputs(replace(base, calls=[]), known, {})] == [0, 1, 3]
    assert factor(known, {0: 15.0, 1: 30.0, 2: 99.0}) == 1.5
    assert factor(known, {0: 5.0}) == 1.0
    assert factor(known, {0: 25.0}) == 2.0
    assert factor(known, {2: 5.0}) == 1.0
