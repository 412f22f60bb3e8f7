"""Tables and timelines of one step, of entries that are written down."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from builders import Host, kernel, marker, op, step, trace_of
from ledgers import BUSY, ledger
from msgspec.structs import replace
from recordings import NVML, recording

from loraprof.analysis.analyse import Analysis, analyse
from loraprof.analysis.limits.roofline import Ceiling
from loraprof.analysis.partition.ledger import Ledger
from loraprof.analysis.step.best_times import Limits, limits_of
from loraprof.analysis.step.busy import Busy, busy_of
from loraprof.analysis.step.networks import networks
from loraprof.analysis.step.tables import adapter, kernels, modules, nvml
from loraprof.analysis.trace.step_windows import Window
from loraprof.analysis.work.rule import Work
from loraprof.model.recording import AdapterSite, ModuleInfo, NvmlSample, ParameterInfo
from loraprof.model.trace import NONE, Shapes
from loraprof.model.vocabulary import CLASSES, PHASE

COPY = 2  # of device classes


assert CLASSES[COPY] == "copy"


def busy(entries: Ledger, works: list[Work | None], ns: list[int] | None = None) -> Busy:
    rows = np.flatnonzero(entries.busy)
    took = entries.ns[rows] if ns is None else np.array(ns, np.int64)
    return Busy(rows, took, took, works, [f"aten::{i}" for i in range(len(rows))])


def gemm(flops: int, read: int, written: int, least: int | None = None) -> Work:
    return Work(flops, read, written, "gemm", "float32", least_flops=flops if least is None else least)


ENTRIES = ledger(
    (BUSY, "forward", "base.linear", 0, 100), (BUSY, "forward", "base.linear", 0, 300),
    (BUSY, "backward", "adapter.up", 1, 50), (BUSY, "forward", "loss", NONE, 400),
    (-1, "forward", "base.linear", 0, 70),
    (-1, "other", "other", NONE, 30), (-1, "backward", "adapter.up", 1, 5), name=[0, 0, 1, 0, NONE, NONE, NONE],
)  # fmt: skip


WORKS: list[Work | None] = [gemm(10, 20, 30), gemm(1, 2, 3), None, Work(0, 7, 8)]


NAMES: Any = SimpleNamespace(
    trace=SimpleNamespace(names=("a", "b")), attribution=SimpleNamespace(paths=("x", "y"), marked=True, sites=()),
    recording=None,
)  # fmt: skip


NOTHING = Limits([None] * 4, [None, 5, None, None], "L2")


def test_kernels() -> None:
    rows = kernels(NAMES, ENTRIES, busy(ENTRIES, WORKS), NOTHING)
    assert [(k.name, k.role, k.phase, k.module, k.count, k.total_ns) for k in rows] == [
        ("a", "base.linear", "forward", "x", 2, 400), ("a", "loss", "forward", None, 1, 400),
        ("b", "adapter.up", "backward", "y", 1, 50),
    ]  # fmt: skip
    assert [(k.flops, k.min_bytes, k.l2_bytes, k.op) for k in rows] == [
        (11, 55, 5, "aten::0"), (0, 15, None, "aten::3"), (None, None, None, "aten::2"),
    ]  # fmt: skip
    equal = ledger(*[(BUSY, "forward", "loss", NONE, 5)] * 2, name=[1, 0])
    assert [k.name for k in kernels(NAMES, equal, busy(equal, [None] * 2), NOTHING)] == ["a", "b"]


def test_modules() -> None:
    rows = modules(NAMES, ENTRIES, busy(ENTRIES, WORKS))
    assert [(r.path, r.role, r.busy_ns, r.idle_ns, r.launches) for r in rows] == [
        ("x", "base.linear", 400, 70, 2), ("y", "adapter.up", 50, 5, 1),
    ]  # fmt: skip


SITE = AdapterSite(path="a", kind="lora", rank=4, in_features=8, out_features=8, dtype="float32", base_dtype="bfloat16")


def adapted(*sites: AdapterSite, marked: bool = True, entries: Ledger = ENTRIES, autocast: str | None = "none") -> Any:
    made = recording()
    made = replace(made, workload=replace(made.workload, autocast=autocast))
    attribution = SimpleNamespace(paths=("x", "y"), marked=marked, sites=sites)
    analysis: Any = SimpleNamespace(trace=NAMES.trace, attribution=attribution, recording=made)
    works = [*WORKS[:2], gemm(9, 4, 2), None][: int(entries.busy.sum())]
    taken = busy(entries, works)
    return adapter(analysis, entries, kernels(analysis, entries, taken, NOTHING), taken)


def test_the_adapter_path() -> None:
    one = adapted(SITE, replace(SITE, path="b"), replace(SITE, active=False, rank=9))
    assert (one.modules, one.rank, one.ranks, one.dtype, one.base_dtype) == (2, 4, None, "float32", "bfloat16")
    assert (one.busy_ns, one.idle_ns, one.launches, one.flops, one.min_bytes) == (50, 5, 1, 9, 6)
    assert one.variant == "V5"
    mixed = adapted(SITE, replace(SITE, rank=8, dtype="float16", base_dtype="float32"), replace(SITE, rank=8))
    assert (mixed.rank, mixed.ranks, mixed.dtype, mixed.base_dtype, mixed.variant) == (
        None,
        {"4": 1, "8": 2},
        None,
        None,
        None,
    )
    assert adapted(SITE, marked=False) is None
    assert adapted() is not None  # something ran as an adapter
    without = ledger((BUSY, "forward", "loss", NONE, 5), name=[0])
    assert adapted(entries=without) is None
    empty = adapted(SITE, entries=without)
    assert (empty.flops, empty.min_bytes, empty.launches) == (None, None, 0)
    assert adapted(replace(SITE, kind="dora")).variant is None
    assert adapted(SITE, autocast="bfloat16").variant is None  # V3, if its input is cast
    assert adapted(replace(SITE, dtype="bfloat16", dropout=0.1)).variant == "V2"


def test_samples_of_nvml() -> None:
    def sample(**figures: int) -> NvmlSample:
        return NvmlSample(monotonic_ns=0, **figures)

    samples = [
        sample(power_mw=3000, reasons=0x24, utilization=50),
        sample(power_mw=5000, reasons=0x4),
        sample(reasons=0x80),
    ]
    found = nvml(replace(NVML, samples=samples, energy_mj=6000, steps=4, loop_ns=4000, power_limit_mw=7000))
    assert found is not None
    assert (found.samples, found.power_w, found.utilization, found.sm_clock_mhz) == (3, 4.0, 0.5, None)
    assert (found.energy_j_per_step, found.sampled_step_ns, found.power_limit_w) == (1.5, 1000, 7.0)
    assert found.throttle == ["software power cap"]
    bits = {0x4: "software power cap", 0x8: "hardware slowdown", 0x20: "software thermal", 0x40: "hardware thermal"}
    for bit, why in (bits | {0x80: "power brake"}).items():
        alone = nvml(replace(NVML, samples=[sample(reasons=bit), sample(reasons=0xFF), sample(reasons=0)]))
        assert alone is not None
        assert alone.throttle == [why]
    timed = nvml(replace(NVML, samples=samples[2:], energy_mj=6000, steps=4, loop_ns=4000), 500)
    assert timed is not None
    assert (timed.energy_j_per_step, timed.throttle, timed.power_limit_w) == (0.75, [], None)
    bare = nvml(NVML)
    assert bare is not None
    assert (bare.energy_j_per_step, bare.throttle, bare.power_w) == (None, None, None)
    assert nvml(None) is None


RATES = {"float32": 1e9}  # a FLOP and a byte take a nanosecond


DEVICE = Ceiling(RATES, RATES, 1e9, "test", cache_bytes=None)


def limited(
    entries: Ledger, works: list[Work | None], ceiling: Ceiling | None = DEVICE, ns: list[int] | None = None
) -> Limits:
    return limits_of(SimpleNamespace(names=("a", "b")), entries, busy(entries, works, ns), ceiling)  # type: ignore[arg-type]


def test_best_times() -> None:
    rows = ledger(
        (BUSY, "forward", "loss", NONE, 1000), (BUSY, "forward", "loss", NONE, 1000),
        (COPY, "forward", "copy", NONE, 50),
        (BUSY, "forward", "norm", NONE, 9), name=[0, 0, 1, 1], blocks=[NONE] * 4,
    )  # fmt: skip
    found = limited(rows, [gemm(600, 5, 5), gemm(10, 200, 200), gemm(1, 1, 1), None])
    assert [r.ns if r else None for r in found.roofs] == [pytest.approx(600), pytest.approx(400), None, None]
    assert found.over([0, 1], 2000) == (1000, "compute", None, None)
    assert found.over([0, 2], 2000) == (None, "unknown", None, None)
    assert found.reused == [None] * 4
    none = limited(rows, [None] * 4, None)
    assert (none.roofs, none.reused, none.ceiling) == ([None] * 4, [None] * 4, None)
    cached = limited(
        rows,
        [Work(0, 0, 8192, writes=(8192,)), Work(0, 8192, 0, reads=(8192,)), None, None],
        replace(DEVICE, cache_bytes=10_000),
    )
    assert cached.reused == [0, 0, None, None]
    assert cached.over([0, 1], 10**6)[3] == 0
    assert cached.over([2], 10**6)[3] is None


@pytest.mark.parametrize(
    ("work", "took", "roof"),
    [
        (gemm(1200, 1, 1), 1000, 1000),  # faster than its roof: the roof is what was reached
        (gemm(1020, 1, 1), 1000, 1020),  # within the tolerance
        (gemm(1021, 1, 1), 1000, 1000),
        (gemm(1600, 1, 1), 1000, 1600),  # too fast to be true
        (replace(gemm(1200, 1, 1), kind="conv"), 1000, 1200),  # an algorithm may need fewer
        (gemm(1, 600, 600), 1000, 1000),
    ],
)
def test_what_a_step_reached_lifts_its_roofs(work: Work, took: int, roof: int) -> None:
    one = ledger((BUSY, "forward", "loss", NONE, took), name=[0])
    assert limited(one, [work]).roofs[0].ns == pytest.approx(roof)  # type: ignore[union-attr]


def test_a_cache_explains_before_a_ceiling_is_lifted() -> None:
    one = ledger((BUSY, "forward", "loss", NONE, 1000), name=[0])
    large = replace(DEVICE, cache_bytes=200)
    assert limited(one, [gemm(1, 600, 600)], large).roofs[0].ns == pytest.approx(1200)  # type: ignore[union-attr]
    small = replace(DEVICE, cache_bytes=100)  # 1,100 ns are left
    assert limited(one, [gemm(1, 600, 600)], small).roofs[0].ns == pytest.approx(1000)  # type: ignore[union-attr]
    on_cpu = replace(large, cache="cache")
    assert limited(one, [gemm(1, 600, 600)], on_cpu).roofs[0].ns == pytest.approx(1000)  # type: ignore[union-attr]


def shaped(
    rows: Sequence[tuple[Host, tuple[tuple[int, ...], ...]]], *rest: Any, on_gpu: bool = False, **more: Any
) -> Analysis:
    """Ops with the shapes of their inputs, in the order of the trace."""
    trace = trace_of([one for one, _ in rows] + [*(rest if not on_gpu else [])], [*rest] if on_gpu else [])
    known = tuple(Shapes(dims, ("float",) * len(dims), (), ("",) * len(dims)) for _, dims in rows)
    at = {(one.start, one.end): i for i, (one, _) in enumerate(rows)}
    keys = zip(trace.host.start.tolist(), trace.host.end.tolist(), strict=True)
    shapes = np.array([at.get(key, NONE) for key in keys], np.int32)
    return analyse(replace(trace, shapes=known, host=replace(trace.host, shapes=shapes)), **more)


def test_work_on_a_cpu_is_that_of_the_op_that_stands_for_what_it_calls() -> None:
    """A linear layer's product has the work and all its time; a view and a wrapper are looked through."""
    rows = [
        (op("aten::linear", 0, 100), ((3, 5), (7, 5))), (op("aten::t", 2, 6), ((7, 5),)),
        (op("aten::addmm", 10, 90), ((7,), (3, 5), (5, 7))), (op("aten::copy_", 20, 40), ((3, 7), (7,))),
        (op("aten::sum", 200, 300), ((4, 4),)), (op("aten::fill_", 210, 230), ((),)),
        (op("my::custom", 400, 500), ()), (op("aten::mul", 410, 450), ((4, 4), (4, 4))),
    ]  # fmt: skip
    analysis = shaped(rows, step(0, 0, 600))
    found = busy_of(analysis, analysis.ledgers[0])
    names = [analysis.trace.names[i] for i in analysis.ledgers[0].name[found.rows].tolist()]
    figures = {n: (ns, w.flops if w else None) for n, ns, w in zip(names, found.ns.tolist(), found.work, strict=True)}
    assert figures["aten::addmm"] == (80, 2 * 3 * 7 * 5)
    assert figures["aten::sum"][0] == 100
    assert figures["aten::mul"] == (40, 0)
    assert not {"aten::copy_", "aten::fill_", "aten::linear"} & figures.keys()


def test_work_on_a_gpu_is_the_longest_kernel_s_and_fills_are_taken_off() -> None:
    """Two kernels of one product; a gradient that a fill below it writes; a kernel that a product's own call made."""
    rows = [
        (op("aten::mm", 0, 100), ((3, 5), (5, 7))),
        (op("aten::nll_loss_backward", 200, 300), ((), (3, 4), (3,), (), (), ())),
        (op("aten::zero_", 210, 240), ((3, 4),)),
        (op("aten::mm", 400, 500), ((3, 5), (5, 7))), (op("aten::copy_", 410, 450), ((3, 4), (3, 4))),
    ]  # fmt: skip
    device = [
        kernel(1000, 1010, (10, 12)), kernel(1100, 1200, (20, 22)), kernel(1300, 1310, (220, 225)),
        kernel(1400, 1420, (260, 270)), kernel(1500, 1510, (420, 430)), kernel(1600, 1620),
    ]  # fmt: skip
    analysis = shaped([*rows, (step(0, 0, 900), ())], *device, on_gpu=True)
    entries = analysis.ledgers[0]
    found = busy_of(analysis, entries)
    assert found.ns.tolist() == [10, 100, 10, 20, 10, 20][: len(found.ns)]
    known = [(w.flops, w.write_bytes) if w else None for w in found.work]
    assert known[:2] == [None, (2 * 3 * 5 * 7, 4 * 21)]
    assert known[2] == (0, 48)
    inside = found.work[4]  # the product has the work of the copy that it makes
    assert inside is not None
    assert (inside.flops, inside.read_bytes, inside.write_bytes) == (0, 0, 0)
    assert found.op[:4] == ["aten::mm", "aten::mm", "aten::zero_", "aten::nll_loss_backward"]


def test_networks_and_their_shares() -> None:
    modules_of = [ModuleInfo(id=0, path="a", cls="A"), ModuleInfo(id=1, path="b", cls="B", root=1)]
    trace = trace_of()
    one, two = (SimpleNamespace(name=n, trained=n == "a", adapters=i, root=i) for i, n in enumerate("ab"))
    attribution = SimpleNamespace(network=np.array([0, 1], np.int32), networks=(one, two), phase=np.zeros(0, np.int8))
    made: Any = SimpleNamespace(
        attribution=attribution, trace=trace, recording=replace(recording(), modules=modules_of)
    )
    rows = ledger(
        (BUSY, "forward", "loss", 0, 10), (-1, "forward", "loss", 0, 20), (BUSY, "generate", "loss", 0, 30),
        (BUSY, "backward", "loss", 1, 40), (-1, "other", "other", NONE, 100),
    )  # fmt: skip
    found = networks(made, rows, None)
    assert [(r.name, r.phase, r.busy_ns, r.idle_ns, r.share, r.calls) for r in found] == [
        ("a", "forward", 10, 20, 0.15, None), ("a", "generate", 30, 0, 0.15, None), ("b", "forward", 40, 0, 0.2, None),
    ]  # fmt: skip
    plain = replace(rows, ns=rows.ns * np.array([1, 1, 1, 0, 1]))
    assert [r.share for r in networks(made, rows, plain)] == [30 / 160, 30 / 160, 0]
    assert [(r.trained, r.adapters) for r in found] == [(True, 0), (True, 0), (False, 1)]


def test_calls_of_a_network_are_those_that_begin_in_the_step() -> None:
    trace = trace_of([marker("m0", at, at + 5) for at in (9, 10, 30, 49, 50)])
    sampled = np.where(trace.host.start == 30, PHASE["generate"], PHASE["forward"]).astype(np.int8)
    network = SimpleNamespace(name="a", trained=True, adapters=1, root=0)
    attribution = SimpleNamespace(network=np.array([0], np.int32), networks=(network,), phase=sampled)
    modules_of = [ModuleInfo(id=0, path="a", cls="A"), ModuleInfo(id=1, path="b", cls="B")]
    made: Any = SimpleNamespace(
        attribution=attribution, trace=trace, recording=replace(recording(), modules=modules_of)
    )
    rows = ledger((BUSY, "forward", "loss", 0, 10), (BUSY, "generate", "loss", 0, 40))
    rows = replace(rows, window=Window("w", 10, 45, 0, 50, 0))
    assert [(r.phase, r.calls) for r in networks(made, rows, None)] == [("forward", 2), ("generate", 1)]


def test_trained_dtypes_differ_or_are_known() -> None:
    from loraprof.analysis.step.busy import _trained_dtype

    def of(*dtypes: tuple[str, bool]) -> str | None:
        parameters = [
            ParameterInfo(id=i, name="w", module=0, shape=(2,), dtype=d, trainable=t, device="cpu")
            for i, (d, t) in enumerate(dtypes)
        ]
        return _trained_dtype(replace(recording(), parameters=parameters))

    assert of(("float32", True), ("bfloat16", False)) == "float32"
    assert of(("float32", True), ("bfloat16", True)) is None
    assert of(("float32", False)) is _trained_dtype(None) is None
    assert PHASE["forward"] != PHASE["generate"]
