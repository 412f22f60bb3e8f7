"""Where the rules of findings begin, to the nanosecond, and what they say there: on steps of a few round numbers.

A step stands for itself here: parts whose sums are plain, and only what a rule asks for. Right values by hand.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from said import say_seen

from loraprof.diagnosis.findings import base, comparability, distributed, host, power, transfers
from loraprof.diagnosis.rule import Seen
from loraprof.diagnosis.worth import Worth
from loraprof.model.recording import Nvml, NvmlSample

WALL = 1000


def case(*parts: dict[str, Any], **facts: Any) -> Any:
    """A step of 1000 ns, 800 of them busy, of which nothing but ``parts`` and ``facts`` is known."""

    def ns(**wanted: Any) -> int:
        return sum(p["ns"] for p in parts if all(p.get(key) == value for key, value in wanted.items()))

    known: dict[str, Any] = {
        "step": SimpleNamespace(wall_ns=WALL, ns=ns, partition=[SimpleNamespace(**p) for p in parts]),
        "wall_ns": WALL,
        "busy_ns": 800,
        "scale": 1.0,
        "timing": SimpleNamespace(unprofiled=None, crowded=False, tokens_per_step=64, cores=None),
        "analysis": SimpleNamespace(
            on_gpu=True,
            marks=SimpleNamespace(names=("step",)),
            attribution=SimpleNamespace(compiled=None, names=SimpleNamespace(loader=np.zeros(0, np.bool_))),
            links=SimpleNamespace(orphans=0),
            trace=SimpleNamespace(gpus=[], host=SimpleNamespace(name=np.zeros(0, np.int64)), names=()),
            steps=[],
        ),
        "ledger": None,
        "timed": [],
        "kernels": [],
        "records": [],
        "sites": [],
        "numbered_sites": [],
        "op_names": frozenset(),
        "recording": None,
        "nvml": None,
        "workload": None,
        "micro_batches": 1,
        "adapter": None,
        "replay": None,
        "communication": None,
    }
    return SimpleNamespace(**known | facts)


def timed(median: int = WALL, low: int | None = None, high: int | None = None, crowded: bool = False) -> Any:
    low, high = median if low is None else low, median if high is None else high
    steps = SimpleNamespace(median_ns=median, low_ns=low, high_ns=high, steps=7)
    return SimpleNamespace(unprofiled=steps, crowded=crowded, tokens_per_step=64, cores=0.5)


def full(optimizer: int | None, clip: int | None = None, frozen: int = 900) -> Any:
    savings = SimpleNamespace(optimizer_ns=optimizer, grad_clip_ns=clip)
    return SimpleNamespace(full_ns=2000, frozen_ns=frozen, trained_ns=200, savings=savings)


def kernel(role: str, ns: int = 1, name: str = "k", phase: str = "forward", flops: int | None = None) -> Any:
    return SimpleNamespace(
        role=role, total_ns=ns, name=name, phase=phase, flops=flops, count=1, op="aten::mm", module="x"
    )


def remembered(reserved: int | None = None, retries: int = 0, peak: int | None = None) -> Any:
    memory = SimpleNamespace(
        reserved_bytes=reserved, total_bytes=100, allocator_retries=retries, peak_bytes=peak, gradients_bytes=None
    )
    return SimpleNamespace(memory=memory, environment=None, parameters=[])


def sampled(held: int, clocks: tuple[int | None, ...] = (), **violations: int) -> Nvml:
    samples = [NvmlSample(monotonic_ns=i, reasons=4 * (i < held)) for i in range(20)]
    samples += [NvmlSample(monotonic_ns=20 + i, sm_clock_mhz=mhz) for i, mhz in enumerate(clocks)]
    return Nvml(uuid="x", driver=None, steps=1, loop_ns=1000, samples=samples, violations_ns=violations)


def drawing(utilization: int) -> Nvml:
    """A third of the power that it may draw."""
    sample = NvmlSample(monotonic_ns=0, power_mw=300, utilization=utilization)
    return Nvml(uuid="x", driver=None, steps=1, loop_ns=1, samples=[sample], power_limit_mw=1000)


def facts(seen: Seen | None) -> dict[str, Any]:
    assert seen is not None
    say_seen(seen)
    return {one.what: one.value for one in seen.evidence}


def messages(*sizes: int, exposed: int = 0) -> Any:
    """Messages of 10 ns each; what is ``exposed`` lies in the first."""
    shown = np.array([exposed, *[0] * (len(sizes) - 1)][: len(sizes)], np.int64)
    times = np.maximum(shown, 10)
    return distributed.Messages(np.array(sizes, np.int64), times, shown, 4)


def of_cpu(works: int) -> Any:
    work = [SimpleNamespace(min_bytes=8)] * works + [SimpleNamespace(min_bytes=0), None]
    recording = SimpleNamespace(calibration=SimpleNamespace(op_ns=10))
    return case(
        analysis=SimpleNamespace(on_gpu=False), recording=recording, timing=timed(), workload=SimpleNamespace(),
        busy=SimpleNamespace(work=work),
    )  # fmt: skip


def padded(real: int | None, tokens: int = 1000) -> Any:
    counts = SimpleNamespace(tokens_per_step=tokens, real_tokens_per_step=real, longest_tokens_per_step=None)
    return case(workload=counts)


def products(ns: int, busy_ns: int = 800, crowded: bool = False) -> Any:
    rows = [kernel("base.linear", ns, flops=400), kernel("attention", 10**6, flops=1), kernel("base.linear", 9999)]
    timing = SimpleNamespace(unprofiled=None, crowded=crowded)
    return case(kernels=rows, gemm_flops_per_s=1e9, busy_ns=busy_ns, timing=timing)


def experts(of: int, picks: int = 1, others: int = 0) -> Any:
    """One product per expert, of 10, 20, 30... rows."""

    def record(op: str, path: str, rows: int = 5, phase: str = "forward") -> Any:
        return SimpleNamespace(op=op, phase=phase, dims=((rows, 8), (8, 8)), module=SimpleNamespace(path=path))

    rows = [record("aten::mm", f"mlp.experts.{i}.up", 10 * (i + 1)) for i in range(of)]
    rows += [record("aten::nonzero", "mlp")] * picks + [record("aten::mm", "attention.q")] * others
    return case(records=[*rows, record("aten::mm", "mlp.experts.99.up", phase="backward")])


Table = list[tuple[str, Callable[[Any], Seen | None], Callable[[int], Any], list[int], list[int]]]
EDGES: Table = [  # rule, test, step of a value, values at which it is seen, values at which it is not
    ("B1", base.no_optimizer_saving, lambda x: case(counterfactual=full(x, 40)), [0, 59], [60, 61]),
    ("B3", base.other_parts, lambda x: case({"kind": "busy", "role": "norm", "ns": x}, adapter=1), [240, 241], [239]),
    ("B4", base.dequantization, lambda x: case({"kind": "busy", "role": "dequant", "ns": x}), [80, 81], [0, 79]),
    ("B9 experts", base.expert_loop, experts, [4, 5], [0, 3]),
    ("B9 picks", base.expert_loop, lambda x: experts(4, picks=x), [1, 2], [0]),
    ("B9 share", base.expert_loop, lambda x: experts(6, others=x), [13, 14], [15]),
    ("B10 rate", base.slow_products, products, [1001], [999, 1000]),
    ("B10 busy", base.slow_products, lambda x: products(1001, busy_ns=x), [800, 801], [799]),
    ("G2", comparability.optimizer_decides, lambda x: case(counterfactual=full(x, 100)), [401], [399, 400]),
    ("G3 noise", comparability._noisy, lambda x: case(timing=timed(WALL, 900, 900 + x)), [501], [499, 500]),
    ("G4", comparability.padding, padded, [0, 799], [800, 801]),
    ("G6", comparability.at_the_bound, lambda x: case(counterfactual=full(1, 1, x), timing=timed()), [900, 901], [899]),
    ("H1 on a CPU", host._overhead_bound_cpu, of_cpu, [30, 31], [0, 29]),
    ("H4", host.data_loading, lambda x: case({"cause": "data", "ns": x}), [50, 51], [49]),
    ("N1 samples", power.throttled, lambda x: case(nvml=sampled(x)), [2], [0, 1]),
    ("N1 loop", power.throttled, lambda x: case(nvml=sampled(0, power=x)), [51], [49, 50]),
    ("N1 idle", power.throttled, lambda x: case(nvml=sampled(0, low_utilization=x)), [], [51, 999]),
    ("N2 used", power.hidden_idleness, lambda x: case(nvml=drawing(x)), [90, 91], [89]),
    ("N3 memory", power.memory_full, lambda x: case(recording=remembered(x)), [95, 96], [0, 94]),
    ("N3 retries", power.memory_full, lambda x: case(recording=remembered(1, x)), [1], [0]),
    ("N3 waits", power.memory_full, lambda x: case({"cause": "allocator", "ns": x}), [11], [9, 10]),
    ("N3 copies", power.memory_full, lambda x: case(kernels=[kernel("copy", x, "Memcpy DtoH")]), [9], [7, 8]),
    ("N3 batch", power.memory_full, lambda x: case(kernels=[kernel("copy", x, "Memcpy HtoD", "other")]), [], [9, 99]),
    ("N3 device", power.memory_full, lambda x: case(kernels=[kernel("copy", x, "Memcpy DtoD")]), [], [9, 99]),
    ("N3 name", power.memory_full, lambda x: case(kernels=[kernel("attention", x, "HtoD")]), [], [9, 99]),
]


@pytest.mark.parametrize(("rule", "test", "step", "seen", "unseen"), EDGES, ids=[row[0] for row in EDGES])
def test_where_a_rule_begins(
    rule: str, test: Callable[[Any], Seen | None], step: Callable[[int], Any], seen: list[int], unseen: list[int]
) -> None:
    values = [*seen, *unseen]
    found = [test(step(value)) for value in values]
    for one in filter(None, found):
        say_seen(one)
    assert [one is not None for one in found] == [value in seen for value in values]


D_EDGES: list[tuple[str, Callable[[Any], Seen | None], Callable[[int], Any], list[int], list[int]]] = [
    ("D1 bytes", distributed.gathers, lambda x: messages(x, exposed=100), [150, 151], [149]),
    ("D1 exposed", distributed.gathers, lambda x: messages(150, exposed=x), [100, 101], [99]),
    ("D2 median", distributed.small_messages, lambda x: messages(x, x, x), [999_999], [1_000_000]),
    ("D2 count", distributed.small_messages, lambda x: messages(*[8] * x), [3], [0, 1, 2]),
    ("D4", distributed.needless_reduction, messages, [481], [479, 480]),  # an adapter of 12 elements of 4 bytes
]


@pytest.mark.parametrize(("rule", "test", "sent", "seen", "unseen"), D_EDGES, ids=[row[0] for row in D_EDGES])
def test_where_a_rule_of_messages_begins(
    rule: str,
    test: Callable[[Any], Seen | None],
    sent: Callable[[int], Any],
    seen: list[int],
    unseen: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distributed, "_frozen_bytes", lambda _: 100)
    site = SimpleNamespace(rank=2, in_features=2, out_features=4)
    values = [*seen, *unseen]
    found = []
    for value in values:
        monkeypatch.setattr(distributed, "_messages", lambda case, *kinds, value=value: sent(value))
        found.append(test(case(sites=[site])) is not None)
    assert found == [value in seen for value in values]


def test_ratios_of_predicted_steps() -> None:
    """2000 ns in full, 500 of them the optimizer's and 100 clipping, against 1000 now, 200 of them the optimizer's."""
    told = facts(comparability.optimizer_decides(case(counterfactual=full(500, 100), timing=timed())))
    assert list(told.values()) == [600, 0.3, 2.0, 1400 / 800, 64]
    assert list(facts(base.no_optimizer_saving(case(counterfactual=full(50), timing=timed()))).values()) == [
        50,
        0.025,
        64,
    ]
    bound = facts(comparability.at_the_bound(case(counterfactual=full(1, 1, 1600), timing=timed())))
    assert list(bound.values()) == [2.0, 1.25, 1600]


@pytest.mark.parametrize(("wait", "saved"), [(300, 300), (666, 666), (800, 600), (1000, 500)])
def test_two_workers_load_at_most_half_of_the_time(wait: int, saved: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "worth", lambda *_: Worth(wait, wait, wait))
    for on_gpu in (True, False):
        gain = host.prepared_ahead(case(timing=timed(), analysis=SimpleNamespace(on_gpu=on_gpu)))
        assert gain is not None
        assert (gain.ns, gain.low, gain.high) == pytest.approx((saved, saved * on_gpu, saved))


def test_sums_hold_only_what_they_name() -> None:
    copies = [kernel("copy", 5, "Memcpy HtoD"), kernel("copy", 7, "Memcpy DtoH"), kernel("copy", 100, "Memcpy DtoD")]
    copies += [kernel("attention", 1000, "HtoD"), kernel("copy", 10, "Memcpy DtoH", "other")]
    spilled = facts(transfers.spilled(case(kernels=copies, recording=remembered(96), nvml=drawing(95))))
    assert spilled["copies between host and device in the step"] == 22
    assert facts(power.memory_full(case(kernels=copies)))[
        "time of copies between host and device inside the passes"
    ] == 12  # fmt: skip
    clocks = facts(power.throttled(case(nvml=sampled(3, (1000, None, 1200)))))
    assert clocks["mean SM clock"] == 1100
    looped = facts(base.expert_loop(case(records=experts(5, others=5).records)))
    assert list(looped.values()) == [5, 5, 0.5, 30]


def test_issuing_counts_work_alone_and_no_more_than_the_step() -> None:
    assert list(facts(host._overhead_bound_cpu(of_cpu(40))).values()) == [40, 10, None, 0.4]
    assert facts(host._overhead_bound_cpu(of_cpu(400)))["issuing, of the step"] == 1.0


@pytest.mark.parametrize(
    ("change", "is_one"),
    [
        ({}, True),
        ({"row": 0}, True),
        ({"row": -1}, False),
        ({"phase": "forward"}, False),
        ({"op": "aten::embedding_dense_backward"}, True),
        ({"dims": ((16, 5), (5, 7))}, False),
        ({"dims": ((16, 5), (5, 8), (16, 8))}, True),  # of mm.out
        ({"op": "aten::addmm", "dims": ((8,), (16, 5), (5, 8), (), ())}, True),
        ({"op": "aten::addmm", "dims": ((8,), (16, 5), (5, 7), (), ())}, False),
        ({"dims": ()}, False),
        ({"module": None}, False),
    ],
)
def test_which_product_gives_the_gradient_of_a_weight(change: dict[str, Any], is_one: bool) -> None:
    """Of a weight of 16 x 8 over 5 tokens."""
    record: dict[str, Any] = {"phase": "backward", "row": 3, "op": "aten::mm", "dims": ((16, 5), (5, 8))}
    record |= {"module": SimpleNamespace(id=1)} | change
    weights: list[Any] = [SimpleNamespace(module=1, shape=(16, 8)), SimpleNamespace(module=2, shape=(16, 7))]
    assert base._weight_gradient(SimpleNamespace(**record), weights) == is_one  # type: ignore[arg-type]
