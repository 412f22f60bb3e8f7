"""Which entries of a step go, what that is worth, and which rows are what: on steps of a few entries."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from loraprof.analysis.partition.ledger import idle_kind
from loraprof.analysis.step.records import Record, conversion_of
from loraprof.diagnosis.case import gain, timed_ledger
from loraprof.diagnosis.rows import conversions, element_bytes, kineto_bytes, rows_of
from loraprof.diagnosis.select import both, busy_ns, either, idle, phase, roles, saved_ns, total_ns, without, worth
from loraprof.diagnosis.worth import Assumed, HostEdit, Taken, Worth
from loraprof.model.recording import ModuleInfo
from loraprof.model.report import Unprofiled
from loraprof.model.trace import Shapes
from loraprof.model.vocabulary import CLASSES, PHASE, ROLE, HostKind

COMPUTE, PYTHON, SYNC = CLASSES.index("compute"), idle_kind("python"), idle_kind("sync")
FORWARD, BACKWARD = PHASE["forward"], PHASE["backward"]
DOWN, BASE = ROLE["adapter.down"], ROLE["base.linear"]


def ledger(*rows: tuple[int, int, int, int, int]) -> Any:
    """Entries (kind, phase, role, module, ns)."""
    kind, phases, role, module, ns = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    return SimpleNamespace(kind=kind, phase=phases, role=role, module=module, ns=ns, busy=kind == COMPUTE)


STEP = ledger(
    (COMPUTE, FORWARD, DOWN, 0, 10),
    (COMPUTE, FORWARD, DOWN, 0, 30),
    (PYTHON, FORWARD, DOWN, 0, 8),
    (COMPUTE, BACKWARD, DOWN, 0, 20),
    (SYNC, BACKWARD, DOWN, 0, 6),
    (COMPUTE, FORWARD, BASE, 1, 100),
    (PYTHON, FORWARD, BASE, 1, 5),
)


def chosen(select: Any) -> list[int]:
    return np.flatnonzero(select(STEP)).tolist()


def test_masks_over_a_ledger() -> None:
    assert chosen(roles("adapter.down")) == [0, 1, 2, 3, 4]
    assert chosen(roles("adapter.down", phase="forward")) == [0, 1, 2]
    assert chosen(roles("adapter.down", "base.linear", phase="backward")) == [3, 4]
    assert chosen(phase("backward")) == [3, 4]
    assert chosen(without(phase("backward"))) == [0, 1, 2, 5, 6]
    assert chosen(both(roles("base.linear"), idle("python", "sync"))) == [6]
    assert chosen(either(phase("backward"), roles("base.linear"))) == [3, 4, 5, 6]


def test_idle_time_of_some_length() -> None:
    """Longer than ``above_ns``, no longer than ``upto_ns``."""
    assert chosen(idle("python")) == [2, 6]
    assert chosen(idle("python", "sync")) == [2, 4, 6]
    assert chosen(idle("python", above_ns=5)) == [2]
    assert chosen(idle("python", above_ns=8)) == []
    assert chosen(idle("python", upto_ns=5)) == [6]
    assert chosen(idle("python", upto_ns=4)) == []


def timed_case(*ledgers: Any, low: int = 90, high: int = 120) -> Any:
    timed = [timed_ledger(one, one.ns.astype(np.float64)) for one in ledgers]
    unprofiled = Unprofiled(median_ns=100, low_ns=low, high_ns=high, steps=9)
    return SimpleNamespace(
        reported=ledgers[0], timed=timed, timing=SimpleNamespace(unprofiled=unprofiled), recording=None
    )


def test_work_that_goes_takes_its_share_of_the_idle_time_before_it() -> None:
    """Both launches of A's forward go, and the 8 ns before them; of one launch, half of that."""
    case = timed_case(STEP)
    assert (total_ns(case, roles("adapter.down")), busy_ns(case, roles("adapter.down"))) == (74, 60)
    every = worth(case, both(roles("adapter.down", phase="forward"), lambda one: one.busy))
    one = worth(case, lambda found: np.arange(len(found.ns)) == 1)
    assert every is not None
    assert one is not None
    assert (every.ns, one.ns) == (48.0, 34.0)
    assert (every.low, every.high) == pytest.approx((0.9 * 48, 1.2 * 48))
    alone = worth(case, both(phase("backward"), lambda found: found.busy))
    assert alone is not None
    assert alone.ns == 26.0  # the only launch of its kind, and all that waits for it
    stays = worth(case, both(roles("adapter.down", phase="forward"), lambda one: one.busy), waiting=False)
    assert stays is not None
    assert stays.ns == 40.0


def test_idle_time_that_is_chosen_itself_counts_in_full() -> None:
    case = timed_case(STEP)
    found = worth(case, idle("python"))
    assert found is not None
    assert found.ns == 13.0
    assert saved_ns(case.timed[0], Taken(np.full(7, 0.5), np.zeros(7))) == 0.5 * STEP.ns.sum()
    kept = worth(case, idle("python"), waiting=False)
    assert kept is not None
    assert kept.ns == 0.0


def test_the_range_of_a_worth_is_that_of_the_steps() -> None:
    slower = ledger(*((COMPUTE, FORWARD, DOWN, 0, ns) for ns in (10, 50)))
    found = worth(timed_case(STEP, slower), roles("adapter.down", phase="forward"))
    assert found is not None
    assert (found.ns, found.low, found.high) == pytest.approx((48, 0.9 * 48, 1.2 * 60))


WIDE, CLOSE, EXACT = (90, 120), (98, 102), (100, 100)  # intervals of a median step of 100 ns


@pytest.mark.parametrize(
    ("saved", "steps", "low", "high"),
    [
        (Worth(20.0, 20.0, 20.0), CLOSE, 100 / 86, 100 / 74),  # an estimate errs by three tenths at least
        (Worth(20.0, 20.0, 20.0), WIDE, 100 / 95, 100 / 65),  # and by as much as the steps spread
        (Worth(20.0, 3.0, 40.0), WIDE, 100 / 97, 100 / 60),
        (Worth(20.0, 18.0, 22.0, basis="measured"), WIDE, 100 / 82, 100 / 78),
        (Worth(20.0, 15.0, 25.0, bounded=True), CLOSE, 100 / 85, 100 / 75),
        (Worth(20.0, 18.0, 22.0, bounded=True), WIDE, 100 / 95, 100 / 65),
        (Worth(20.0, 20.0, 20.0, bounded=True), EXACT, 100 / 80.5, 100 / 79.5),  # never closer than a two-hundredth
        (Worth(20.0, -5.0, 500.0, bounded=True), CLOSE, 1.0, 100 / 5),  # never more than 95 % of the step
    ],
)
def test_what_is_saved_is_a_speed_up(saved: Worth, steps: tuple[int, int], low: float, high: float) -> None:
    found = gain(timed_case(STEP, low=steps[0], high=steps[1]), saved)
    assert found is not None
    assert (found.ns, found.speedup, found.low, found.high) == pytest.approx((20, 100 / 80, low, high))


@pytest.mark.parametrize(("steps", "least"), [(EXACT, 0.5), (CLOSE, 2.0), (WIDE, 5.0)])
def test_what_cannot_be_told_from_nothing_is_no_gain(steps: tuple[int, int], least: float) -> None:
    """Below a two-hundredth of the step, and below what the steps spread, up to a twentieth."""
    case = timed_case(STEP, low=steps[0], high=steps[1])
    assert gain(case, Worth(least, least, least)) is not None
    assert gain(case, Worth(0.99 * least, least, least)) is None
    assert gain(case, Worth(0.0, 0.0, 5.0)) is None
    unknown: Any = SimpleNamespace(timing=SimpleNamespace(unprofiled=None))
    assert gain(unknown, Worth(5.0, 5.0, 5.0)) is None


def test_worths_add_scale_and_widen() -> None:
    one, two = Worth(10.0, 8.0, 12.0), Worth(4.0, 1.0, 9.0)
    assert one.plus(two) == Worth(14.0, 9.0, 21.0)
    assert one.times(0.5) == Worth(5.0, 4.0, 6.0)
    assert one.between(two, two) == Worth(10.0, 1.0, 12.0)
    assert two.between(one, one) == Worth(4.0, 1.0, 12.0)
    assert one.at_most == Worth(10.0, 0.0, 12.0)
    part = Assumed(0.2, 0.5, 0.8, "somewhere")
    assert one.share(part) == Worth(5.0, 8.0 * 0.2, 12.0 * 0.8, basis="assumed", source="somewhere")
    taken, launches = Taken(np.ones(2), np.zeros(2)), HostEdit(share=0.5)
    joined = Worth(1, 1, 1, edit=taken).plus(Worth(1, 1, 1, edit=taken.times(3))).edit
    assert isinstance(joined, Taken)
    assert joined.time.tolist() == [4, 4]
    assert Worth(1, 1, 1, edit=taken).plus(Worth(1, 1, 1, edit=launches)).edit is None
    for low, likely, high in ((0.5, 0.5, 0.8), (0.2, 0.8, 0.8), (-0.1, 0.5, 0.8)):
        with pytest.raises(ValueError, match="width"):
            Assumed(low, likely, high, "")
    assert Assumed(0, 0.5, 0.8, "").low == 0


def record(op: str, *dims: object, types: tuple[str, ...] = ("float", "float", "float")) -> Record:
    module = ModuleInfo(id=0, path="a", cls="Linear", site=3)
    return Record(0, "kernel", op, "base.linear", "forward", module, 1, types, dims, -1)


@pytest.mark.parametrize(
    ("op", "dims", "rows"),
    [
        ("aten::mm", ((3, 5), (5, 7)), 3),
        ("aten::bmm", ((2, 3, 5), (2, 5, 7)), 6),
        ("aten::addmm", ((7,), (3, 5), (5, 7)), 3),
        ("aten::baddbmm", ((2, 3, 7), (2, 3, 5), (2, 5, 7)), 6),
        ("aten::mm", ((3, 5),), 0),
        ("aten::mm", ((5,), (5, 7)), 0),
        ("aten::mm", ("unknown", (5, 7)), 0),
        ("aten::mm", (), 0),
    ],
)
def test_rows_of_a_product(op: str, dims: tuple[object, ...], rows: int) -> None:
    assert rows_of(record(op, *dims)) == rows


def test_element_sizes_by_either_name() -> None:
    assert [element_bytes(t) for t in ("float64", "float32", "bfloat16", "float16", "float8_e4m3fn")] == [8, 4, 2, 2, 1]
    assert [kineto_bytes(t) for t in ("double", "float", "c10::BFloat16", "c10::Half", "long int")] == [8, 4, 2, 2, 0]


def test_the_type_of_a_product_is_that_of_its_last_operand() -> None:
    given = ("c10::Half", "float", "double")
    for op, expected in {"mm": "float", "bmm": "float", "addmm": "double", "baddbmm": "double", "mul": None}.items():
        assert record(f"aten::{op}", types=given).gemm_type == expected
    assert record("aten::addmm", types=given[:2]).gemm_type is None
    assert record("aten::mm").site == 3


def test_a_copy_converts_from_its_source_to_its_destination() -> None:
    both_types = ("c10::BFloat16", "float")
    assert conversion_of(both_types, ((4, 4), (4, 4))) == ("float", "c10::BFloat16")
    assert conversion_of(("float", "float"), ((4, 4), (4, 4))) is None
    assert conversion_of(both_types, ((), ())) is None  # a scalar
    assert conversion_of(both_types, ()) is None
    assert conversion_of(("float",), ((4, 4),)) is None
    assert record("aten::copy_", (4, 4), (4, 4), types=both_types).conversion == ("float", "c10::BFloat16")
    assert record("aten::add", (4, 4), (4, 4), types=both_types).conversion is None


def test_rows_that_convert_and_what_only_wraps_them() -> None:
    """aten::to > aten::_to_copy > aten::copy_ of another type; a copy of the same type, and one of a weight."""
    names = ["aten::to", "aten::_to_copy", "aten::copy_", "aten::add"]
    shapes = [
        Shapes(((4, 4), (4, 4)), ("c10::BFloat16", "float")),
        Shapes(((4, 4), (4, 4)), ("float", "float")),
        Shapes(((2, 8), (2, 8)), ("c10::BFloat16", "float")),
    ]
    rows = [(0, -1, -1), (1, -1, 0), (2, 0, 1), (3, -1, -1), (2, 1, 3), (0, -1, -1), (2, 2, 5), (2, -1, 3)]
    name, shape, parent = (np.array(column) for column in zip(*rows, strict=True))
    host = SimpleNamespace(name=name, shapes=shape, kind=np.full(len(name), HostKind.OP))
    weight = SimpleNamespace(shape=(2, 8), trainable=True)
    case: Any = SimpleNamespace(
        recording=SimpleNamespace(parameters=[weight]),
        analysis=SimpleNamespace(
            trace=SimpleNamespace(host=host, names=names, shapes=shapes),
            on_gpu=False,
            attribution=SimpleNamespace(tree=SimpleNamespace(parent=parent)),
            ledgers=[],
        ),
    )
    assert np.flatnonzero(conversions(case)).tolist() == [0, 1, 2, 5, 6]
    assert np.flatnonzero(conversions(case, weights=False)).tolist() == [0, 1, 2]
