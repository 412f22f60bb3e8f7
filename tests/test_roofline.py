"""Roofs: which ceiling binds a kernel, at which time, and what explains one that ran faster."""

import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from loraprof.analysis.limits.roofline import (
    MOST_LIFT,
    TOLERANCE,
    Ceiling,
    Reached,
    Roof,
    bound_of,
    calibrated,
    data_sheet,
    lifted,
    note,
    roof,
)
from loraprof.analysis.work import work_of
from loraprof.analysis.work.rule import Work
from loraprof.model.recording import Calibration, CopyRate, GemmRate
from loraprof.model.trace import Shapes
from loraprof.store.gpus import load_gpus

GPUS = {g.name: g for g in load_gpus()}
H100 = GPUS["H100 SXM"]
CURVE = ((1000, 1000), (10_000, 2000), (1_000_000, 100_000))
DEVICE = Ceiling({"float32": 1e12}, {"float32": 1e12}, 1e10, "test", CURVE, 500.0, 100, 50_000)


def gemm(m: int, n: int, k: int, width: int = 2, dtype: str = "bfloat16") -> Work:
    flops = 2 * m * n * k
    return Work(flops, width * (m * k + k * n), width * m * n, "gemm", dtype, least_flops=flops)


def known(work: Work, ceiling: Ceiling, blocks: int = -1, kernel: str = "", reused_bytes: int | None = None) -> Roof:
    found = roof(work, ceiling, blocks, kernel, reused_bytes)
    assert found is not None
    return found


def test_a_large_gemm_is_bound_by_compute_a_skinny_one_by_memory() -> None:
    sheet = data_sheet(H100)
    base = known(gemm(16384, 4096, 4096), sheet, blocks=4096)
    down = known(gemm(16384, 16, 4096), sheet, blocks=512)
    assert (base.bound, down.bound) == ("compute", "memory")
    assert base.ns == pytest.approx(2 * 16384 * 4096 * 4096 / 989.4e12 * 1e9)
    assert down.ns == pytest.approx(2 * (16384 * 4096 + 4096 * 16 + 16384 * 16) / 3.35e12 * 1e9)


def test_fewer_blocks_than_sms_is_latency() -> None:
    sheet = data_sheet(H100)
    assert [known(gemm(2048, 16, 4096), sheet, blocks).bound for blocks in (16, 131, 132)] == [
        "latency", "latency", "memory",
    ]  # fmt: skip
    assert known(Work(0, 100, 100), DEVICE).bound == "latency"  # 20 ns of work where a tiny op takes 500


def test_few_blocks_that_reach_half_of_a_ceiling_are_bound_by_it() -> None:
    few = known(gemm(8192, 8192, 8192), data_sheet(H100), blocks=131)
    assert [bound_of(few.ns / share, [few]) for share in (0.51, 0.49)] == ["compute", "latency"]
    tiny = known(Work(0, 500, 500), DEVICE)  # a copy of its size takes 1000 ns, at the rate of large ones 100
    assert (bound_of(1000, [tiny]), bound_of(200, [replace(tiny, bound="latency")])) == ("memory", "memory")
    assert bound_of(1000, [replace(tiny, bound="latency")]) == "latency"
    assert bound_of(1000, []) == "unknown"


def test_beyond_calibration_is_what_the_data_sheet_allows() -> None:
    """Writes alone are faster than the copy that was calibrated, a large product than the calibrated ones."""
    measured = Calibration(
        gemm=[GemmRate(m=1000, n=1000, k=1000, dtype="bfloat16", ns=2500)],
        copy=[CopyRate(bytes=3 * 10**9, ns=10**6)],
    )
    gpu = calibrated(measured, 132, 50_000_000, spec=H100)
    assert gpu is not None
    assert (gpu.most_bytes_per_s, gpu.most_flops_per_s["bfloat16"]) == (3.35e12, H100.peak("bfloat16", 1980))
    fill, product = known(Work(0, 0, 2 * 10**9), gpu), known(gemm(8192, 8192, 8192), gpu)
    for one, most in ((fill, 3.35 / 3), (product, 989.4 * 1980 / 1830 / 800)):
        said = [note(one.ns / (most * q), [one], surplus=gpu.surplus) for q in (0.99, 1.08)]
        assert said == ["beyond calibration", "impossible"]
    unnamed = calibrated(measured, 132, 50_000_000)
    assert unnamed is not None
    alone = known(Work(0, 0, 2 * 10**9), unnamed)
    assert note(alone.ns / 1.1, [alone], surplus=unnamed.surplus) == "impossible"


def test_the_clock_moves_the_compute_roof_alone() -> None:
    """An H100 SXM at 1,980 MHz has a roof of 1,070 TFLOP/s; quoted at 1,830 MHz."""
    quoted, boosted = data_sheet(H100), data_sheet(H100, 1980)
    work = gemm(8192, 8192, 8192)
    assert boosted.flops_per_s["bfloat16"] == pytest.approx(1070e12, rel=1e-3)
    assert known(work, quoted).ns / known(work, boosted).ns == pytest.approx(1980 / 1830)
    assert boosted.bytes_per_s == quoted.bytes_per_s
    assert boosted.basis == "data sheet of H100 SXM at 1,980 MHz"
    # Without a clock nothing is called impossible that the highest clock allows.
    assert note(known(work, quoted).ns / 1.09, [known(work, quoted)]) == "higher clock"
    assert note(known(work, boosted).ns / 1.09, [known(work, boosted)]) == "impossible"


def test_tf32_kernels_have_the_tensor_cores_roof() -> None:
    sheet = data_sheet(H100)
    work = gemm(4096, 4096, 4096, 4, "float32")
    plain, tensor = (known(work, sheet, kernel=k) for k in ("sgemm_128x128", "cutlass_80_tensorop_tf32gemm"))
    assert plain.ns / tensor.ns == pytest.approx(494.7 / 67)


def test_small_transfers_are_held_against_copies_of_their_size() -> None:
    assert [DEVICE.memory_ns(size) for size, _ in CURVE] == pytest.approx([ns for _, ns in CURVE])
    between = DEVICE.memory_ns(3000)
    assert between is not None
    assert 1000 < between < 2000
    assert DEVICE.memory_ns(2_000_000) == pytest.approx(200_000)
    assert DEVICE.memory_ns(10) == pytest.approx(10)
    assert replace(DEVICE, bytes_per_s=None).memory_ns(1000) is None


def test_what_is_unknown_has_no_roof() -> None:
    assert roof(None, DEVICE) is None
    assert known(Work(0, 0, 0, "view"), DEVICE).ns == 0
    assert roof(gemm(64, 64, 64), DEVICE) is None  # bfloat16 was not calibrated
    assert roof(replace(gemm(64, 64, 64, 4, "float32"), exact=False), DEVICE) is None
    assert roof(Work(0, 10, 10), replace(DEVICE, bytes_per_s=None)) is None


def test_above_the_roof() -> None:
    """2 MB take 200 us from memory; a cache of 50 kB saves 5 us at most, and 100 us were seen to be reused."""
    copy = Work(0, 1_000_000, 1_000_000)
    plain = known(copy, DEVICE)
    assert plain.ns == pytest.approx(200_000)
    assert [note(ns, [plain]) for ns in (200_000, 197_000, 192_000, 191_000)] == [
        None, None, "L2-assisted", "impossible",
    ]  # fmt: skip
    assert note(197_000, [known(copy, replace(DEVICE, cache_bytes=0))]) is None
    assert note(196_000, [known(copy, replace(DEVICE, cache_bytes=0))]) == "impossible"
    reused = known(copy, DEVICE, reused_bytes=1_000_000)
    assert [note(ns, [reused]) for ns in (99_000, 98_000)] == ["L2-assisted", "impossible"]
    assert note(99_000, [reused], "cache") == "cache-assisted"
    assert note(3 * 99_000, [reused] * 3) == "L2-assisted"
    assert note(100.0, []) is None


def test_algorithms_with_fewer_flops() -> None:
    convolution = Work(10**9, 1000, 1000, "conv", "float32", least_flops=10**9 // 4)
    direct = known(convolution, DEVICE)
    assert direct.ns == pytest.approx(1e6)
    assert [note(direct.ns / q, [direct]) for q in (1, 3, 5)] == [None, "fewer FLOPs", "impossible"]
    causal = Work(10**9, 1000, 1000, "attention", "float32", least_flops=10**9 // 2)
    assert known(causal, DEVICE).ns == pytest.approx(5e5)


def test_calibration_is_the_best_of_each_dtype() -> None:
    measured = Calibration(
        gemm=[
            GemmRate(m=100, n=100, k=100, dtype="bfloat16", ns=4000),
            GemmRate(m=1000, n=1000, k=1000, dtype="bfloat16", ns=2_000_000),
        ],
        copy=[CopyRate(bytes=10**6, ns=10**3), CopyRate(bytes=10**9, ns=2 * 10**6)],
        turnaround_ns=900,
        op_ns=300,
    )
    gpu = calibrated(measured, 132, 10**6, spec=H100)
    assert gpu is not None
    assert gpu.flops_per_s["bfloat16"] == 1e12
    assert gpu.bytes_per_s == 5e11
    assert gpu.flops_per_s["float32"] == pytest.approx(1e12 * 67 / 989.4)  # at the efficiency that was measured
    cpu = calibrated(measured, on_gpu=False)
    assert cpu is not None
    assert (gpu.least_ns, cpu.least_ns, cpu.cache) == (900, 300, "cache")
    assert "float32" not in cpu.flops_per_s
    assert calibrated(Calibration(gemm=[], copy=[])) is None


def scaled(ceiling: Ceiling, q: float) -> Ceiling:
    return replace(
        ceiling,
        flops_per_s={d: r * q for d, r in ceiling.flops_per_s.items()},
        most_flops_per_s={d: r * q for d, r in ceiling.most_flops_per_s.items()},
        bytes_per_s=ceiling.bytes_per_s * q if ceiling.bytes_per_s else None,
    )


SIZES = st.integers(1, 20_000)


@given(SIZES, SIZES, SIZES, st.floats(0.01, 100), st.integers(-1, 300), st.sampled_from(sorted(GPUS)))
def test_faster_ceilings_keep_the_bound_and_divide_the_time(
    m: int, n: int, k: int, q: float, blocks: int, gpu: str
) -> None:
    sheet = data_sheet(GPUS[gpu])
    work = gemm(m, n, k, dtype="float16")
    before, after = known(work, sheet, blocks), known(work, scaled(sheet, q), blocks)
    assert after.bound == before.bound
    assert after.ns == pytest.approx(before.ns / q)
    assert list(before.excused_ns) == sorted(before.excused_ns, reverse=True)
    assert before.excused_ns[0] <= before.ns * 1.0000001


@given(SIZES, SIZES, SIZES, st.integers(1, 64))
def test_more_work_never_has_a_lower_roof(m: int, n: int, k: int, more: int) -> None:
    sheet = data_sheet(H100)
    assert known(gemm(m, n, k + more), sheet).ns >= known(gemm(m, n, k), sheet).ns


def test_a_recorded_gemm() -> None:
    recorded = Shapes(((2048, 4096), (4096, 4096)), ("c10::BFloat16",) * 2, ((4096, 1), (1, 4096)), ("", ""))
    found = roof(work_of("aten::mm", recorded), data_sheet(GPUS["A100 80GB SXM"]))
    assert found is not None
    assert found.ns == pytest.approx(2 * 2048 * 4096 * 4096 / 312e12 * 1e9)


def test_a_roof_is_what_the_step_reached_where_calibration_tried_less() -> None:
    """4 calls above the rate that was calibrated: they reach their roof, and no call exceeds it by more than 2 %."""
    base = Ceiling({"float32": 1e12}, {"float32": 1e12}, 1e11, "calibrated", copies=((1_000, 20), (10**6, 10**4)))
    fast = Reached(ns=900_000.0, min_bytes=100, flops=10**9, unit="float32", limit="compute")
    higher = lifted(base, [fast])
    assert higher.flops_per_s["float32"] == pytest.approx(1e9 / 900_000 * 1e9)
    small = Reached(ns=120.0, min_bytes=10_000, flops=0, unit="", limit="memory")
    curve = lifted(base, [small])
    assert curve.memory_ns(10_000) == pytest.approx(120.0)
    assert curve.memory_ns(1_000) == 20
    assert curve.bytes_per_s == base.bytes_per_s
    large = lifted(base, [Reached(ns=9.5e6, min_bytes=10**9, flops=0, unit="", limit="memory")])
    assert large.bytes_per_s == pytest.approx(10**9 / 9.5e6 * 1e9)


def test_what_no_device_can_reach_is_no_roof() -> None:
    """A shape or a time is wrong then, and the report says so."""
    base = Ceiling({"float32": 1e12}, {"float32": 1e12}, 1e11, "calibrated")
    wrong = Reached(ns=1000.0, min_bytes=100, flops=10**10, unit="float32", limit="compute")
    assert lifted(base, [wrong]).flops_per_s == base.flops_per_s
    some = Reached(ns=1e6 / (0.99 * MOST_LIFT), min_bytes=100, flops=10**9, unit="float32", limit="compute")
    assert lifted(base, [wrong, some]).flops_per_s["float32"] == pytest.approx(0.99 * MOST_LIFT * 1e12)
    sheet = Ceiling({"float32": 1e12}, {"float32": 1.1e12}, 1e11, "calibrated", most_bytes_per_s=1.2e11)
    assert lifted(sheet, [some]) == lifted(sheet, []) == sheet


@pytest.mark.parametrize("name", ["llama-3.2-1b", "gpt2-xl-512", "tinyllama-512", "minimind-26m"])
def test_no_kernel_of_a_recording_is_above_its_roof(name: str) -> None:
    report = reference.named(name).report
    above = [k for k in report.kernels if k.roof_ns and k.roof_ns > 1.02 * k.total_ns and k.note != "L2-assisted"]
    assert not above
    assert not any(k.note == "impossible" for k in report.kernels)


def test_a_transfer_between_two_copies_has_a_rate_between_theirs() -> None:
    """Half way in the logarithm of the size, half way in the logarithm of ns per byte."""
    assert DEVICE.memory_ns(10_000) == pytest.approx(2000)
    assert DEVICE.memory_ns(1000) == pytest.approx(1000)
    assert DEVICE.memory_ns(500) == pytest.approx(500)  # below the smallest copy, at its rate
    assert DEVICE.memory_ns(100_000) == pytest.approx(100_000 * (0.2 * 0.1) ** 0.5)
    assert DEVICE.memory_ns(1_000_000) == pytest.approx(1e6 / 1e10 * 1e9)  # the largest: the rate of large ones


def test_a_call_at_its_roof_needs_no_explanation() -> None:
    """To the tolerance, exactly."""
    one = known(Work(0, 600_000, 400_000), DEVICE)
    assert one.ns == 100_000
    at = one.ns / TOLERANCE
    assert note(at, [one]) is None
    assert note(at * 0.999, [one]) is not None
    assert note(0.0, []) is None
