"""The adapter's rules at their limits, and what orders causes and changes: few numbers, right values by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from handmade import COMPUTE, Parts, case, kernels, ledger, values, worths

from loraprof.diagnosis.findings import adapter, advice, host
from loraprof.diagnosis.proposed import gains
from loraprof.diagnosis.remedy import compare_command
from loraprof.diagnosis.rule import Seen
from loraprof.diagnosis.separate import unclear
from loraprof.diagnosis.what_if import _Edited
from loraprof.diagnosis.worth import Worth
from loraprof.model.finding import Finding, Gain, RemedyReport
from loraprof.model.report import Interval


def site(path: str = "q_proj", **changes: Any) -> Any:
    usual = {"in_features": 10, "out_features": 6, "dtype": "float32", "base_dtype": "bfloat16", "rank": 8}
    return SimpleNamespace(**{**usual, "path": path, "dropout": 0.0, **changes})


def record(**changes: Any) -> Any:
    usual = {"role": "adapter.down", "phase": "forward", "gemm_type": "float", "op": "aten::mm", "row": 0, "site": 0}
    more = {"dims": ((5, 10), (10, 8)), "conversion": None, "types": ("float", "float"), "name": "gemm", "ns": 10}
    return SimpleNamespace(**{**usual, **more, **changes})


def chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What host rows and names select is not asked."""
    for name in ("of_rows", "within", "modules"):
        monkeypatch.setattr(adapter, name, lambda *_: lambda ledger: ledger.busy)
    for name in ("conversions", "like"):
        monkeypatch.setattr(adapter, name, lambda *_, **__: None)


def test_three_tenths_of_the_adapter_stream_at_half_the_bandwidth() -> None:
    """Of 100 ns; 40 bytes in 10 ns and 60 in 20: half of them move at 3 bytes per ns, or faster."""

    def seen(spent: int = 30, stream: float = 6e9, **facts: Any) -> Seen | None:
        rows = [kernels(role="adapter.elementwise", min_bytes=n, total_ns=ns) for n, ns in ((40, 10), (60, 20), (0, 9))]
        rows.append(kernels(role="norm", min_bytes=999))
        parts = Parts({"kind": "busy", "role": "adapter.elementwise", "ns": spent})
        rates = SimpleNamespace(stream_bytes_per_s=stream)
        return adapter.elementwise(case(**{"step": parts, "adapter_ns": 100, "kernels": rows, "rates": rates, **facts}))

    assert values(seen()) == [0.3, 100, 3e9, 6e9]
    assert seen(29) is seen(stream=6.1e9) is seen(stream=0) is seen(adapter_ns=0) is seen(rates=None) is None
    assert seen(kernels=[]) is None


@pytest.mark.parametrize(
    ("moved", "fused", "pointwise"),
    [(3200, (950, 500, 1300), 650), (1000, (840, 0, 1300), 0), (100, (0, 0, 1300), 0)],
)
def test_bytes_that_stay_where_work_is_fused(
    moved: int, fused: tuple[float, ...], pointwise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five tokens of 10 inputs and 6 outputs: 80 values, of which 2 bytes stay in one function, 14 in pieces."""
    worths(monkeypatch, adapter, Worth(1000, 500 / 0.65, 1300))
    rows = [record(), record(), record(row=1, phase="backward"), record(row=2, gemm_type=None)]
    rows.append(record(row=3, role="adapter.up"))
    one, apart = adapter._fusable(case(records=rows, sites=[site()]), moved)
    assert one is not None
    assert apart is not None
    assert (one.ns, one.low, one.high) == pytest.approx((fused[0], pointwise / 0.65 * 0.5, fused[2]))
    assert apart.ns == pytest.approx(pointwise)


def test_bytes_that_stay_are_not_known_of_every_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    for rows in ([record(site=None)], [record(site=2)], [record(dims=())], []):
        worths(monkeypatch, adapter, Worth(1000, 900, 1100))
        assert adapter._fusable(case(records=rows, sites=[site(), site()]), 100) == (None, None)
    worths(monkeypatch, adapter, Worth(1000, 900, 1100))
    same = site(dtype="bfloat16")  # no casts: 80 values of 2 + 2 * 2 bytes
    one, apart = adapter._fusable(case(records=[record(site=None), record(row=1)][1:], sites=[same]), 960)
    assert one is not None
    assert apart is not None
    assert (one.ns, apart.ns) == pytest.approx((1000 * (1 - 160 / 960), 500))


def test_half_of_the_products_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen(monkeypatch)
    rows = ledger((COMPUTE, "forward", "adapter.down", 0, 100))

    def seen(wide: int, narrow: int, *more: Any, dtype: str = "float32") -> Seen | None:
        worths(monkeypatch, adapter, Worth(100, 90, 110), Worth(400, 300, 500), Worth(50, 40, 60), Worth(80, 70, 90))
        given = [record() for _ in range(wide)] + [record(gemm_type="c10::BFloat16") for _ in range(narrow)]
        given += [record(site=1), record(role="norm"), record(gemm_type=None)]
        both = [site(dtype=dtype), site(base_dtype="float32")]
        return adapter.fp32_adapters(case(records=[*given, *more], sites=both, reported=rows, spent_ns=len))

    found = seen(2, 2)
    assert values(found) == [1, 2, 2, 100]
    assert found is not None
    assert found.saved is not None
    assert (found.saved.ns, found.saved.low, found.saved.high) == (125, 90, 305)
    assert found.values["plain"]
    assert found.values["autocast"] == Worth(40, 0, 45)
    tensor = seen(2, 2, record(name="tf32_gemm"))
    assert tensor is not None
    assert not tensor.values["plain"]
    assert seen(2, 3) is seen(0, 0) is seen(2, 2, dtype="bfloat16") is None


def test_work_whose_tensors_are_all_float32() -> None:
    rows = [
        record(row=0),
        record(row=-1),
        record(site=1),
        record(role="norm"),
        record(conversion=("float", "c10::Half")),
        record(types=("float", "c10::BFloat16")),
        record(types=("long", "")),
        record(row=7, types=("long", "float")),
    ]
    assert [r.row for r in adapter._wide(case(records=rows), {0})] == [0, 7]


def test_dropout_without_a_probability_or_without_time_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen(monkeypatch)

    def seen(probability: float, spent: int) -> Seen | None:
        rows = ledger((COMPUTE, "forward", "adapter.elementwise", 0, spent))
        drawn = [
            kernels(role="adapter.elementwise", op=op, phase=phase, count=count)
            for op, phase, count in (
                ("aten::bernoulli_", "forward", 2),
                ("aten::native_dropout", "recompute", 3),
                ("aten::native_dropout_backward", "backward", 5),
                ("aten::mul", "forward", 7),
            )
        ]
        sites = [site(dropout=probability), site()]
        return adapter.dropout(case(reported=rows, sites=sites, kernels=[*drawn, kernels(op="aten::bernoulli_")]))

    assert values(seen(0.1, 100)) == [0.1, 5, 100]
    asked = list[Any]()
    monkeypatch.setattr(adapter, "modules", lambda _, choose: asked.append(choose) or (lambda ledger: ledger.busy))
    seen(0.1, 100)
    kinds = [SimpleNamespace(site=at, cls=cls) for at in (None, 0) for cls in ("Linear", "Dropout1d")]
    assert [asked[0](one) for one in kinds] == [False, False, False, True]
    assert seen(0.0, 100) is seen(0.1, 0) is None
    given = case(reported=ledger((COMPUTE, "forward", "adapter.elementwise", 0, 100)), sites=[site(dropout=0.1)])
    given.analysis.attribution.compiled = SimpleNamespace(mixed=None)
    worths(monkeypatch, adapter)  # what of a kernel's time draws the mask is not known
    assert values(adapter.dropout(given)) == [0.1, 0, 100, 100]


def test_products_below_half_the_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bandwidth of 4 bytes per ns and 80 FLOP per ns: a ridge of 20 FLOP per byte; 10 of them are half."""

    def seen(flops: int, nbytes: int = 100, ns: int = 30, rank: int | None = 8, own: int = 100) -> Seen | None:
        rows = ledger((COMPUTE, "forward", "adapter.down", 0, own - 1), (COMPUTE, "backward", "adapter.up", 0, 1))
        monkeypatch.setattr(adapter, "_products", lambda _: adapter._Products(flops, nbytes, ns, 80e9))
        sites = [site(f"attn.{name}", rank=rank) for name in ("q_proj", "k_proj", "v_proj", "o_proj")]
        rates = SimpleNamespace(stream_bytes_per_s=4e9)
        return adapter.bandwidth_bound(case(ledger=rows, rates=rates, sites=sites))

    assert values(seen(999)) == [0.3, 9.99, 20.0, 0.5]
    assert seen(1000) is seen(999, ns=29) is None
    assert seen(99, nbytes=60) is not None  # 2 bytes per ns: half the bandwidth
    assert seen(99, nbytes=59) is None
    free = [
        found.values["free"] for rank, flops in ((8, 250), (8, 249), (None, 1)) if (found := seen(flops, rank=rank))
    ]
    assert free == ["", "; r up to 64 costs almost no time", ""]  # 2.5 * 64 = 20 * 8
    monkeypatch.setattr(adapter, "_products", lambda _: adapter._Products(1, 1, 30, 80e9))
    rows, rates = ledger((COMPUTE, "forward", "adapter.down", 0, 100)), SimpleNamespace(stream_bytes_per_s=60e6)
    unknown = adapter.bandwidth_bound(case(ledger=rows, rates=rates))
    assert unknown is not None
    assert unknown.values["free"] == ""  # no layer's rank is known
    groups = [found.values["groups"] for found in (seen(1),) if found]
    assert groups == ["q_proj+k_proj+v_proj"]


def test_layers_that_read_what_another_one_reads() -> None:
    """All of a group below one module, and nothing but it or more."""
    names = "0.q 0.k 0.v 0.o 1.gate 1.up 2.q 3.k 3.v"
    paths = [f"{name}_proj" for name in names.split()]
    groups = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
    assert adapter._sharable(case(sites=[site(path) for path in paths])) == ({1, 2, 5}, [*groups])
    assert adapter._sharable(case(sites=[site(path) for path in paths[6:]])) == (set(), [])


@pytest.mark.parametrize(
    ("names", "keep", "stay"),
    [
        ("q_proj v_proj k_proj", "['q_proj', 'v_proj']", 2),
        ("q_proj v_proj", None, 0),
        ("c_attn c_fc", None, 0),
        ("c_attn c_fc c_proj", "['c_attn']", 1),
        ("o_proj up_proj down_proj", None, 0),
    ],
)
def test_more_targets_than_attention_needs(names: str, keep: str | None, stay: int) -> None:
    sites = [site(f"layers.0.{name}") for name in names.split()]
    rows = ledger((COMPUTE, "forward", "adapter.down", 0, 100), (COMPUTE, "forward", "norm", 0, 10))

    def seen(launches: int) -> Seen | None:
        busy = SimpleNamespace(rows=range(10))
        own = SimpleNamespace(launches=launches)
        return adapter.too_many_targets(case(sites=sites, reported=rows, adapter=own, busy=busy))

    found = seen(3)
    assert seen(2) is None
    if keep is None:
        assert found is None
    else:
        assert values(found) == [3, stay, 0.3, 0]
        assert found is not None
        assert found.values["keep"] == keep
        assert [remedy.arm for remedy in found.remedies] == ["lora-qv" if stay == 2 else None]


def test_a_step_that_waits_for_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three tenths of 1000 ns, in 20 launches, half of them late, or a seventh gained by a host twice as fast."""

    def seen(waited: int = 300, launches: int = 20, late: int = 10, faster: int | None = None) -> Seen | None:
        monkeypatch.setattr(host, "total_ns", lambda *_: waited)
        monkeypatch.setattr(host, "_events", lambda _, cause: late if cause == "launch_api" else 1)
        gained = Worth(faster, faster, faster) if faster is not None else None
        monkeypatch.setattr(host, "_faster_host", lambda *_: gained)
        given = case(busy=SimpleNamespace(rows=range(launches)), replay=None)
        given.analysis.floor_ns = 5
        return host.launch_bound(given)

    assert values(seen()) == [0.3, 10, 20, None]
    assert seen(299) is seen(launches=19) is seen(late=9) is seen(late=9, faster=149) is None
    assert values(seen(late=9, faster=150)) == [0.3, 9, 20, 150]


def finding(id: str, ns: int, low: float, high: float) -> Finding:
    gain = Gain(ns=ns, speedup=(low + high) / 2, low=low, high=high, basis="model")
    remedy = RemedyReport(kind="numerics", stack="plain", text="", arm=None, gain=gain)
    return Finding(id=id, severity="major", title="", evidence=[], remedy="", gain=gain, remedies=[remedy])


def test_causes_whose_intervals_touch_are_not_told_apart() -> None:
    first = finding("L2", 200, 1.2, 1.4)
    assert unclear(case(), [first, finding("L1", 100, 1.0, 1.2)]) is not None
    assert unclear(case(), [first, finding("L1", 100, 1.0, 1.19)]) is None
    one = finding("L2", 200, 1.0, 1.01).remedies[0]
    assert one.gain is not None
    assert one.gain.speedup == 1.005
    assert not gains(one)
    assert gains(finding("L2", 200, 1.0, 1.012).remedies[0])


def test_full_fine_tuning_is_faster_with_its_whole_interval() -> None:
    def seen(high: int, saved: int | None = 0, comm: int | None = None) -> Seen | None:
        other = SimpleNamespace(
            full_ns=900, full=Interval(low=800, high=high), added_ns=7, savings=SimpleNamespace(comm_ns=comm)
        )
        exchanged = SimpleNamespace(saved_bytes=saved)
        sites = [site(in_features=n, out_features=50) for n in (10, 20, 90)]
        return advice.wrong_lever(case(median=1000, counterfactual=other, communication=exchanged, sites=sites))

    found = seen(999)
    assert values(found) == [1000, 900, 999, 7, 20, None]
    assert found is not None
    assert found.saved == Worth(100, 1, 200)
    assert seen(1000) is seen(999, saved=5) is seen(999, saved=None) is None
    assert seen(999, saved=5, comm=3) is not None


@pytest.mark.parametrize(
    ("arms", "facts", "offered"),
    [
        (["full"], {}, True),
        (["full", "lora-bf16"], {}, False),
        (["lora-bf16"], {"kind": "builtin"}, True),
        (["full"], {"world_size": 2}, False),
        (["full"], {"dtypes": ("float32", "float16")}, False),
        (["full"], {"dtypes": ("float32", "uint8")}, False),
        (["full"], {"peft": False}, False),
    ],
)
def test_which_arms_a_script_can_be_compared_in(arms: list[str], facts: dict[str, Any], offered: bool) -> None:
    work = SimpleNamespace(kind=facts.get("kind", "script"), name="w", argv=["train.py"])
    recording = SimpleNamespace(
        environment=SimpleNamespace(world_size=facts.get("world_size", 1)),
        parameters=[SimpleNamespace(dtype=dtype) for dtype in facts.get("dtypes", ("float32",))],
    )
    given = case(workload=work, recording=recording, peft=facts.get("peft", True))
    command = compare_command(given, arms)
    assert (command is not None) == offered
    assert command is None or command.startswith(f"loraprof compare --arms lora,{','.join(arms)} ")
    assert compare_command(case(recording=recording), arms) is compare_command(case(workload=work), arms) is None


def test_replayed_records_and_their_entries() -> None:
    """Records 2, 0 and 5 are replayed; the ledger has entries of an idle time, of record 0 and of record 2."""
    timed: Any = SimpleNamespace(ledger=SimpleNamespace(record=np.array([-1, 0, 2])))
    replay: Any = SimpleNamespace(step=SimpleNamespace(record=np.array([2, 0, 5])))
    assert _Edited(timed, replay)._entry.tolist() == [2, 1, -1]
