"""What changes would give that answer no finding, in numbers worked out by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from handmade import case, kernels, worths

from loraprof.analysis.limits.rates import Rates
from loraprof.diagnosis import expected
from loraprof.diagnosis.case import spread_ns
from loraprof.diagnosis.worth import Worth, gained
from loraprof.model.recording import Calibration, GemmRate
from loraprof.model.report import Unprofiled
from loraprof.model.vocabulary import ROLE


def bounds(found: Worth | str) -> tuple[float, ...]:
    assert isinstance(found, Worth), found
    return found.low, found.ns, found.high


@pytest.mark.parametrize(
    ("saved", "steps", "step_ns"),  # of 1000 ns: the steps' ends, and the step without what is saved at most to least
    [
        (Worth(100, 90, 110), (980, 1040), (870, 900, 930)),
        (Worth(100, 50, 150), (980, 1040), (850, 900, 950)),
        (Worth(100, 100, 100), (1000, 1000), (895, 900, 905)),
        (Worth(-50, -60, -40), (1000, 1000), (1040, 1050, 1060)),
        (Worth(990, 900, 2000), (1000, 1000), (50, 50, 100)),
    ],
)
def test_a_gain_may_be_a_loss(saved: Worth, steps: tuple[int, int], step_ns: tuple[int, ...]) -> None:
    spread = spread_ns(Unprofiled(median_ns=1000, low_ns=steps[0], high_ns=steps[1], steps=9))
    found = gained(1000, saved.give_or_take(spread))
    assert found.ns == saved.ns
    assert (found.high, found.speedup, found.low) == pytest.approx([1000 / ns for ns in step_ns])


def test_ends_hold_what_is_likely() -> None:
    assert bounds(expected._bounded(5, 7, 3)) == (5, 5, 5)
    assert bounds(expected._bounded(5, 3, 7)) == (3, 5, 7)


@pytest.mark.parametrize(
    ("moved", "bytes_per_s", "least_likely_most"),
    [  # 410 bytes are trained: 2870 in seven passes; two ops of 100 ns
        (5740, 1e9, (0.7 * 4800, 10_000 - (3070 + 5200) / 2, 12_000)),
        (5740, 1e8, (2400, 2400, 12_000)),  # a slow memory: no longer than now
        (1000, 1e9, (0, 10_000 - (3070 + 10_000) / 2, 12_000)),  # more than moves now
    ],
)
def test_a_fused_optimizer_passes_over_its_tensors_once(
    moved: int, bytes_per_s: float, least_likely_most: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    worths(monkeypatch, expected, Worth(10_000, 9000, 12_000))
    shapes = (((10, 10), "float32", True), ((5,), "bfloat16", True), ((99, 99), "float32", False))
    parameters = [SimpleNamespace(shape=s, dtype=d, trainable=t) for s, d, t in shapes]
    given = case(
        on_gpu=False,
        recording=SimpleNamespace(parameters=parameters, calibration=SimpleNamespace(op_ns=100)),
        workload=SimpleNamespace(optimizer="AdamW(foreach)"),
        kernels=[kernels(role="optimizer", min_bytes=moved), kernels(role="norm", min_bytes=999)],
        rates=SimpleNamespace(stream_bytes_per_s=bytes_per_s),
    )
    assert bounds(expected._fused_optimizer(given)) == pytest.approx(least_likely_most)


def test_a_fused_optimizer_on_a_gpu_is_one_launch() -> None:
    """Records of 100, 200 and 300 ns, the second another's; where they are merged, 50 ns of launches go."""

    def edited_ns(left: Any, launched: Any, merged: Any, share: float) -> float:
        assert share == 1.0
        assert launched.tolist() == [1, 1, 1]
        return float((left * [100, 200, 300]).sum()) - (0 if merged is None else 25 * int(merged.sum()))

    own = np.array([ROLE["optimizer"], ROLE["norm"], ROLE["optimizer"]])
    replay = SimpleNamespace(sigma=1.0, record_role=own, edited_ns=edited_ns)
    found = expected._fewer_launches(case(replay=replay), 0.5)
    assert bounds(found) == pytest.approx((0.7 * 50, 250, 1.3 * 250))
    assert isinstance(expected._fewer_launches(case(replay=None), 0.5), str)


@pytest.mark.parametrize(
    ("host_ns", "op_ns", "most"), [(50, 20, 4 * 30), (400, 20, 1000), (20, 50, 0), (None, 20, None), (50, 0, None)]
)
def test_ops_called_from_cpp(
    host_ns: int | None, op_ns: int, most: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    worths(monkeypatch, expected, Worth(1000, 900, 1100))
    records = [SimpleNamespace(role=role) for role in ("optimizer", "norm", *["optimizer"] * 3)]
    calibration = SimpleNamespace(host_ns=host_ns, op_ns=op_ns)
    given = case(on_gpu=False, records=records, recording=SimpleNamespace(calibration=calibration))
    found = expected._foreach_optimizer(given)
    if most is None:
        assert found == "what calling an op from Python costs was not calibrated"
    else:
        assert bounds(found) == pytest.approx((0, most, 1.3 * most))


def product(op: str, *dims: Any, phase: str = "forward") -> Any:
    return SimpleNamespace(op=op, dims=dims, phase=phase, gemm_type="float")


ONE = product("aten::addmm", (5,), (4, 10), (10, 5))
BATCH = product("aten::bmm", (2, 4, 10), (2, 10, 5), phase="backward")


@pytest.mark.parametrize(
    ("ratio", "on_gpu", "least_likely_most"),
    [  # three casts of 130 elements, 6 bytes each, 10 ns per byte: 7800 ns
        (0.25, True, (0.5 * 750e3 - 10_140, 750e3 - 7800, 825e3)),
        (0.25, False, (0.5 * 750e3 - 10_140 - 120e3, 750e3 - 7800 - 45e3, 825e3)),
        (0.7, True, (90e3 - 10_140, 300e3 - 7800, 510e3)),
    ],
)
def test_products_in_half_precision(
    ratio: float, on_gpu: bool, least_likely_most: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    worths(monkeypatch, expected, Worth(1e6, 0.9e6, 1.1e6))
    monkeypatch.setattr(expected, "_half_over_single", lambda *_: ratio)
    monkeypatch.setattr(expected, "like", lambda *_: None)
    monkeypatch.setattr(expected, "of_rows", lambda *_: None)
    rates = SimpleNamespace(copy_ns=lambda nbytes: 10.0 * nbytes)
    found = expected._autocast(case(on_gpu=on_gpu, records=[ONE, BATCH], rates=rates))
    assert bounds(found) == pytest.approx(least_likely_most)
    assert isinstance(found, Worth)
    assert found.basis == "assumed"


def test_the_ratio_of_the_calibrated_rates_over_all_products() -> None:
    assert expected._sizes(ONE) == (4, 5, 10)
    assert expected._sizes(BATCH) == (8, 5, 10)
    assert expected._sizes(product("aten::mm", (4, 10), (10, 5))) == (4, 5, 10)
    assert expected._sizes(product("aten::conv2d", (4, 10), (10, 5))) is None
    assert expected._sizes(product("aten::mm", (4, 10), "?")) is None
    assert expected._sizes(product("aten::mm", (4, 10), (7,))) is None
    assert expected._cast([ONE, BATCH]) == [40, 50, 40]
    times = {(4, "float32"): 100, (4, "bfloat16"): 50, (8, "float32"): 300, (8, "bfloat16"): 60}
    gemm = [GemmRate(m=m, n=5, k=10, dtype=dtype, ns=ns) for (m, dtype), ns in times.items()]

    def ratio(*rates: GemmRate) -> float | None:
        known = Rates(Calibration(gemm=[*rates], copy=[], launch_floor_ns=None))
        return expected._half_over_single(case(rates=known), [ONE, BATCH])

    assert ratio(*gemm) == pytest.approx(110 / 400)
    assert ratio(gemm[0], gemm[3]) is None  # no shape in both
    assert ratio() is expected._half_over_single(case(), [ONE]) is None
