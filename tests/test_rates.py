"""Rates of a calibration: its own shapes exactly, others between them; and whether to believe it."""

import pytest

from loraprof.analysis.limits.rates import Rates, unsteady
from loraprof.model.recording import Calibration, CopyRate, GemmRate


def gemm(m: int, n: int, k: int, ns: int, dtype: str = "float32") -> GemmRate:
    return GemmRate(m=m, n=n, k=k, dtype=dtype, ns=ns)


def copies(**ns: int) -> list[CopyRate]:
    sizes = {"kb": 10**3, "mb": 10**6, "gb": 10**9}
    return [CopyRate(bytes=sizes[name], ns=value) for name, value in ns.items()]


STEADY = Calibration(
    gemm=[gemm(100, 100, 100, 20_000), gemm(1000, 1000, 1000, 2_000_000), gemm(200, 200, 200, 10**9, "bfloat16")],
    copy=copies(kb=100, mb=20_000, gb=50_000_000),
)


def test_a_calibrated_shape_is_its_own_answer() -> None:
    rates = Rates(STEADY)
    assert rates.gemm_ns(100, 100, 100, "float32") == 20_000
    assert rates.gemm_ns(100, 100, 100, "float16") is None
    assert rates.gemm_flops_per_s("float32") == pytest.approx(1e12)
    assert rates.gemm_flops_per_s("bfloat16") == pytest.approx(1.6e7)
    assert rates.gemm_flops_per_s("float16") is None
    assert rates.stream_bytes_per_s == 2e10


def test_other_shapes_and_sizes_lie_between() -> None:
    rates = Rates(STEADY)
    between = rates.gemm_ns(300, 300, 300, "float32")
    assert between is not None
    assert 2 * 300**3 / 1e12 < between / 1e9 < 2 * 300**3 / 1e11
    copied = rates.copy_ns(30_000)
    assert copied is not None
    assert 100 < copied < 20_000
    assert Rates(Calibration(gemm=[], copy=[])).copy_ns(1000) is None


def test_a_steady_calibration_is_believed() -> None:
    assert unsteady(STEADY) is None
    assert unsteady(Calibration(gemm=[], copy=[])) is None


def test_contradictions() -> None:
    slow = Calibration(gemm=[], copy=copies(kb=10, mb=200_000, gb=60_000_000))
    assert unsteady(slow) == "copies of 977 KiB were slower than smaller and larger ones"
    assert unsteady(Calibration(gemm=[], copy=copies(kb=10, mb=170_000, gb=60_000_000))) is None
    crossed = Calibration(gemm=[gemm(100, 100, 100, 30), gemm(200, 200, 200, 29)], copy=[])
    assert unsteady(crossed) == "a GEMM of 100 cubed took longer than one of 200"
