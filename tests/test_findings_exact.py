"""Rules at their very limits and in exact numbers: on steps of a few numbers, with values worked out by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from handmade import COMPUTE, Parts, case, kernels, ledger, values, worths

from loraprof.analysis.partition.ledger import idle_kind
from loraprof.diagnosis.findings import adapter_form, attention, base, comparability, head, host, networks, power
from loraprof.diagnosis.remedies.power import NO_COPY_BACK
from loraprof.diagnosis.rule import Seen
from loraprof.diagnosis.select import phase
from loraprof.diagnosis.worth import Assumed, Worth
from loraprof.model.report import Unprofiled


def predicted(optimizer: int | None, clip: int | None, *, full: int = 1000, frozen: int = 0, trained: int = 0) -> Any:
    savings = SimpleNamespace(optimizer_ns=optimizer, grad_clip_ns=clip)
    return SimpleNamespace(full_ns=full, savings=savings, frozen_ns=frozen, trained_ns=trained)


def test_a_quarter_of_the_full_step_for_the_optimizer() -> None:
    def seen(*spent: int | None, now: int | None = 500, trained: int = 100) -> Seen | None:
        return comparability.optimizer_decides(case(median=now, counterfactual=predicted(*spent, trained=trained)))

    assert seen(200, 50) is None
    assert values(seen(201, 50)) == [251, 0.251, 2.0, (1000 - 251) / (500 - 100), 512]
    assert values(seen(None, 260))[0] == values(seen(260, None))[0] == 260
    assert values(seen(300, 0, trained=500))[3] is None  # nothing is left to divide by
    assert values(seen(300, 0, trained=499))[3] == 700
    assert values(seen(300, 0, now=None))[2:4] == [None, None]
    assert comparability.optimizer_decides(case(counterfactual=predicted(300, 0, full=0))) is None


def test_a_twentieth_of_the_full_step_for_the_optimizer() -> None:
    def seen(*spent: int | None, checkpointing: str | None = None) -> Seen | None:
        work = SimpleNamespace(checkpointing=checkpointing)
        return base.no_optimizer_saving(case(counterfactual=predicted(*spent), workload=work))

    assert seen(40, 10) is None
    assert values(seen(40, 9)) == [49, 0.049, 512]
    assert values(seen(None, None))[:2] == [0, 0]
    bounds = [found.values["bound"] for c in (None, "none", "full") if (found := seen(1, 1, checkpointing=c))]
    assert bounds == ["1.5x", "1.5x", "1.33x"]
    assert base.no_optimizer_saving(case(counterfactual=predicted(0, 0, full=0))) is None


def test_what_fused_kernels_may_hold_of_the_adapters_goes_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 ns under the profiler, 50 without."""
    monkeypatch.setattr(comparability, "mixed_ns", lambda *_: 100)
    found = [
        comparability.at_the_bound(case(median=1000, scale=0.5, counterfactual=predicted(0, 0, frozen=frozen)))
        for frozen in (949, 950)
    ]
    assert [one is not None for one in found] == [False, True]


def test_nine_tenths_without_adapters() -> None:
    assert comparability.at_the_bound(case(median=1000, counterfactual=predicted(0, 0, frozen=899))) is None
    seen = comparability.at_the_bound(case(median=1000, counterfactual=predicted(0, 0, full=1800, frozen=900)))
    assert values(seen) == [1.8, 2.0, 900]


@pytest.mark.parametrize(
    ("kept", "on_gpu", "high", "expected"),
    [  # of passes of 6 ms and 1 ms of attention in it, in a step of 10 ms with 4 ops
        (0.5, False, 7e6, (2_542_000, 0, 0.5 * 7e6 + 0.25 * 1.2e6)),
        (0.25, False, 7e6, (4_106_750, 1_851_250, 0.75 * 7e6 + 0.1875 * 1.2e6)),
        (0.25, True, 7e6, (4_156_250, 2_031_250, 0.75 * 7e6 + 0.1875 * 1.2e6)),
        (0.25, True, 12e6, (4_156_250, 2_031_250, 0.75 * 10e6 + 0.1875 * 1e6)),  # no more than the tokens
    ],
)
def test_padded_tokens_cost_what_grows_with_them(
    kept: float, on_gpu: bool, high: float, expected: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    worths(monkeypatch, comparability, Worth(6e6, 5e6, high), Worth(1e6, 0.8e6, 1.2e6))
    work = [SimpleNamespace(min_bytes=8)] * 4 + [SimpleNamespace(min_bytes=0), None]
    found = comparability._padded(case(median=10**7, on_gpu=on_gpu, busy=SimpleNamespace(work=work)), kept)
    assert found is not None
    assert (found.ns, found.low, found.high) == pytest.approx(expected)


def test_a_fifth_of_the_tokens_padded() -> None:
    def seen(real: int, longest: int | None = None) -> Seen | None:
        work = SimpleNamespace(tokens_per_step=1000, real_tokens_per_step=real, longest_tokens_per_step=longest)
        return comparability.padding(case(workload=work))

    assert seen(800) is None
    assert values(seen(799)) == [1000, 799, 0.799]
    assert values(seen(0, 900)) == [1000, 0, 0, 900]


def test_cold_and_noisy_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparability, "_loading", lambda case: None)

    def seen(*samples: int, low: int = 100, high: int = 100) -> Seen | None:
        given = case(recording=SimpleNamespace(timing=SimpleNamespace(samples_ns=samples, dropped=3)))
        given.analysis.links = SimpleNamespace(orphans=())
        given.timing.unprofiled = Unprofiled(median_ns=100, low_ns=low, high_ns=high, steps=9)
        return comparability.cold_timing(given)

    cold = seen(151, 100, 100)
    assert values(cold) == [151, 100, 3]
    assert cold is not None
    assert cold.values["skip"] == 9
    assert seen(150, 100, 100) is seen(151, 100) is None  # of two steps none is the usual one
    assert seen(160, 100, 160, 100) is seen(160, 160, 100, 100, 100) is None  # another one is as slow
    assert values(seen(200, 90, 100, 120))[1] == 100
    noisy = seen(100, 100, 100, low=75, high=126)
    assert values(noisy) == [100, 75, 126, 9]
    assert noisy is not None
    assert noisy.values["timed"] == 45
    assert seen(100, 100, 100, low=75, high=125) is None


def test_launch_calls_that_load_code() -> None:
    kind, long = idle_kind("launch_api"), comparability.LONG_NS
    rows = ledger(*((kind, "forward", "other", 0, ns) for ns in (long, long + 1, 300_000)))
    spent = long + 1 + 300_000
    seen = comparability._loading(case(ledger=rows, reported=rows, wall_ns=20 * spent))
    assert values(seen) == [2, spent, 0.05]
    assert seen is not None
    assert seen.spent_ns == spent
    assert comparability._loading(case(ledger=rows, reported=rows, wall_ns=20 * spent + 20)) is None


def test_shares_of_a_step() -> None:
    def dequant(ns: int) -> Seen | None:
        table = [kernels(role="dequant", count=3), kernels(count=5)]
        return base.dequantization(case(step=Parts({"kind": "busy", "role": "dequant", "ns": ns}), kernels=table))

    assert dequant(99) is None
    assert values(dequant(100)) == [100, 0.1, 3]

    def waiting(ns: int) -> Seen | None:
        return host.data_loading(case(step=Parts({"cause": "data", "ns": ns})))

    assert waiting(49) is None
    assert values(waiting(50)) == [50, 0.05]

    def loaded_by(iterator: str) -> bool:
        names = ("aten::mm", f"enumerate(DataLoader)#_{iterator}DataLoaderIter.__next__")
        trace = SimpleNamespace(names=names, host=SimpleNamespace(name=np.array([0, 1])))
        attribution = SimpleNamespace(names=SimpleNamespace(loader=np.array([False, True])))
        analysis = SimpleNamespace(on_gpu=False, trace=trace, attribution=attribution)
        seen = host.data_loading(case(step=Parts({"cause": "data", "ns": 50}), analysis=analysis))
        assert seen is not None
        assert seen.values["pinned"] == ""  # no device to copy to
        return bool(seen.values["workers"])

    assert (loaded_by("SingleProcess"), loaded_by("MultiProcessing")) == (False, True)

    def sampling(ns: int) -> Seen | None:
        rows = ledger((COMPUTE, "generate", "base.linear", 0, ns - 7), (COMPUTE, "generate", "adapter.up", 0, 7))
        return networks.rollout(case(reported=rows))

    assert sampling(99) is None
    assert values(sampling(100)) == [100, 0.1, 7]

    def recomputed(peak: int | None, total: int | None = 100, ops: tuple[str, ...] = ()) -> Seen | None:
        rows = ledger((COMPUTE, "recompute", "norm", 0, 30), (COMPUTE, "forward", "norm", 0, 970))
        memory = SimpleNamespace(peak_bytes=peak, total_bytes=total)
        return base.checkpointing(case(reported=rows, recording=SimpleNamespace(memory=memory), op_names=ops))

    assert values(recomputed(70)) == [30, 0.03, "non-reentrant", 0.7]
    told = [seen.values["memory"] for at in (69, 70, None) if (seen := recomputed(at))]
    assert told == ["", " if memory allows", " if memory allows"]
    assert values(recomputed(69, None))[3] is None
    names = ("aten::mm", "CheckpointFunctionBackward")
    kinds = [seen.values["reentrant"] for ops in (names, names[:1]) if (seen := recomputed(69, ops=ops))]
    assert kinds == [True, False]


def test_three_tenths_of_busy_time_in_what_lora_leaves_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "within", lambda *_: phase("backward"))

    def seen(head_ns: int, **facts: Any) -> Seen | None:
        each = {"attention": 100, "norm": 80, "head": head_ns, "loss": 50}
        parts = Parts(*({"kind": "busy", "role": role, "ns": ns} for role, ns in each.items()))
        return base.other_parts(case(step=parts, **{"adapter": object(), **facts}))

    assert seen(69) is seen(70, adapter=None) is None
    assert values(seen(70)) == [0.3, 100, 80, 70, 50, None]
    drawn = [kernels(role="attention", module="attn", op=op) for op in ("aten::bmm", "aten::_softmax")]
    assert values(seen(0, kernels=drawn))[-1] == "products and a softmax"
    assert seen(0, kernels=drawn[:1]) is seen(0, kernels=drawn[1:]) is None
    assert seen(0, busy_ns=0) is None
    names = ("aten::mm", "aten::_scaled_dot_product_attention_math")
    told = [seen(0, kernels=drawn, op_names=ops) for ops in (names, names[:1])]
    assert [one.remedies for one in told if one] == [(base.remedies.FAST_ATTENTION,), (base.remedies.SDPA,)]
    flash = kernels(role="attention", module="attn", op="aten::_flash_attention_forward")
    one = seen(70, kernels=[*drawn, flash])
    assert one is not None
    assert (one.evidence[-1].value, one.remedies, one.severity) == ("one kernel", (base.remedies.LIGER,), "info")


def test_slow_products_at_two_fifths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two kernels of 300 and 100 FLOPs in 500 ns each: 0.4 FLOP/ns; at the better one's rate a third of it goes."""

    def seen(peak: float, saved: Worth | None = None, op: str | None = "aten::mm", **facts: Any) -> Seen | None:
        worths(monkeypatch, base, saved)
        rows = [kernels(flops=flops, total_ns=500, op=op) for flops in (300, 100)]
        rows.append(kernels(role="norm", flops=1))
        return base.slow_products(case(kernels=rows, gemm_flops_per_s=peak, **facts))

    assert seen(1e9) is None  # at two fifths
    assert values(seen(1.001e9)) == [pytest.approx(0.4e9), 1.001e9, None]
    assert seen(2e9, busy_ns=799) is None
    found = seen(2e9, Worth(900, 800, 1000), busy_ns=800, adapter=object())
    assert found is not None
    assert found.saved is not None
    assert found.title is None
    assert (found.saved.ns, found.saved.low, found.saved.high) == pytest.approx((300, 0, 800))
    sites = [SimpleNamespace(in_features=i, out_features=o) for i, o in ((8, 16), (9, 16), (8, 17))]
    assert values(seen(2e9, sites=sites))[2] == 2
    odd = [one.values["odd"] for op in ("aten::mm", "aten::conv2d", None) if (one := seen(2e9, op=op, sites=sites))]
    assert odd == [True, False, True]


def test_workers_and_issuing(monkeypatch: pytest.MonkeyPatch) -> None:
    def ahead(wait: float, on_gpu: bool = True) -> tuple[float, float, float]:
        worths(monkeypatch, host, Worth(wait, wait / 2, wait * 1.25))
        found = host.prepared_ahead(case(median=1000, on_gpu=on_gpu))
        assert found is not None
        return found.ns, found.low, found.high

    assert ahead(600) == (600, 300, 750)
    assert ahead(800) == pytest.approx((600, 300, 750))  # 1000 - 800 / 2
    assert ahead(600, on_gpu=False) == (600, 0, 750)

    def issuing(op_ns: int | None, python: float | None) -> Seen | None:
        worths(monkeypatch, host, Worth(python, 0, python) if python is not None else None)
        work = [SimpleNamespace(min_bytes=8)] * 4 + [SimpleNamespace(min_bytes=0), None]
        recording = SimpleNamespace(calibration=SimpleNamespace(op_ns=op_ns))
        given = case(median=1000, recording=recording, workload=object(), busy=SimpleNamespace(work=work))
        return host._overhead_bound_cpu(given)

    assert issuing(50, 99) is issuing(0, 999) is issuing(None, 999) is None
    assert values(issuing(50, 100)) == [4, 50, 100, 0.3]
    assert values(issuing(75, None)) == [4, 75, None, 0.3]
    most = issuing(400, 500)
    assert values(most)[3] == 1.0
    assert most is not None
    assert most.saved is not None
    assert (most.saved.low, most.saved.ns, most.saved.high) == pytest.approx((0.15 * 1500, 0.5 * 1500, 0.9 * 1500))


def test_long_ranges_of_the_host() -> None:
    """A fifth of the step idle in Python or ops, a tenth of it in long ranges; named where most of them lie. Where
    most of the steps have none before a module, that one was an accident."""
    python, framework = idle_kind("python"), idle_kind("framework")
    rows = ledger(
        (python, "forward", "other", 0, 200_000),
        (python, "forward", "other", 1, 200_001),
        (framework, "forward", "other", -1, 200_002),
        (python, "forward", "other", 1, 200_003),
    )

    shorter = ledger((python, "forward", "other", 0, 200_001), (framework, "forward", "other", 1, 200_000))
    before_b = ledger((python, "forward", "other", 1, 300_000))

    def seen(idle_ns: int, wall_ns: int, *others: Any, **more: Any) -> Seen | None:
        parts = Parts({"cause": "python", "ns": idle_ns - 5}, {"cause": "framework", "ns": 5})
        profiled = ledger((python, "forward", "other", 0, 900_000))
        analysis = SimpleNamespace(ledgers=(profiled, *others), attribution=SimpleNamespace(paths=("a", "b")))
        facts = {"step": parts, "reported": rows, "ledger": profiled, "analysis": analysis, "wall_ns": wall_ns, **more}
        return host.python_overhead(case(**facts))

    assert values(seen(1_200_012, 6_000_060)) == [0.2, 3, 600_006, "b"]
    assert seen(1_200_012, 6_000_060, shorter, shorter) is None
    assert values(seen(1_200_012, 4_000_040, shorter, before_b))[1:] == [2, 400_004, "b"]
    assert seen(1_200_012, 4_000_040, before_b, shorter, shorter) is None  # half of them are not most
    crowded = SimpleNamespace(crowded=True, cores=0.86, unprofiled=None)
    assert values(seen(1_200_012, 4_000_040, timing=crowded))[1:] == [3, 600_006, "b"]  # 560,006 were lost
    crowded.cores = 0.84
    assert seen(1_200_012, 4_000_040, timing=crowded) is None
    assert seen(1_200_011, 6_000_060) is None
    assert seen(6_000_060, 6_000_070) is None


def test_head_and_loss_of_a_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(loss_ns: int, **facts: Any) -> Seen | None:
        parts = Parts({"kind": "busy", "role": "head", "ns": 60}, {"kind": "busy", "role": "loss", "ns": loss_ns})
        return head.head_and_loss(case(step=parts, sites=[object()], **facts))

    assert seen(39) is seen(40, busy_ns=0) is None
    assert seen(40, recording=SimpleNamespace(modules=[], parameters=[])) is None  # a loss over no vocabulary
    assert values(seen(40)) == [100, 0.1, None, None]
    work = SimpleNamespace(tokens_per_step=100, labelled_tokens_per_step=94, micro_batches=None)
    assert values(seen(40, workload=work))[4:] == [0.94]
    work.labelled_tokens_per_step = 95
    assert values(seen(40, workload=work))[4:] == []

    def fused(moved: int, batches: int | None = None) -> Worth | None:
        worths(monkeypatch, head, Worth(900, 800, 1000))
        shapes = (((4, 50), "float"), ((4, 50), "c10::BFloat16"), ((2, 50), "c10::BFloat16"), ((9, 9), "double"))
        records = [SimpleNamespace(role="loss", dims=(d,), types=(t,)) for d, t in shapes]
        work = SimpleNamespace(micro_batches=batches)
        table = [kernels(role="loss", min_bytes=moved), kernels(role="head", min_bytes=10**6)]
        return head._fused_loss(case(records=records, kernels=table, workload=work), 50)

    once, twice, less = fused(3200), fused(3200, 2), fused(800)  # 200 elements of 2 bytes, read and written
    assert (once, twice, less) == (Worth(675, 0, 750), Worth(450, 0, 500), Worth(0, 0, 0))
    assert fused(0) is None

    worths(monkeypatch, head, Worth(1000, 800, 1200), Worth(1000, 800, 1200))
    assert head._labelled_only(case(), 0.75, None) == Worth(250, 200, 300)
    assert head._labelled_only(case(), 0.75, Worth(400, 0, 800)) == Worth(550, 200, 900)


def test_the_vocabulary_is_that_of_the_largest_embedding_or_head() -> None:
    modules = [("a.wte", "Embedding"), ("a.wpe", "Embedding"), ("lm_head", "Linear"), ("q.lm_heads", "Linear")]
    table = [SimpleNamespace(id=i, path=path, cls=cls) for i, (path, cls) in enumerate(modules)]
    shapes = [(0, (40, 8)), (1, (30, 8)), (2, (50, 8)), (2, (70,)), (3, (90, 8))]
    weights = [SimpleNamespace(module=module, shape=shape) for module, shape in shapes]

    def rows(count: int) -> int | None:
        return head.vocabulary_of(case(recording=SimpleNamespace(modules=table, parameters=weights[:count])))

    assert [rows(count) for count in range(6)] == [None, 40, 40, 50, 50, 50]


def test_what_faster_attention_saves() -> None:
    mean, *ends = attention._shares([(1, 100, 50), (2, 200, 20), (5, 100, 120)])
    assert mean == pytest.approx((0.5 * 100 + 0.9 * 400 + 0) / 1000)
    assert ends == [0, 0.9]
    found = attention._saved(Worth(1000, 800, 1200), (0.5, 0.25, 0.75))
    assert found == Worth(500, 200, 900)
    assert attention._saved(None, (0.5, 0.25, 0.75)) is None
    untimed = attention._saved(Worth(1000, 800, 1200), None)
    assert untimed is not None
    assert (untimed.low, untimed.ns, untimed.high) == pytest.approx((160, 500, 960))


def test_a_fused_kernel_against_the_calibrated_rate() -> None:
    """A product of 64 tokens, 100 to 50: 1000 ns; rank 10 adds 10 (1/100 + 1/50) of it: 1300 ns."""

    def seen(spent: int, rank: int | None = 10) -> Seen | None:
        site = SimpleNamespace(in_features=100, out_features=50, base_dtype="bfloat16", rank=rank)
        row = SimpleNamespace(phase="forward", site=0, name="_fused_lora_kernel", ns=spent)
        rates = SimpleNamespace(gemm_ns=lambda *shape: 1000.0 if shape == (64, 50, 100, "bfloat16") else None)
        work = SimpleNamespace(tokens_per_step=128, micro_batches=2)
        return adapter_form.slow_fused(
            case(records=[row], rates=rates, recording=SimpleNamespace(sites=[site]), workload=work)
        )

    assert seen(1625) is None
    assert values(seen(1626))[3] == pytest.approx(0.8, abs=1e-3)
    assert values(seen(13_000)) == [1, 13_000, 1300, 0.1]
    assert values(seen(13_000, None))[2] == 1000
    assert adapter_form._tokens(case(workload=SimpleNamespace(tokens_per_step=9, micro_batches=None))) == 9


def test_memory_that_is_full_or_moves() -> None:
    def seen(reserved: int = 0, moving: int = 0, allocating: int = 0, busy_ns: int = 1000) -> Seen | None:
        memory = SimpleNamespace(reserved_bytes=reserved, total_bytes=1000, allocator_retries=0)
        copies = [
            kernels(role="copy", name="Memcpy HtoD", total_ns=moving),
            kernels(role="copy", name="Memcpy DtoH", total_ns=500, phase="other"),
        ]
        parts = Parts({"cause": "allocator", "ns": allocating})
        return power.memory_full(
            case(recording=SimpleNamespace(memory=memory), kernels=copies, step=parts, busy_ns=busy_ns)
        )

    assert seen(949) is seen(moving=10) is seen(moving=1, busy_ns=0) is seen(allocating=10) is None
    assert values(seen(950, 3, 4)) == [0.95, 0, 4, 3]
    moved, waited = seen(moving=11, allocating=10), seen(moving=10, allocating=11)
    assert moved is not None
    assert waited is not None
    assert (moved.spent_ns, waited.spent_ns) == (21, 11)
    assert seen(moving=1, busy_ns=99) is not None


def test_a_copy_back_that_hides_saves_nothing() -> None:
    saved = NO_COPY_BACK.saved
    assert saved is not None
    assert saved(case(median=9), {"back_ns": 5}) == Worth(5, 0, 5)
    assert saved(case(), {"back_ns": 5}) is None
    assert NO_COPY_BACK.fits is not None
    assert [NO_COPY_BACK.fits(case(), {"back": ns}) for ns in (0, 1)] == [False, True]


def test_shares_that_come_from_elsewhere() -> None:
    one, part = Worth(1000, 800, 1200), Assumed(0.25, 0.5, 0.75, "measured")
    assert one.share(part) == Worth(500, 200, 900, "assumed", "measured")
    assert one.plus(Worth(1, 2, 3)) == Worth(1001, 802, 1203)
    assert one.between(Worth(1, 900, 1), Worth(1, 1, 1100)) == one
    assert one.between(Worth(1, 700, 1), Worth(1, 1, 1300)) == Worth(1000, 700, 1300)
    assert one.times(0.5).at_most == Worth(500, 0, 600)
    Assumed(0, 0.5, 1, "none goes at least")
    for low, likely, high in ((0.5, 0.5, 1), (0.1, 1, 1), (-0.1, 0.5, 1)):
        with pytest.raises(ValueError, match="needs a width"):
            Assumed(low, likely, high, "")
