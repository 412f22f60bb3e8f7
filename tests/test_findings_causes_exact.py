"""Rules about the base, the host and several devices at their limits, in numbers worked out by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from handmade import COMPUTE, Parts, case, kernels, ledger, values, worths
from said import say_finding

from loraprof.diagnosis import expected, judge, select, what_if
from loraprof.diagnosis.catalogue import texts
from loraprof.diagnosis.findings import adapter_form, attention, comparability, distributed, networks
from loraprof.diagnosis.judge import RULES
from loraprof.diagnosis.remedy import Remedy
from loraprof.diagnosis.rule import BASE, Rule, Seen
from loraprof.diagnosis.what_if import _Edited
from loraprof.diagnosis.worth import Taken, Worth
from loraprof.model.finding import Finding, Gain, RemedyReport, Severity
from loraprof.model.recording import ModuleInfo
from loraprof.model.trace import Shapes

Op = tuple[str, str]
MM, BMM, ADDMM = ("mm", "float"), ("bmm", "float"), ("addmm", "float")


def some(**facts: Any) -> Any:
    return SimpleNamespace(**facts)


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
