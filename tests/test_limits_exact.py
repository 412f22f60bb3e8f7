"""Limits at their edges: ties, missing figures, what a ceiling is taken from, against plain formulas."""

import math
import random

import pytest
from builders import kernel, op, step, trace_of
from msgspec.structs import replace
from recordings import NVML, recording

from loraprof.analysis.analyse import Analysis, analyse
from loraprof.analysis.limits.ceiling import ceiling_of, ceilings, main_gpu
from loraprof.analysis.limits.precision import compute_dtype
from loraprof.analysis.limits.rates import Rates, unsteady
from loraprof.analysis.limits.reuse import cached_bytes
from loraprof.analysis.limits.roofline import (
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
from loraprof.analysis.work.rule import Work
from loraprof.model.recording import AdapterSite, Calibration, CopyRate, GemmRate, NvmlSample, Recording
from loraprof.model.trace import DeviceFacts
from loraprof.store.gpus import load_gpus

H100 = next(g for g in load_gpus() if g.name == "H100 SXM")
CURVE = ((1000, 1000.0), (10_000, 2000.0), (1_000_000, 100_000.0))
DEVICE = Ceiling({"float32": 1e12}, {"float32": 1e12}, 1e10, "test", CURVE, 500.0, 100, 50_000)


def gemm(m: int, n: int, k: int, ns: int, dtype: str = "float32") -> GemmRate:
    return GemmRate(m=m, n=n, k=k, dtype=dtype, ns=ns)


def copied(*sizes: tuple[int, int]) -> Calibration:
    return Calibration(gemm=[], copy=[CopyRate(bytes=size, ns=ns) for size, ns in sizes])


def test_a_rate_between_shapes_is_weighed_by_the_inverse_square_of_their_distance() -> None:
    for seed in range(20):
        r = random.Random(seed).randint
        known = [gemm(r(1, 50), r(1, 50), r(1, 50), r(1, 50)) for _ in range(3)]
        m, n, k = (r(60, 90) for _ in range(3))
        weights = [1 / (math.log10(g.m / m) ** 2 + math.log10(g.n / n) ** 2 + math.log10(g.k / k) ** 2) for g in known]
        rate = math.prod(
            (2 * g.m * g.n * g.k / g.ns) ** (w / sum(weights)) for g, w in zip(known, weights, strict=True)
        )
        found = Rates(Calibration(gemm=known, copy=[])).gemm_ns(m, n, k, "float32")
        assert found == pytest.approx(2 * m * n * k / rate)


def test_copies_of_no_byte_and_of_one() -> None:
    rates = Rates(copied((1000, 500), (10_000, 1000)))
    assert rates.copy_ns(0) is None
    assert rates.copy_ns(1) == pytest.approx(0.5)
    assert rates.copy_ns(10**0.5 * 1000) == pytest.approx(10**0.5 * 1000 * (0.5 * 0.1) ** 0.5)
    assert [DEVICE.memory_ns(n) for n in (0, 0.5, 1)] == pytest.approx([0, 0.5, 1])


@pytest.mark.parametrize(
    ("copies", "steady"),
    [
        (((10, 10), (20, 60), (30, 30)), True),  # three times below both, exactly
        (((10, 10), (20, 61), (30, 30)), False),
        (((5, 50), (10, 10), (20, 61), (30, 30)), False),  # the best of the smaller ones counts
        (((10, 10), (20, 61), (30, 30), (40, 400)), False),  # and of the larger ones
        (((10, 100), (20, 61), (30, 30)), True),
        (((10, 10), (20, 61)), True),
    ],
)
def test_a_dip(copies: tuple[tuple[int, int], ...], steady: bool) -> None:
    assert (unsteady(copied(*copies)) is None) == steady


def test_products_that_take_as_long_contradict_nothing() -> None:
    def steady(*gemms: GemmRate) -> bool:
        return unsteady(Calibration(gemm=[*gemms], copy=[])) is None

    assert steady(gemm(2, 2, 2, 9), gemm(4, 4, 4, 9))
    assert steady(gemm(2, 2, 2, 8), gemm(2, 2, 2, 9))
    assert steady(gemm(2, 2, 2, 9), gemm(4, 4, 4, 8, "float64"))
    assert steady(gemm(2, 2, 2, 9), gemm(4, 4, 5, 8))
    assert not steady(gemm(2, 2, 2, 9), gemm(4, 4, 4, 8))


def test_a_cache_takes_no_more_than_all() -> None:
    sized = replace(DEVICE, cache_bytes=100)
    assert [sized.far_bytes(n, None) for n in (99, 100, 101)] == [0, 0, 1]
    assert (sized.far_bytes(300, 50), sized.far_bytes(300, 250)) == (50, 200)
    assert replace(DEVICE, cache_bytes=None).far_bytes(300, None) == 300


def test_what_is_calibrated_without_copies_or_without_products() -> None:
    products = Calibration(gemm=[gemm(10, 10, 10, 2)], copy=[])
    bare = calibrated(products)
    assert bare is not None
    assert (bare.flops_per_s, bare.most_flops_per_s) == ({"float32": 1e12}, {"float32": 1e12})
    assert (bare.bytes_per_s, bare.most_bytes_per_s, bare.least_ns) == (None, None, 0)
    assert lifted(bare, []) is bare
    moved = calibrated(copied((100, 50)), spec=H100)
    assert moved is not None
    assert (moved.flops_per_s, moved.bytes_per_s, moved.most_bytes_per_s) == ({}, 2e9, H100.dram_bytes_per_s)
    alone = calibrated(copied((100, 50)))
    assert alone is not None
    assert alone.most_bytes_per_s == 2e9


def test_dtypes_that_were_not_calibrated_have_the_best_share_of_the_data_sheet() -> None:
    """40 % of the sheet's bfloat16 and 80 % of its float32."""
    bf16, fp32, tf32 = (H100.peak(d) for d in ("bfloat16", "float32", "tf32"))
    assert bf16
    assert fp32
    assert tf32
    size = 10_000
    measured = [
        gemm(size, size, size, round(2e9 * size**3 / (0.4 * bf16)), "bfloat16"),
        gemm(size, size, size, round(2e9 * size**3 / (0.8 * fp32)), "float32"),
    ]
    found = calibrated(Calibration(gemm=measured, copy=[]), spec=H100)
    assert found is not None
    assert found.flops_per_s["bfloat16"] == pytest.approx(0.4 * bf16, rel=1e-6)
    assert found.flops_per_s["tf32"] == pytest.approx(0.8 * tf32, rel=1e-6)


def reached(limit: str, ns: float, nbytes: int = 0, flops: int = 0) -> Reached:
    return Reached(ns=ns, min_bytes=nbytes, flops=flops, unit="float32", limit=limit)  # type: ignore[arg-type]


def test_what_a_step_reached_counts_up_to_what_the_device_allows_exactly() -> None:
    """Half of them binary numbers: ties are ties."""
    base = Ceiling(
        {"float32": 1e9}, {"float32": 2e9}, 1e9, "calibrated", ((8, 16.0), (1024, 1024.0)), most_bytes_per_s=2e9
    )
    at, above = lifted(base, [reached("compute", 1, flops=2)]), lifted(base, [reached("compute", 1, flops=3)])
    assert (at.flops_per_s["float32"], above.flops_per_s["float32"]) == (2e9, 1e9)
    assert at.most_flops_per_s["float32"] == above.most_flops_per_s["float32"] == 2e9
    fast = lifted(base, [reached("memory", 512, 1024)])
    assert fast.bytes_per_s == fast.most_bytes_per_s == 2e9
    assert fast.copies == ((8, 16.0), (1024, 512.0))
    assert lifted(base, [reached("memory", 511, 1024)]) == base
    assert lifted(base, [reached("memory", 16 / 1.5, 8)]).copies[0] == (8, 16 / 1.5)
    assert lifted(base, [reached("memory", 16 / 1.5 - 0.01, 8)]) == base
    slower = lifted(base, [reached("memory", 11, 8), reached("memory", 12, 8)])
    assert [*slower.copies[0]] == [8, 11]
    unsaid = lifted(replace(base, most_flops_per_s={}, most_bytes_per_s=None), [reached("compute", 2, flops=3)])
    assert (unsaid.flops_per_s["float32"], unsaid.most_flops_per_s, unsaid.most_bytes_per_s) == (
        1.5e9, {"float32": 1.5e9}, 1e9,
    )  # fmt: skip
    assert lifted(replace(base, copies=()), [reached("memory", 4, 6)]).bytes_per_s == 1.5e9


def known(work: Work, ceiling: Ceiling, blocks: int = -1) -> Roof:
    found = roof(work, ceiling, blocks)
    assert found is not None
    return found


def test_roofs_at_ties() -> None:
    plain = Ceiling({"float32": 1e9}, {"float32": 1e9}, 1e9, "test", least_ns=64.0, sms=100)
    even = Work(64, 32, 32, "gemm", "float32", least_flops=64)
    assert (known(even, plain).limit, known(even, plain).bound) == ("compute", "compute")
    assert known(even, replace(plain, least_ns=64.01)).bound == "latency"
    assert [known(even, plain, blocks).bound for blocks in (0, 99, 100)] == ["latency", "latency", "compute"]
    assert known(even, replace(plain, sms=None), 0).bound == "compute"
    assert known(Work(0, 0, 0, "view"), plain).excused_ns == (0, 0, 0)
    assert roof(even, replace(plain, most_flops_per_s={})) is None
    assert roof(even, replace(plain, flops_per_s={})) is None


def test_a_float32_product_is_excused_by_the_tensor_cores_a_bfloat16_one_is_not() -> None:
    rates = {"float32": 1e9, "bfloat16": 1e9, "tf32": 4e9}
    device = Ceiling(rates, rates, 1e12, "test")
    wide, narrow = (known(Work(4000, 1, 1, "gemm", d, least_flops=2000), device) for d in ("float32", "bfloat16"))
    assert wide.excused_ns == pytest.approx((4000, 1000, 500))
    assert narrow.excused_ns == pytest.approx((4000, 4000, 2000))
    without = {"float32": 1e9}
    alone = known(Work(4000, 1, 1, "gemm", "float32", least_flops=4000), replace(device, most_flops_per_s=without))
    assert alone.excused_ns == pytest.approx((4000, 4000, 4000))


def test_the_time_at_the_rate_of_large_work() -> None:
    small = known(Work(0, 5000, 5000), DEVICE)
    assert [small.ns, small.large_ns] == pytest.approx([2000, 1000])


def test_calls_are_bound_by_what_most_of_their_roof_time_is() -> None:
    one = Roof(5.0, "compute", (5.0, 5.0, 5.0), 5.0, "compute")
    two = Roof(3.0, "memory", (3.0, 3.0, 3.0), 3.0, "memory")
    three = Roof(4.0, "memory", (4.0, 4.0, 4.0), 4.0, "memory")
    assert bound_of(12, [one, two, three]) == "memory"
    assert bound_of(12, [two, one]) == "compute"
    assert bound_of(2 * 8, [replace(one, bound="latency"), replace(two, bound="latency")]) == "compute"  # half, exactly
    assert bound_of(16.1, [replace(one, bound="latency"), replace(two, bound="latency")]) == "latency"


def test_an_excuse_holds_to_the_tolerance_exactly() -> None:
    call = Roof(204.0, "memory", (102.0, 51.0, 0.0), 204.0, "memory")
    assert [note(ns, [call]) for ns in (200, 199, 100, 99, 50, 49, 0)] == [
        None, "L2-assisted", "L2-assisted", "higher clock", "higher clock", "fewer FLOPs", "fewer FLOPs",
    ]  # fmt: skip


def test_reuse_until_the_cache_has_passed() -> None:
    """Three tensors of one size pass through a cache that holds as many."""
    size = 4096
    made, read = Work(0, 0, size, writes=(size,)), Work(0, size, 0, reads=(size,))
    other = Work(0, 0, 2 * size, writes=(2 * size,))
    assert cached_bytes([made, read], size) == [0, 0]
    assert cached_bytes([made, other, read], 3 * size) == [0, 2 * size, 0]
    assert cached_bytes([made, other, read], 3 * size - 1) == [size, 2 * size, size]
    assert cached_bytes([made, None, read, read], size) == [0, None, 0, 0]


FACTS = DeviceFacts(0, "NVIDIA H100 80GB HBM3", 80 * 1024**3, 132)


def gpu_trace(*facts: DeviceFacts, device: int = 0) -> Analysis:
    trace = trace_of([step(0, 0, 900), op("aten::mm", 10, 20)], [kernel(100, 200, (12, 14), device=device)])
    return analyse(replace(trace, gpus=facts))


def test_the_gpu_of_the_steps() -> None:
    second = DeviceFacts(1, "other", 1, 1)
    assert main_gpu(gpu_trace(FACTS, second)) is FACTS
    assert main_gpu(gpu_trace(FACTS, second, device=1)) is second
    assert main_gpu(gpu_trace(FACTS, second, device=5)) is None  # which of the two cannot be said
    assert main_gpu(gpu_trace(FACTS, replace(FACTS, index=1), device=5)) is FACTS  # they are alike
    assert main_gpu(gpu_trace()) is None
    assert main_gpu(analyse(replace(trace_of([op("aten::mm", 10, 20)]), gpus=(FACTS,)))) is FACTS


def sampled(*clocks: int | None, limit: int | None = None) -> object:
    samples = [NvmlSample(monotonic_ns=i, sm_clock_mhz=clock) for i, clock in enumerate(clocks)]
    return replace(NVML, samples=samples, power_limit_mw=limit)


def test_a_ceiling_is_the_device_s_own_then_the_data_sheet_s() -> None:
    analysis, cpu = gpu_trace(FACTS), analyse(trace_of([op("aten::mm", 10, 20)]))
    assert ceiling_of(analysis, None, None) == (data_sheet(H100), None)
    assert ceiling_of(analysis, None, sampled(1000, None, 1500)) == (data_sheet(H100, 1250), None)  # type: ignore[arg-type]
    assert ceiling_of(gpu_trace(replace(FACTS, name="")), None, None) == (
        None, "no roofs: the trace does not name its GPU",
    )  # fmt: skip
    assert ceiling_of(cpu, None, None) == (None, "no roofs: a CPU's roofs are calibrated ones")
    unread = analyse(replace(trace_of([op("aten::mm", 10, 20)]), unread=("xpu",)))
    assert ceiling_of(unread, None, None) == (None, "no roofs: the accelerator is not known")
    made = recording()
    device = replace(made.device, name=FACTS.name, memory_bytes=FACTS.memory_bytes, sms=132, l2_bytes=77)
    named = replace(made, device=device)
    assert ceiling_of(analysis, named, None) == (data_sheet(H100, None, 77), None)
    measured = Calibration(gemm=[gemm(10, 10, 10, 2)], copy=[CopyRate(bytes=100, ns=50)], turnaround_ns=3, op_ns=4)
    own = calibrated(measured, 132, 77, True, H100)
    assert ceiling_of(analysis, replace(named, calibration=measured), None) == (own, None)
    assert ceiling_of(analysis, replace(named, calibration=Calibration(gemm=[], copy=[])), None)[0] == data_sheet(
        H100, None, 77
    )
    assert ceiling_of(cpu, replace(named, calibration=measured), None) == (calibrated(measured, 132, 77, False), None)


def test_a_power_limit_tells_two_gpus_of_one_name_apart() -> None:
    named = gpu_trace(DeviceFacts(0, "NVIDIA H200", None, 132))
    found = [ceiling_of(named, None, sampled(limit=mw)) for mw in (600_000, 601_000)]  # type: ignore[arg-type]
    assert [one is None for one, _ in found] == [True, False]


def test_ceilings_as_they_are_reported() -> None:
    peaks = {"bfloat16": 3e12, "float16": 2e12, "float32": 1e12}
    ceiling = Ceiling(peaks, peaks, 1e10, "test")
    launches = Calibration(gemm=[], copy=[], launch_floor_ns=5, turnaround_ns=6)
    made, analysis = replace(recording(), calibration=launches), gpu_trace(FACTS)
    assert ceilings(analysis, made, None) is None
    works = [None, Work(5, 1, 1, "gemm", "float16"), Work(0, 1, 1, dtype="float32")]
    found = ceilings(analysis, made, ceiling, works)
    assert found is not None
    assert (found.gemm_flops_per_s, found.copy_bytes_per_s, found.flops_per_s) == (1e12, 1e10, {"float16": 2e12})
    assert (found.launch_floor_ns, found.turnaround_ns) == (5, 6)
    cpu = ceilings(analyse(trace_of([op("aten::mm", 10, 20)])), made, ceiling)
    assert cpu is not None
    assert (cpu.launch_floor_ns, cpu.turnaround_ns, cpu.flops_per_s) == (None, None, None)
    for recorded in (None, recording()):  # nothing was calibrated: the best there is
        plain = ceilings(analysis, recorded, ceiling)
        assert plain is not None
        assert (plain.gemm_flops_per_s, plain.launch_floor_ns) == (3e12, None)
    for known, best in ((("float16", "float32"), 2e12), (("float32",), 1e12), ((), None)):
        few = ceilings(analysis, None, replace(ceiling, flops_per_s={d: peaks[d] for d in known}))
        assert few is not None
        assert few.gemm_flops_per_s == best


@pytest.mark.parametrize(
    ("autocast", "sites", "own", "dtype"),
    [
        ("float16", [("float32", "float32")], "float64", "float16"),
        ("none", [], "float64", "float64"),
        (None, [("bfloat16", "float32")], None, "bfloat16"),
        (None, [("uint8", "float16"), ("bfloat16", "bfloat16")], None, "float16"),
        (None, [("int8", "int8"), ("bfloat16", "bfloat16")], None, "float32"),
        (None, [], None, "float32"),
    ],
)
def test_the_dtype_of_the_base(autocast: str | None, sites: list[tuple[str, str]], own: str | None, dtype: str) -> None:
    made: Recording = recording()
    adapted = [
        AdapterSite(path="a", kind="lora", rank=4, in_features=8, out_features=8, dtype=d, base_dtype=b)
        for b, d in sites
    ]
    made = replace(made, workload=replace(made.workload, autocast=autocast), sites=adapted)
    assert compute_dtype(made, own) == dtype
