"""Rules about the base, the host and several devices at their limits, in numbers worked out by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from handmade import COMPUTE, Parts, case, kernels, ledger, values, worths
from msgspec.structs import replace
from said import say_finding

from loraprof.diagnosis import expected, judge, select, what_if
from loraprof.diagnosis.catalogue import texts
from loraprof.diagnosis.findings import adapter_form, attention, comparability, distributed, networks, regressed
from loraprof.diagnosis.findings.regressed import Rate
from loraprof.diagnosis.judge import RULES
from loraprof.diagnosis.remedy import Remedy
from loraprof.diagnosis.rule import BASE, Rule, Seen
from loraprof.diagnosis.what_if import _Edited
from loraprof.diagnosis.worth import Taken, Worth
from loraprof.model.finding import Finding, Gain, RemedyReport, Severity
from loraprof.model.recording import DeviceInfo, Environment, ModuleInfo
from loraprof.model.regression import Regression
from loraprof.model.trace import Shapes
from loraprof.model.vocabulary import HostKind

Op = tuple[str, str]
MM, BMM, ADDMM = ("mm", "float"), ("bmm", "float"), ("addmm", "float")


def some(**facts: Any) -> Any:
    return SimpleNamespace(**facts)


# One op far below its neighbours: these reach 0.8 of their roof, a fifth of which is 0.16.


def test_an_op_a_fifth_as_fast_as_three_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regressed, "_best", lambda _, rate: rate.best)

    def slow(
        best: float = 0.15, ns: int = 50, calls: int = 3, known: Op | None = None, third: Rate | None = None
    ) -> Op | None:
        rates = {MM: Rate(600, (1,), (1.0, 0.8, 0.6)[:calls]), BMM: Rate(ns, (2,), (best, best / 2))}
        return regressed._outlier(case(), rates | ({ADDMM: third} if third else {}), known)

    assert slow() == BMM
    assert slow(0.17) is slow(ns=49) is slow(calls=2) is None
    assert (
        slow(third=Rate(60, (3,), (0.1, 0.1, 0.1)), known=MM) == ADDMM
    )  # half of the other's neighbours are slow then
    few = Rate(60, (3,), (0.01,))
    assert slow(0.02, third=few) == ADDMM  # the longer of two
    assert slow(0.02, third=few, known=BMM) == BMM
    others = regressed._others({MM: Rate(1, (), (0.5,)), BMM: Rate(2, (), (0.1, 0.2)), ADDMM: Rate(4, (), (0.3,))}, BMM)
    assert others == Rate(5, (), (0.5, 0.3))
    assert regressed._others({MM: Rate(1, (), (0.5,))}, MM) is None
    assert [regressed._fast(r) for r in (None, Rate(1, (), (0.1, 0.2)), Rate(1, (), (0.19,)))] == [False, True, False]


def test_an_op_that_is_known_to_be_slow_unless_it_is_fast_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a twentieth of the step; reported are 50, 80 and 95 % less."""
    flag = np.array([True])

    def seen(known: Op | None, spent: int = 50, **rates: Rate) -> Seen | None:
        monkeypatch.setattr(regressed, "_known", lambda _: (None, known, flag))
        monkeypatch.setattr(regressed, "_rates", lambda _: {(op, "float"): rate for op, rate in rates.items()})
        monkeypatch.setattr(regressed, "total_ns", lambda *_: spent)
        return regressed.slow_op(case())

    monkeypatch.setattr(regressed, "_best", lambda _, rate: rate.best)
    monkeypatch.setattr(regressed, "_module", lambda *_: "m")
    monkeypatch.setattr(regressed, "_like", lambda *_: flag)
    monkeypatch.setattr(regressed, "of_rows", lambda *_: None)
    monkeypatch.setattr(regressed, "worth", lambda *_: Worth(1000, 1000, 1000))
    slow, fast = Rate(50, (0,), (0.1,)), Rate(50, (0,), (0.2,))
    assert seen(None) is seen(MM, mm=fast) is seen(MM, spent=49) is None
    for found, reached, others in ((seen(MM), None, None), (seen(MM, mm=slow, bmm=fast), 0.1, 0.2)):
        assert found is not None
        assert [e.value for e in found.evidence] == ["mm in float", 50, reached, others]
        assert found.saved is not None
        assert (found.saved.low, found.saved.ns, found.saved.high) == (500, 800, 950)
    found = seen(None, mm=Rate(50, (0,), (0.1,)), bmm=Rate(9, (), (0.8,) * 3))  # an eighth of what the others reach
    assert found is not None
    assert found.saved is not None
    assert found.saved.ns == 875


def test_the_share_of_its_roof_in_the_step_in_which_it_took_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regressed, "of_rows", lambda *_: lambda step: step.busy)
    monkeypatch.setattr(regressed, "_like", lambda *_: None)
    steps = [
        ledger((COMPUTE, "forward", "head", 0, ns), (1 - COMPUTE, "forward", "head", 0, 999)) for ns in (100, 40, 0)
    ]
    given = case(ledger=steps[0])
    given.analysis.ledgers = steps
    assert regressed._best(given, Rate(1, (), (0.1, 0.2))) == pytest.approx(0.5)
    given.analysis.ledgers = [steps[2]]
    assert regressed._best(given, Rate(1, (), (0.1, 0.2))) == 0.2


def test_rates_of_products_that_are_long_enough() -> None:
    def work(flops: int, dtype: str | None = "float") -> Any:
        return some(flops=flops, dtype=dtype)

    calls = [  # ns, op, work, ns at the roof
        (100, "aten::mm", work(5), 30),
        (200, "aten::mm", work(5), 50),
        (100, "aten::mm", work(5), 29),  # below thirty times the least
        (100, None, work(5, None), 60),
        (100, "aten::mm", work(0), 60),
        (0, "aten::mm", work(5), 60),
        (100, "aten::mm", None, 60),
        (100, "aten::mm", work(5), None),
    ]
    ns, ops, works, roofs = zip(*calls, strict=True)
    busy = some(ns=np.array(ns), rows=np.arange(len(ns)), op=ops, work=works)
    limits = some(ceiling=some(least_ns=1), roofs=[None if r is None else some(ns=r) for r in roofs])
    step = some(op=np.arange(len(ns)) + 10)
    found = regressed._rates(case(busy=busy, limits=limits, ledger=step))
    assert found == {("mm", "float"): Rate(300, (10, 11), (0.3, 0.25)), ("", ""): Rate(100, (13,), (0.6,))}
    assert regressed._rates(case(busy=busy, limits=some(ceiling=None, roofs=[]), ledger=step)) == {}


KNOWN = Regression(
    op="conv", axes=3, dtypes=("bfloat16",), devices=("cuda",), torch=("2.9", "2.10"), slower=(10, 20), source="x#1",
    mended="2.10", patch="",
)  # fmt: skip


@pytest.mark.parametrize(
    ("dims", "types", "axes", "dtypes", "like"),
    [
        (((1,), (8, 4, 3, 3, 3)), ("c10::BFloat16",), 3, ("bfloat16",), True),
        (((1,), (8, 4, 3, 3)), ("c10::BFloat16",), 3, ("bfloat16",), False),
        (((1,), (8, 4, 3, 3)), ("c10::BFloat16",), None, ("bfloat16",), True),
        (((1,), (8, 4, 3, 3, 3)), ("float",), 3, ("bfloat16",), False),
        (((1,), (8, 4, 3, 3, 3)), ("float",), 3, (), True),
        (((1,),), (), -2, (), True),  # a weight without axes
        (((1,),), (), 3, ("bfloat16",), False),
    ],
)
def test_inputs_like_those_of_a_regression(
    dims: Any, types: tuple[str, ...], axes: int | None, dtypes: tuple[str, ...], like: bool
) -> None:
    assert regressed._is_like(replace(KNOWN, axes=axes, dtypes=dtypes), Shapes(dims, types)) == like


def test_a_regression_is_known_by_name_inputs_and_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    good, other = Shapes(((1,), (8, 4, 3, 3, 3)), ("c10::BFloat16",)), Shapes(((1,),), ("float",))
    rows = [  # name, shapes, kind
        ("aten::mm", 0, HostKind.OP),
        ("aten::conv3d", 1, HostKind.OP),
        ("aten::conv3d", -1, HostKind.OP),
        ("aten::conv3d", 0, HostKind.RUNTIME),
        ("aten::conv3d", 0, HostKind.OP),
        ("aten::conv3d", 0, HostKind.OP),
    ]
    names = ("aten::mm", "aten::conv3d")

    class Host:
        name = np.array([names.index(n) for n, _, _ in rows])
        shapes = np.array([s for _, s, _ in rows])
        kind = np.array([k for _, _, k in rows])
        start, end = np.arange(6) * 100, np.arange(6) * 100 + [5, 5, 5, 5, 20, 30]

        def __len__(self) -> int:
            return len(rows)

    def known(torch: str) -> Any:
        environment = Environment(loraprof="0", python="3", torch=torch, platform="Linux")
        given = case(recording=some(environment=environment, device=DeviceInfo(kind="cuda", name="A")))
        given.analysis.trace = some(host=Host(), names=names, shapes=(good, other))
        given.analysis.attribution.module = np.array([0, 0, 0, 0, 0, 1])
        return given, regressed._known(given)

    monkeypatch.setattr(regressed, "load_regressions", lambda: (KNOWN,))
    given, (one, op, flag) = known("2.9.1")
    assert (one, op, np.flatnonzero(flag).tolist()) == (KNOWN, ("conv3d", "bfloat16"), [4, 5])
    assert regressed._module(given, flag) == "b"
    assert regressed._module(given, np.arange(6) >= 4) == "b"
    given.analysis.attribution.module = np.full(6, -1)
    assert regressed._module(given, flag) == "the model"
    _, (one, op, flag) = known("2.10")
    assert (one, op, flag.any()) == (None, None, False)
    assert np.flatnonzero(regressed._like(given, (4, -1))).tolist() == [3, 4, 5]
    assert [e.value for e in regressed._sources(given, KNOWN)] == ["x#1, torch 2.9.1", "10 to 20 times", "2.10"]


# What several networks, devices and passes take.


def test_the_largest_network_that_does_not_train() -> None:
    table = [ModuleInfo(id=i, path=p, cls="C", root=root) for i, (p, root) in enumerate((("a", 0), ("b", 1), ("c", 2)))]
    parameters = [some(module=i, trainable=i == 0) for i in range(3)]
    rows = ledger(*((COMPUTE, "forward", "other", i, ns) for i, ns in ((0, 500), (1, 60), (2, 40))))
    recording = some(modules=table, parameters=parameters)
    assert values(networks.frozen_network(case(recording=recording, reported=rows))) == [2, "b", 100, 0.1]
    assert networks.frozen_network(case(recording=recording, reported=rows, wall_ns=1001)) is None
    assert networks.frozen_network(case(recording=some(modules=table, parameters=parameters[:1]))) is None
    assert networks.frozen_network(case(recording=some(modules=table, parameters=parameters[1:]))) is None


@pytest.mark.parametrize(
    ("elements", "scattered", "micro", "seen"),
    [(121, 0, None, True), (120, 0, None, False), (0, 481, None, True), (0, 480, None, False), (0, 960, 2, False)],
)
def test_ten_times_the_adapters_own(
    elements: int, scattered: int, micro: int | None, seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adapters of 12 elements, 48 bytes of gradients."""
    none = np.zeros(0, np.int64)

    def messages(_: Any, *kinds: str) -> distributed.Messages:
        sizes = np.array([scattered], np.int64) if "reduce_scatter" in kinds else none
        return distributed.Messages(sizes, none, none, 2)

    monkeypatch.setattr(distributed, "_messages", messages)
    flat = [some(trainable=True, name="_flat_param", shape=(elements,))] if elements else []
    recording = some(parameters=[*flat, some(trainable=True, name="weight", shape=(999,))], memory=None)
    sites = [some(rank=2, in_features=2, out_features=4), some(rank=None, in_features=2, out_features=4)]
    found = distributed.mixed_units(case(recording=recording, sites=sites, workload=some(micro_batches=micro)))
    assert (found is not None) == seen
    if found is not None:
        values(found)
    assert distributed._frozen_bytes(case(recording=recording, collectives=None)) == 0
    assert distributed._frozen_bytes(case(collectives=1)) == 0


def test_gradients_that_never_come_and_weights_that_should_not() -> None:
    def module(path: str, **facts: Any) -> Any:
        return some(**{"path": path, "site": None, "root": 0, "in_features": None, **facts})

    table = [module("h.0.a", site=0), module("h.0.b", in_features=8), module("lm_head"),
             module("other", in_features=8, root=1), module("decoder.1.a", in_features=8),
             module("h.1.a", in_features=8)]  # fmt: skip

    def seen(*parameters: tuple[int, str | None, tuple[int, ...]], missing: tuple[str, ...] = ()) -> Seen | None:
        given = [
            some(id=i, module=m, name="w", part=part, shape=shape, trainable=True)
            for i, (m, part, shape) in enumerate(parameters)
        ]
        parts = Parts(*({"phase": p, "ns": ns} for p, ns in (("forward", 10), ("backward", 20), ("recompute", 5))))
        recording, work = some(modules=table, parameters=given), some(missing_gradients=missing)
        return comparability.not_training(case(recording=recording, workload=work, sites=[object()], step=parts))

    assert values(seen((0, "down", (8, 2)), missing=("h.0.a.w",))) == [1, 1, 0, "h.0.a.w", 2.5]
    assert values(seen((0, "down", (8, 2)), (1, None, (8, 8)))) == [1, 0, 1, "h.0.b.w", 2.5]
    assert values(seen((1, "base", (8, 8)), (0, "up", (8, 2)))) == [1, 0, 1, "h.0.b.w", 2.5]
    for one in ((1, None, (8,)), (2, None, (8, 8)), (3, None, (8, 8)), (0, None, (8, 8)), (0, "up", (8, 8))):
        assert seen(one) is None
    for beside in (4, 5):  # trained as a whole; a pair as wide as its layer, beside one that is not
        assert seen((0, "down", (8, 2)), (beside, None, (8, 8))) is None


# The adapter's kernels.


@pytest.mark.parametrize(
    ("change", "is_one"),
    [
        ({}, True),
        ({"role": "adapter.up"}, False),
        ({"site": None}, False),
        ({"dims": ((2, 5),)}, False),
        ({"dims": ((2, 5), "?")}, False),
        ({"dims": ("?", (5, 8))}, False),
        ({"dims": ((2, 5), (5, 7))}, False),
        ({"dims": ((8, 5), (5, 2))}, True),
        ({"dims": ((2, 2), (2, 8))}, False),  # as many tokens as the rank: its left operand was not transposed
        ({"dims": ((2, 2), (2, 8)), "row": 1}, True),
    ],
)
def test_products_as_large_as_a_factor(change: dict[str, Any], is_one: bool) -> None:
    """Of rank 2, of 8 inputs and 6 outputs, over 5 tokens."""
    record = some(**{"role": "adapter.down", "site": 0, "dims": ((2, 5), (5, 8)), "row": 0, **change})
    given = case(recording=some(sites=[some(rank=2, in_features=8, out_features=6)]))
    plain, turned = Shapes((), (), ((2, 1),)), Shapes((), (), ((1, 2),))
    given.analysis.trace = some(shapes=(plain, turned), host=some(shapes=np.array([0, 1])))
    assert adapter_form._weight_gradient(given, record) == is_one


def test_a_tenth_of_the_launches_for_split_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_form, "_weight_gradient", lambda _, record: record.site == 0)

    def record(**change: Any) -> Any:
        usual = {"role": "adapter.up", "phase": "backward", "name": "splitKreduce", "site": 0, "blocks": 7, "ns": 3}
        return some(**{**usual, **change})

    rows = [record(), record(name="x_reduce_y", blocks=8), record(phase="forward"), record(role="norm"), record(site=1)]
    rows += [record(name="gemm"), record(blocks=-1, role="adapter.down")]

    def seen(launches: int, on_gpu: bool = True, gpus: int = 1) -> Seen | None:
        given = case(records=rows, busy=some(rows=range(launches)), on_gpu=on_gpu, spent_ns=len)
        given.analysis.trace = some(gpus=[some(sms=8)] * gpus)
        return adapter_form.split_gradients(given)

    assert values(seen(60)) == [3, 0.1, 1, 3]
    assert values(seen(60, gpus=0))[2] is None
    assert seen(61) is seen(60, on_gpu=False) is None


def test_a_fused_kernel_is_compared_where_all_is_known() -> None:
    row = some(phase="forward", site=0, name="lora_fwd", ns=100)
    site = some(in_features=10, out_features=5, base_dtype="bfloat16", rank=2)
    facts: dict[str, Any] = {
        "records": [row, some(phase="backward", site=0, name="lora_bwd", ns=9), some(**{**vars(row), "site": None})],
        "rates": some(gemm_ns=lambda *_: 10.0),
        "workload": some(tokens_per_step=8, micro_batches=2),
        "recording": some(sites=[site]),
    }
    assert values(adapter_form.slow_fused(case(**facts))) == [1, 100, round(10 * 1.6), 0.16]
    for name in ("rates", "workload", "recording"):
        assert adapter_form.slow_fused(case(**{**facts, name: None})) is None
    assert adapter_form.slow_fused(case(**{**facts, "records": []})) is None
    assert adapter_form.slow_fused(case(**{**facts, "rates": some(gemm_ns=lambda *_: None)})) is None


# Which attention kernel could have run.


@pytest.mark.parametrize(
    ("dims", "types", "concrete", "on_gpu", "reasons"),
    [
        (((1, 8, 64, 64),) * 3, ("c10::BFloat16",), (), True, ()),
        (((1, 8, 64, 64),) * 4, ("c10::BFloat16",), (), True, ("a mask",)),
        (((1, 8, 64, 64),) * 4, ("c10::BFloat16",), (), False, ()),
        ((*((1, 8, 64, 64),) * 3, ()), ("float",), ("",) * 4 + ("0.1",), True, ("float32",)),
        (((1, 8, 64, 64),) * 3, ("float",), ("",) * 4 + ("0.1",), False, ("dropout 0.1",)),
        (((1, 8, 64, 64),) * 3, ("float",), ("",) * 4 + ("x",), False, ()),
        (((1, 8, 64, 264),), ("c10::Half",), (), True, ("head size 264",)),
        (((1, 8, 64, 256),), ("c10::Half",), (), True, ()),
        (((1, 8, 64, 100),), ("c10::Half",), (), True, ("head size 100",)),
        (((8, (100,)),), (), (), True, ()),
        (((),), (), (), True, ()),
        ((), (), (), True, ()),
    ],
)
def test_arguments_that_flash_attention_refuses(
    dims: Any, types: tuple[str, ...], concrete: tuple[str, ...], on_gpu: bool, reasons: tuple[str, ...]
) -> None:
    assert attention._why(Shapes(dims, types, (), concrete), on_gpu) == reasons


def test_copies_inside_layers_whose_adapter_is_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[Any]()
    monkeypatch.setattr(adapter_form, "modules", lambda _, choose: asked.append(choose) or (lambda rows: rows.busy))
    monkeypatch.setattr(adapter_form, "worth", lambda *_: Worth(9, 8, 10))
    rows = ledger((COMPUTE, "forward", "copy", 0, 30), (COMPUTE, "forward", "norm", 0, 4))

    def seen(*devices: str) -> Seen | None:
        parameters = [some(part=part, device=on) for part, on in zip(("base", "down", "up"), devices, strict=True)]
        return adapter_form.other_device(case(recording=some(parameters=parameters), reported=rows))

    found = seen("cuda:0", "cpu", "cuda:0")
    assert found is not None
    assert [e.value for e in found.evidence] == [1, "cpu", "cuda:0", 30]
    assert [asked[0](some(site=at)) for at in (0, None)] == [True, False]
    assert seen("cpu", "cpu", "cpu") is None


# What changes give, and their order.


@pytest.mark.parametrize(("moved", "stays"), [(5740, 0.5), (1000, 1.0), (None, 1.0)])
def test_a_fused_optimizer_on_a_gpu_takes_what_stays(
    moved: int | None, stays: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """410 bytes in seven passes."""
    worths(monkeypatch, expected, Worth(10_000, 9000, 12_000))
    monkeypatch.setattr(expected, "_fewer_launches", lambda _, share: Worth(share, 0, 1))
    parameters = [
        some(shape=(10, 10), dtype="float32", trainable=True),
        some(shape=(5,), dtype="bfloat16", trainable=True),
    ]
    given = case(
        recording=some(parameters=parameters, calibration=None),
        workload=some(optimizer="AdamW"),
        kernels=[kernels(role="optimizer", min_bytes=moved)],
    )
    found = expected._fused_optimizer(given)
    assert isinstance(found, Worth)
    assert found.ns == pytest.approx(stays)


@pytest.mark.parametrize(("saved", "severity"), [(49, "minor"), (50, "major")])
def test_a_twentieth_of_the_step_is_major(saved: int, severity: str) -> None:
    rule = Rule(
        id="X1",
        family=BASE,
        test=lambda _: Seen(evidence=[], saved=Worth(saved, saved, saved, basis="measured")),
        remedies=(Remedy(kind="numerics", text={"plain": "less"}),),
        text=texts()["B5"],
    )
    found = rule.find(case(median=1000, peft=False))
    assert found is not None
    say_finding(found)
    assert found.severity == severity


def finding(id: str, severity: Severity = "minor", arm: str | None = None) -> Finding:
    gain = Gain(ns=100, speedup=1.2, low=1.1, high=1.3, basis="model")
    remedy = RemedyReport(kind="numerics", stack="plain", text=f"text of {id}", arm=arm, gain=gain)
    return Finding(id=id, severity=severity, title="", evidence=[], remedy="", gain=gain, remedies=[remedy])


@pytest.mark.parametrize(
    ("others", "left"),
    [
        ([("H1", "major"), ("B6", "minor"), ("L5", "minor")], ["H1", "B6", "L5"]),
        ([("B6", "minor"), ("L5", "minor")], ["G6", "B6"]),
        ([("L1", "major"), ("L5", "minor")], ["G6", "L1"]),
    ],
)
def test_nothing_to_gain_in_a_family_goes_where_something_else_is_major(
    others: list[tuple[str, Severity]], left: list[str]
) -> None:
    found = [(RULES[id], finding(id, severity)) for id, severity in [("G6", "info"), *others]]
    assert [one.id for one in judge._consistent(found)] == left


def test_a_change_that_helps_twice_is_offered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(what_if, "_worth", lambda *_: None)
    found = [finding("L1", arm="x"), finding("L2", arm="x"), finding("L5"), finding("L6")]
    assert [offer.choice.id for offer in what_if._offers(case(), found)] == ["L1", "L5", "L6"]


def test_what_is_left_of_replayed_records() -> None:
    """Records 2, 0 and 5 are replayed; the ledger has entries of an idle time, of record 0 and of record 2."""
    timed: Any = some(ledger=some(record=np.array([-1, 0, 2])))
    edited = _Edited(timed, some(step=some(record=np.array([2, 0, 5]))))
    left, launched = edited._records(Taken(np.array([0.9, 0.25, 0.5]), np.array([0.9, 0.125, 1.5])))
    assert (left.tolist(), launched.tolist()) == ([0.5, 0.75, 1], [0, 0.875, 1])


def test_entries_below_the_first_row() -> None:
    given = case()
    given.analysis.attribution.tree = some(nearest=lambda flag: np.where(flag, 0, -1))
    chosen = select.of_rows(given, np.array([True, False]))
    step: Any = some(busy=np.array([True, True, True, False]), op=np.array([0, 1, -1, 0]))
    assert chosen(step).tolist() == [True, False, False, False]
    assert not select.of_rows(given, np.zeros(0, dtype=np.bool_))(step).any()
