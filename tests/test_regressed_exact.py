"""One op far below its neighbours: these reach 0.8 of their roof, a fifth of which is 0.16."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from handmade import COMPUTE, case, ledger
from msgspec.structs import replace

from loraprof.diagnosis.findings import regressed
from loraprof.diagnosis.findings.regressed import Rate
from loraprof.diagnosis.rule import Seen
from loraprof.diagnosis.worth import Worth
from loraprof.model.recording import DeviceInfo, Environment
from loraprof.model.regression import Regression
from loraprof.model.trace import Shapes
from loraprof.model.vocabulary import HostKind

Op = tuple[str, str]
MM, BMM, ADDMM = ("mm", "float"), ("bmm", "float"), ("addmm", "float")


def some(**facts: Any) -> Any:
    return SimpleNamespace(**facts)


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
