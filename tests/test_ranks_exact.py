"""Figures of ranks against plain loops: what a collective moved, whose clock is off, who came last, who is slow."""

import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from builders import kernel, marker, op, step, trace_of
from msgspec.structs import replace
from recordings import recording

from loraprof.analysis.analyse import analyse
from loraprof.analysis.attribution.names import modules_of
from loraprof.analysis.ranks import clocks as room
from loraprof.analysis.ranks import examine
from loraprof.analysis.ranks.arrivals import Arrivals, arrivals, transfers
from loraprof.analysis.ranks.breakdown import (
    Calls,
    Members,
    RankBreakdown,
    StepBreakdown,
    _members,
    breakdown_of,
    cell_of,
)
from loraprof.analysis.ranks.clocks import Clocks
from loraprof.analysis.ranks.collectives import Collectives
from loraprof.analysis.ranks.communication import (
    ModelBytes,
    Wire,
    communication,
    model_bytes,
    strategy_of,
    wire_of,
)
from loraprof.analysis.ranks.examine import LeftOut
from loraprof.analysis.ranks.matching import Matched
from loraprof.analysis.ranks.messages import KIND, KINDS, bus_factor
from loraprof.analysis.ranks.summary import View, middle, notes_of, rows_of, summary_of
from loraprof.analysis.ranks.survey import survey
from loraprof.errors import InputError
from loraprof.model.recording import AdapterSite, ModuleInfo, ParameterInfo, Recording
from loraprof.model.trace import NONE, Group
from loraprof.model.vocabulary import CAUSE, CLASSES, PHASE, PHASES, ROLE, ROLES, DeviceClass

GROUPS = (Group("a", 4), Group("b", None), Group("c", 1))


def column(values: Sequence[int]) -> Any:
    return np.array(values, np.int64)


def collectives(rng: random.Random) -> Collectives:
    count = rng.randrange(1, 9)
    start = sorted(rng.choices(range(100), k=count))
    return Collectives(
        kind=column(rng.choices((KIND["all_reduce"], KIND["all_gather"], KIND["broadcast"]), k=count)),
        start=column(start),
        end=column([s + rng.randrange(9) for s in start]),
        exposed=column(rng.choices(range(9), k=count)),
        hidden=column(rng.choices(range(9), k=count)),
        nbytes=column(rng.choices((NONE, 0, 5, 70, (1 << 20), (1 << 20) + 1), (1, 2, 9, 9, 9, 9), k=count)),
        group=column(rng.choices((-1, 0, 0, 0, 1, 2), k=count)),
        sequence=column([NONE] * count),
        began=np.array([rng.random() < 0.8 for _ in range(count)], np.bool_),
        groups=GROUPS,
    )


def times(found: Collectives, at: list[int], transfer: list[int] | None) -> tuple[list[int], str]:
    place = [sum(found.began[: i + 1]) - 1 for i in at]
    if (
        transfer is not None
        and place
        and all(p < len(transfer) for p in place)
        and all(transfer[p] >= 0 for p in place)
    ):
        return [transfer[p] for p in place], "fastest rank"
    return [int(found.end[i] - found.start[i]) for i in at], "this rank"


def test_rows_of_collectives_and_their_rates() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        found = collectives(rng)
        transfer = rng.choices((-1, 1, 2, 3), (1, 8, 8, 8), k=rng.randrange(9)) if rng.random() < 0.5 else None
        table = communication(found, None if transfer is None else column(transfer), None, 17)
        assert table is not None
        assert (table.exposed_ns, table.overlapped_ns) == (17, int(found.hidden.sum()))
        rows = {
            (KINDS[k], GROUPS[g] if g >= 0 else None)
            for k, g in zip(found.kind.tolist(), found.group.tolist(), strict=True)
        }
        assert len(table.collectives) == len(rows)
        for row in table.collectives:
            at = [
                i
                for i in range(len(found))
                if KINDS[found.kind[i]] == row.name
                and (GROUPS[found.group[i]].name if found.group[i] >= 0 else None) == row.group
            ]
            began = [i for i in at if found.began[i]]
            sizes = sorted(int(found.nbytes[i]) for i in began)
            spent, basis = times(found, began, transfer)
            ranks = next((g.size for g in GROUPS if g.name == row.group), None)
            known = all(size >= 0 for size in sizes)
            moved, took = sum(sizes), sum(spent)
            rate = moved / took * 1e9 if known and moved and took else None
            assert (row.count, row.group_size, row.basis, row.transfer_ns) == (len(began), ranks, basis, sum(spent)), (
                seed
            )
            assert row.bytes == (sum(sizes) if known else None)
            assert row.median_bytes == (middle(sizes) if known and sizes else None)
            assert row.exposed_ns == sum(int(found.exposed[i]) for i in at)
            assert row.overlapped_ns == sum(int(found.hidden[i]) for i in at)
            assert row.algorithm_bytes_per_s == rate
            bus = rate * bus_factor(row.name, ranks) if rate is not None and ranks and ranks > 1 else None
            assert row.bus_bytes_per_s == bus
        order = [(-r.exposed_ns - r.overlapped_ns, r.name, r.group or "") for r in table.collectives]
        assert order == sorted(order)
        for kind, bytes_ in (("all_gather", table.gathered_bytes), ("all_reduce", table.reduced_bytes)):
            sizes = [int(found.nbytes[i]) for i in range(len(found)) if found.began[i] and KINDS[found.kind[i]] == kind]
            assert bytes_ == (sum(sizes) if all(size >= 0 for size in sizes) else None)
        large = [
            i for i in range(len(found))
            if found.began[i] and found.nbytes[i] >= (1 << 20) and found.group[i] == 0  # the one of several ranks
        ]  # fmt: skip
        spent, basis = times(found, large, transfer)
        sent = sum(int(found.nbytes[i]) * bus_factor(KINDS[found.kind[i]], 4) for i in large)
        wire = wire_of(found, None if transfer is None else column(transfer))
        assert wire == (Wire(pytest.approx(sent / sum(spent) * 1e9), 4, basis) if sum(spent) else None), seed  # type: ignore[arg-type]
    assert communication(replace(collectives(random.Random(0)), kind=column([])), None, None, 0) is None


def test_rates_without_groups() -> None:
    found = replace(collectives(random.Random(1)), groups=())
    assert wire_of(replace(found, group=found.group * 0 - 1), None) is None


def parameter(i: int, shape: tuple[int, ...], trainable: bool, **more: Any) -> ParameterInfo:
    known: dict[str, Any] = {"dtype": "float32", "device": "cuda", "module": 0}
    return ParameterInfo(id=i, name="w", shape=shape, trainable=trainable, **(known | more))


SITE = AdapterSite(path="a", kind="lora", rank=3, in_features=5, out_features=7, dtype="bfloat16", base_dtype="float32")
PARAMETERS = [
    parameter(0, (7, 5), False), parameter(1, (3, 5), True, dtype="bfloat16"),
    parameter(2, (7,), True, part="elementwise"),
    parameter(3, (2, 2), False, module=1), parameter(4, (2, 2), True, module=2),
]  # fmt: skip
MODULES = [
    ModuleInfo(id=0, path="a", cls="Linear"), ModuleInfo(id=1, path="head.original_module", cls="Linear"),
    ModuleInfo(id=2, path="head.modules_to_save", cls="Linear"),
]  # fmt: skip


def made(**changes: Any) -> Recording:
    return replace(recording(), **({"parameters": PARAMETERS, "modules": MODULES, "sites": [SITE]} | changes))


def test_bytes_of_a_model() -> None:
    found = model_bytes(made(), 4)
    assert found == ModelBytes(
        adapter=3 * 12 * 2 + 28, trained=30 + 28 + 16, frozen=140 + 16, replaced=16, floating=True
    )
    assert found.base == 74 + 156 - 16 - 100
    shards = made(modules=[*MODULES, ModuleInfo(id=3, path="x", cls="FullyShardedDataParallel")])
    assert model_bytes(shards, 4).frozen == 4 * 156
    assert model_bytes(shards, None).frozen == 156
    quantized = model_bytes(made(parameters=[*PARAMETERS, parameter(5, (9,), False, dtype="uint8")]), 4)
    assert (quantized.floating, quantized.base, quantized.frozen) == (False, None, 156 + 9)
    assert (
        model_bytes(made(sites=[replace(SITE, rank=None), replace(SITE, dtype="strange")]), 1).adapter
        == 3 * 12 * 4 + 28
    )


@pytest.mark.parametrize(
    ("gathered", "reduced", "micro", "strategy"),
    [
        (78, None, 1, "sharded"), (77, None, 1, None), (None, 37, 1, "replicated"), (None, 36, 1, None),
        (None, 111, 1, "replicated"), (None, 112, 1, None), (None, 114, 1, None), (None, 115, 1, "replicated"),
        (None, 345, 1, "replicated"), (None, 346, 1, None), (None, 346, 5, "replicated"), (0, 0, 1, None),
        (None, 111, None, "replicated"),
        (None, 555, 5, "replicated"), (None, 556, 5, None),
    ],
)  # fmt: skip
def test_how_a_model_lies_on_its_ranks(
    gathered: int | None, reduced: int | None, micro: int | None, strategy: str | None
) -> None:
    """74 bytes are trained and 156 frozen: half of the latter, or one to one and a half gradients either way."""
    one = made()
    one = replace(one, workload=replace(one.workload, micro_batches=micro))
    assert strategy_of(one, model_bytes(one, 1), gathered, reduced) == strategy
    assert strategy_of(None, model_bytes(one, 1), gathered, reduced) is None
    assert strategy_of(one, None, gathered, reduced) is None
    split = replace(one, parameters=[replace(PARAMETERS[0], local_shape=(3, 5)), PARAMETERS[1]])
    assert strategy_of(split, model_bytes(one, 1), 1, None) == "sharded"
    whole = replace(one, parameters=[replace(PARAMETERS[0], local_shape=(7, 5))])
    assert strategy_of(whole, model_bytes(one, 1), 1, None) is None


@pytest.mark.parametrize(
    ("reduced", "micro", "full"), [(74, 5, 114), (148, 5, 228), (180, 5, 228), (300, 2, 228), (74, None, 114)]
)
def test_what_full_fine_tuning_would_reduce(reduced: int, micro: int | None, full: int) -> None:
    """As often per step as this one does."""
    base = collectives(random.Random(0))
    one = column([KIND["all_reduce"]])
    found = Collectives(
        one, one * 0, one * 0 + 5, one, one, column([reduced]), one * 0, one, np.array([True]), base.groups
    )
    recorded = made()
    recorded = replace(recorded, workload=replace(recorded.workload, micro_batches=micro))
    table = communication(found, None, recorded, 0)
    assert table is not None
    assert (table.full_reduced_bytes, table.saved_bytes) == (full, max(full - reduced, 0))


def matched(rng: random.Random, members: list[int], count: int) -> Matched:
    start = np.array([[rng.randrange(10**6) for _ in range(count)] for _ in members], np.int64)
    end = start + np.array([[rng.randrange(10**5) for _ in range(count)] for _ in members], np.int64)
    waited = np.array([[rng.randrange(10**5) for _ in range(count)] for _ in members], np.int64)
    row = np.array([rng.sample(range(9), count) for _ in members], np.int64)
    step = column(sorted(rng.choices(range(2), k=count)))
    return Matched(Members("g", len(members), "", True), column(members), step, row, start, end, waited, ())


def test_who_comes_last_and_how_long_a_transfer_takes() -> None:
    for seed in range(100):
        rng = random.Random(seed)
        groups = [matched(rng, sorted(rng.sample(range(5), rng.randint(2, 4))), rng.randint(1, 6)) for _ in range(2)]
        offset = [rng.randrange(10**5) for _ in range(5)]
        clocks = Clocks(column(offset), np.ones(5, np.bool_), 20_000, 5)
        last, of, late = [0] * 5, [0] * 5, [0] * 5
        for m in groups:
            for j in range(len(m.step)):
                came = {r: int(m.start[i, j] - m.waited[i, j]) - offset[r] for i, r in enumerate(m.members.tolist())}
                order = sorted(came, key=lambda r: (came[r], r))
                for r in came:
                    of[r] += 1
                if came[order[-1]] - came[order[-2]] > 20_000:
                    last[order[-1]] += 1
                    late[order[-1]] += came[order[-1]] - sorted(came.values())[(len(came) - 1) // 2]
        found = arrivals(5, groups, clocks)
        assert found is not None
        assert (found.last.tolist(), found.of.tolist(), found.late_ns.tolist()) == (last, of, late), seed
        rank, m = rng.randrange(5), groups[0]
        expected = [-1] * 9
        for m in groups:
            for i, r in enumerate(m.members.tolist()):
                for j in range(len(m.step)):
                    if r == rank and m.step[j] == 1:
                        expected[int(m.row[i, j])] = min(
                            int(e - s) for e, s in zip(m.end[:, j], m.start[:, j], strict=True)
                        )
        assert transfers(rank, 9, 1, groups).tolist() == expected, seed
    assert arrivals(5, [], Clocks(column([0] * 5), np.ones(5, np.bool_), 1_000_000 + 1, 5)) is None


@pytest.mark.parametrize(
    ("residual", "aligned", "one", "usable", "tolerance"),
    [
        (1_000_000, True, False, True, 1_000_000), (1_000_000 + 1, True, False, False, 1_000_000 + 1),
        (1_000_000 + 1, True, True, True, 10_000), (None, True, True, False, 10_000),
        (5, False, True, False, 10_000), (5, True, False, True, 10_000),
    ],
)  # fmt: skip
def test_when_times_of_ranks_may_be_compared(
    residual: int | None, aligned: bool, one: bool, usable: bool, tolerance: int
) -> None:
    clocks = Clocks(column([0, 0]), np.array([True, aligned]), residual, 3, one)
    assert (clocks.usable, clocks.tolerance_ns) == (usable, tolerance)


def test_deviations_and_their_spread() -> None:
    for seed in range(100):
        rng = random.Random(seed)
        m = matched(rng, [0, 2, 3][: rng.randint(2, 3)], rng.randint(1, 8))
        offset = column([rng.randrange(1000) for _ in range(4)])
        ends = [
            [int(e) - int(offset[r]) for e in row] for row, r in zip(m.end.tolist(), m.members.tolist(), strict=True)
        ]
        common = [middle([row[j] for row in ends]) for j in range(len(m.step))]
        truth = [[e - c for e, c in zip(row, common, strict=True)] for row in ends]
        deviation = room._deviation(m, offset)
        assert deviation.tolist() == truth
        spread = []
        for row in truth:
            n, size = len(row), [abs(v) for v in row]
            halves = abs(middle(row[: n // 2]) - middle(row[n // 2 :])) if n > 1 else 0
            spread.append(max(size) if n < 4 else max(middle(size), halves))
        assert room._spread(deviation).tolist() == spread, seed


Key = tuple[int, str, str]  # class, or ~cause; phase; role


def cell(key: Key) -> int:
    kind = key[0] if key[0] >= 0 else len(CLASSES) + ~key[0]
    return (kind * len(PHASES) + PHASE[key[1]]) * len(ROLES) + ROLE[key[2]]  # type: ignore[index]


def breakdown(number: int, *steps: dict[Key, int], world: int | None = None) -> RankBreakdown:
    none = column([])
    nothing = Calls(none, none, none, none, none, none, 0)
    made_of = []
    for i, cells in enumerate(steps):
        keys = sorted(cells, key=cell)
        ns = column([cells[k] for k in keys])
        made_of.append(StepBreakdown(f"s{i}", int(ns.sum()), column([cell(k) for k in keys]), ns, 3, nothing))
    return RankBreakdown(number, f"rank{number}", "cuda", (), tuple(made_of), world=world)


COMPUTE, SENT = int(DeviceClass.COMPUTE), int(DeviceClass.COMM)
SYNC, PYTHON = ~CAUSE["sync"], ~CAUSE["python"]


def test_the_own_work_of_a_step() -> None:
    """All but communication that nothing hides: on a device its records, on a CPU the wait for it."""
    cells: dict[Key, int] = {
        (COMPUTE, "forward", "base.linear"): 1, (COMPUTE, "backward", "comm"): 2, (SENT, "backward", "comm"): 4,
        (SYNC, "backward", "comm"): 8, (SYNC, "backward", "loss"): 16, (PYTHON, "forward", "comm"): 32,
    }  # fmt: skip
    one = breakdown(0, cells).steps[0]
    assert (one.exposed_comm_ns, one.own_ns, one.wall_ns) == (12, 51, 63)
    assert [one.total(), one.total(busy=True), one.total(busy=False), one.total(phase="backward")] == [63, 7, 56, 30]
    assert one.total(busy=False, phase="forward") == 32
    assert [one.own_in("forward"), one.own_in("backward"), one.own_in("optimizer")] == [33, 18, 0]
    told = cell_of(cell((SYNC, "backward", "loss")))
    assert (told.busy, told.what, told.phase, told.role) == (False, "sync", "backward", "loss")
    told = cell_of(cell((SENT, "forward", "comm")))
    assert (told.busy, told.what, told.phase, told.role) == (True, "comm", "forward", "comm")


def view(ranks: list[RankBreakdown], came: Arrivals | None = None, clocks: Clocks | None = None) -> View:
    known = clocks or Clocks(column([7] * len(ranks)), np.ones(len(ranks), np.bool_), 0, 2)
    return View(ranks, [s.name for s in ranks[0].steps], "s0", known, came)


def rank_of(number: int, linear: int, *more: int, loss: int = 50, sent: int = 500) -> RankBreakdown:
    def cells(ns: int) -> dict[Key, int]:
        return {(COMPUTE, "forward", "base.linear"): ns, (PYTHON, "other", "loss"): loss, (SENT, "other", "comm"): sent}

    return breakdown(number, *(cells(ns) for ns in (linear, *more)))


def test_the_slowest_rank_and_where_it_is_slow() -> None:
    ranks = [rank_of(0, 1000), rank_of(3, 2000, loss=90), rank_of(5, 1100), rank_of(6, 900)]
    found = summary_of(view(ranks), 8)
    assert (found.slowest, found.fastest, found.even, found.count, found.world) == (3, 6, False, 4, 8)
    assert found.missing == [1, 2, 4, 7]
    assert found.step_spread_ns is None
    assert [(d.kind, d.what, d.phase, d.role, d.ns, d.median_ns) for d in found.differences] == [
        ("busy", "compute", "forward", "base.linear", 2000, 1000), ("idle", "python", "other", "loss", 90, 50),
    ]  # fmt: skip
    assert "Rank 3 is the slowest of 4" in found.sentence
    assert "most of the difference is base.linear in forward" in found.sentence
    own = next(s for s in found.spreads if s.what == "overlapped_comm")
    assert (own.min_ns, own.median_ns, own.p90_ns, own.max_ns, own.min_rank, own.max_rank) == (3, 3, 3, 3, 0, 0)
    forward = next(s for s in found.phases if s.what == "forward")
    assert (forward.min_ns, forward.median_ns, forward.p90_ns, forward.max_ns) == (900, 1000, 2000, 2000)
    assert (forward.min_rank, forward.max_rank) == (6, 3)
    assert [s.what for s in found.phases] == ["forward", "other"]
    idle = summary_of(view([rank_of(0, 1000), rank_of(1, 1000, loss=900), rank_of(2, 1000)]), None)
    assert "idle time (python) before loss outside all phases" in idle.sentence
    rows = rows_of(view(ranks))
    assert [(r.rank, r.own_ns, r.exposed_comm_ns, r.clock_offset_ns, r.last_arrivals) for r in rows] == [
        (0, 1050, 500, 7, None), (3, 2090, 500, 7, None), (5, 1150, 500, 7, None), (6, 950, 500, 7, None),
    ]  # fmt: skip


@pytest.mark.parametrize(("slow", "even"), [(1095, True), (1096, False)])
def test_ranks_are_even_within_the_spread_of_their_steps(slow: int, even: bool) -> None:
    """The median rank's steps differ by 95; below that it takes a share of the step to be slow."""
    ranks = [rank_of(0, 1000, 1095), rank_of(1, slow, slow), rank_of(2, 1000, 905)]
    found = summary_of(view(ranks), None)
    assert (found.step_spread_ns, found.even) == (95, even)
    assert bool(found.differences) != even
    assert found.world is None


def test_a_least_share_of_the_step_counts() -> None:
    wall = 10_000 + 50 + 500
    least = int(0.01 * wall)
    found = [
        summary_of(view([rank_of(0, 10_000), rank_of(1, 10_000 + d), rank_of(2, 10_000)]), None).even
        for d in (least, 2 * least)
    ]
    assert found == [True, False]
    assert summary_of(view([rank_of(4, 10)]), None).sentence.startswith("Only rank 4 can be read")
    quick = summary_of(view([rank_of(0, 10_000), rank_of(1, 10_000), rank_of(2, 100)]), None)
    assert quick.even
    assert "(rank 2)" in quick.sentence


def test_stragglers_by_how_late_they_were() -> None:
    ranks = [rank_of(i, 100) for i in range(5)]
    came = Arrivals(column([1, 0, 2, 3, 4]), column([9] * 5), column([10, 99, 30, 30, 5]))
    found = summary_of(view(ranks, came), None).stragglers
    assert found is not None
    assert [(s.rank, s.last, s.of, s.late_ns) for s in found] == [(2, 2, 9, 30), (3, 3, 9, 30)]
    assert summary_of(view(ranks), None).stragglers is None
    assert [r.last_arrivals for r in rows_of(view(ranks, came))] == [1, 0, 2, 3, 4]


def test_what_is_said_of_clocks() -> None:
    ranks = [rank_of(0, 100), rank_of(3, 200)]
    both, one = np.ones(2, np.bool_), np.array([True, False])
    off = Clocks(column([0, -40]), both, 1_000_000 + 5, 7)
    made_of = summary_of(view(ranks, clocks=off), None).clocks
    assert made_of is not None
    assert (made_of.largest_offset_ns, made_of.usable, made_of.collectives) == (40, False, 7)
    assert summary_of(view(ranks[:1]), None).clocks is None
    said = {
        "no two ranks share a collective": Clocks(column([0, 0]), both, None, 0),
        "the residual is": off,
        "rank 3 share no collective": Clocks(column([0, 0]), one, 5, 7),
    }
    for text, clocks in said.items():
        assert any(text in note for note in notes_of(view(ranks, clocks=clocks), []))
        assert rows_of(view(ranks, clocks=clocks))[0].clock_offset_ns is None
    assert [*notes_of(view(ranks), [])] == ["2 ranks; the report is rank 3's, the slowest"]
    assert [*notes_of(view(ranks[:1]), [])] == ["the report is rank 0's, the only one that can be read"]


def test_the_middle_is_the_lower_one() -> None:
    assert [middle(v) for v in ([3], [4, 1], [5, 1, 3], [9, 1, 5, 3])] == [3, 1, 3, 3]


def left(count: int, why: str, rank: bool = True, name: str = "") -> list[LeftOut]:
    return [LeftOut(i if rank else None, name or f"file{i}", why) for i in range(count)]


def test_ranks_that_cannot_be_compared_are_named() -> None:
    """Three reasons and three files at most; what one file says of itself alone is its own."""

    def said(*gone: LeftOut) -> list[str]:
        return [*survey([rank_of(7, 100), *gone]).notes][:-1]

    assert said(*left(1, "cut short")) == ["rank 0 left out: file0: cut short"]
    assert said(LeftOut(4, "", "cut short")) == ["rank 4 left out: cut short"]
    assert said(*left(1, "cut short", rank=False)) == ["file0 left out: cut short"]
    assert said(LeftOut(0, "a", "cut (at 5)"), LeftOut(1, "b", "cut (at 7)")) == ["ranks 0, 1 left out: cut"]
    assert said(*left(3, "cut", rank=False)) == ["file0, file1, file2 left out: cut"]
    assert said(*left(5, "cut", rank=False)) == ["file0, file1, file2, 2 more files left out: cut"]
    reasons = [LeftOut(i, f"f{i}", why) for i, why in enumerate(("a", "b", "c", "d", "e"))]
    assert said(*reasons[:3])[2] == "rank 2 left out: f2: c"
    assert said(*reasons)[3] == "ranks left out for 2 further reasons"


def test_runs_that_are_not_one() -> None:
    def other(rank: RankBreakdown, **facts: Any) -> RankBreakdown:
        return replace(rank, **facts)

    three = [rank_of(i, 100) for i in range(3)]
    for facts, why in (
        ({"launch": "x"}, "recorded by another run"),
        ({"world": 8}, "recorded by a run with another number of ranks"),
        ({"first_step": 9}, "its trace is of another step of the training"),
    ):
        usual = {"launch": "y", "world": 4, "first_step": 3}
        told = [other(r, **{k: usual[k] for k in facts}) for r in three]
        found = survey([*told[:2], other(three[2], **facts), rank_of(5, 50)])
        assert found.notes[0] == f"rank 2 left out: {why}"
        assert [row.rank for row in found.rows] == [0, 1, 5]  # who says nothing stays
    renamed = replace(three[2].steps[0], name="other")
    found = survey([*three[:2], other(three[2], steps=(renamed,))])
    assert found.notes[0] == "rank 2 left out: its trace holds none of the steps of the others"
    with pytest.raises(InputError, match="there is no rank"):
        survey([])
    with pytest.raises(InputError, match="rank 0 left out: file0: cut"):
        survey(left(1, "cut"))
    with pytest.raises(InputError, match="rank1 and rank1 say that they are of rank 1"):
        survey([rank_of(1, 5), rank_of(1, 5), rank_of(2, 5)])


def test_the_step_that_ranks_are_compared_at() -> None:
    """That of the median of the steps' median ranks, of those that all have."""
    found = survey([rank_of(0, 10, 30, 20, 99), rank_of(1, 12, 31, 21), rank_of(2, 500, 32, 22)])
    assert found.step == "s2"
    assert found.trace == "rank2"
    assert found.transfer_ns.tolist() == []


def test_more_collectives_than_are_compared_are_told() -> None:
    whole, part = rank_of(0, 100), rank_of(1, 100)
    part = replace(part, steps=(replace(part.steps[0], calls=replace(part.steps[0].calls, whole=1)),))
    assert [*notes_of(view([whole, part]), [])][-1] == "ranks are matched by the first 0 collectives of each step"


def test_memory_is_asked_for_the_largest_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[tuple[int, int]]()

    def one(ranks: int, needed: int) -> int:
        asked.append((ranks, needed))
        return 1

    monkeypatch.setattr(examine, "workers", one)
    monkeypatch.setattr(examine, "sequential", lambda files: [len(files)])
    plain, packed = (SimpleNamespace(size_bytes=10, trace=SimpleNamespace(suffix=s)) for s in (".json", ".gz"))
    files: Any = [plain, packed, SimpleNamespace(size_bytes=9, trace=packed.trace)]
    ran: Any = [*examine.processes(files)]
    assert ran == [3]
    several: Any = ([plain], [packed, files[2]])
    for some in several:
        ran = [*examine.processes(some)]
    assert asked == [(3, 200), (1, 10 * examine.PER_PLAIN_BYTE), (2, 200)]


@pytest.mark.parametrize(
    ("ranks", "cores", "free", "needed", "count"),
    [(3, 8, 10**12, 1, 3), (8, 3, 10**12, 1, 3), (8, 8, None, 1, 8), (8, 8, 0, 1, 1), (0, 8, None, 1, 1)],
)
def test_processes_by_cores_and_memory(
    ranks: int, cores: int, free: int | None, needed: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examine.os, "sched_getaffinity", lambda _: {*range(cores)}, raising=False)
    monkeypatch.setattr(examine, "_free_bytes", lambda: free)
    assert examine.workers(ranks, needed) == count
    size = examine.WORKER_BYTES + needed
    for bytes_, fit in ((3 * size, 3), (3 * size - 1, 2)):
        monkeypatch.setattr(examine, "_free_bytes", lambda bytes_=bytes_: bytes_)
        assert examine.workers(9, needed) == min(fit, cores)


def test_breakdowns_of_ranks() -> None:
    """Steps that hold work, else those with time; a group is joined where its ranks are not told, or this one is."""
    empty = analyse(trace_of([step(0, 0, 100), step(1, 100, 250)]))
    assert [s.name for s in breakdown_of(3, "x", empty, None).steps] == ["ProfilerStep#0", "ProfilerStep#1"]
    worked = analyse(trace_of([step(0, 0, 100), op("aten::mm", 10, 20), step(1, 100, 250)]))
    found = breakdown_of(3, "x", worked, None)
    assert ([s.name for s in found.steps], found.device, found.rank, found.trace) == (["ProfilerStep#0"], "cpu", 3, "x")
    on_gpu = analyse(trace_of([step(0, 0, 100)], [kernel(50, 60, (10, 12))]))
    assert breakdown_of(3, "x", on_gpu, None).device == "cuda"
    made_of = recording()
    facts = replace(made_of.environment, launch="l", machine="", world_size=4)
    told = breakdown_of(3, "x", on_gpu, replace(made_of, environment=facts, first_step=7))
    assert (told.launch, told.machine, told.world, told.first_step) == ("l", None, 4, 7)
    assert [_members(Group("g", 2, ranks), 3).joined for ranks in ((), (1, 3), (1, 2))] == [True, True, False]
    digests = {_members(Group("g", 2, ranks), 3).ranks for ranks in ((1, 3), (1, 2), (1, 3))}
    assert (len(digests), _members(Group("g", 2), 3).ranks) == (2, "")


def test_modules_beyond_the_table_are_none() -> None:
    table = [ModuleInfo(id=0, path="", cls="A"), ModuleInfo(id=1, path="b", cls="B")]
    trace = trace_of([marker(f"m{i}", 10 * i, 10 * i + 5) for i in range(4)])
    _, opens = modules_of(trace, replace(recording(), modules=table))
    assert opens.tolist() == [0, 1, NONE, NONE]


def test_a_clock_is_aligned_on_one_that_is() -> None:
    one = matched(random.Random(0), [1, 2], 3)
    m = replace(one, end=np.array([[10, 20, 30], [110, 125, 130]]))
    offset, aligned = column([0, 7, 0, 0]), np.array([True, True, False, False])
    assert room._reach(m, offset, aligned)
    assert (offset.tolist(), aligned.tolist()) == ([0, 7, 107, 0], [True, True, True, False])
    assert not room._reach(m, offset, aligned)
    assert not room._reach(replace(m, members=column([3, 4])), column([0] * 5), np.zeros(5, np.bool_))
