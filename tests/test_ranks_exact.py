"""Figures of ranks against plain loops: what a collective moved, whose clock is off, who came last, who is slow."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from builders import kernel, marker, op, step, trace_of
from ledgers import column
from msgspec.structs import replace
from recordings import recording

from loraprof.analysis.analyse import analyse
from loraprof.analysis.attribution.names import modules_of
from loraprof.analysis.ranks import examine
from loraprof.analysis.ranks.arrivals import Arrivals
from loraprof.analysis.ranks.breakdown import (
    Calls,
    RankBreakdown,
    StepBreakdown,
    _members,
    breakdown_of,
    cell_of,
)
from loraprof.analysis.ranks.clocks import Clocks
from loraprof.analysis.ranks.examine import LeftOut
from loraprof.analysis.ranks.summary import View, middle, notes_of, rows_of, summary_of
from loraprof.analysis.ranks.survey import survey
from loraprof.errors import InputError
from loraprof.model.recording import ModuleInfo
from loraprof.model.trace import NONE, Group
from loraprof.model.vocabulary import CAUSE, CLASSES, PHASE, PHASES, ROLE, ROLES, DeviceClass

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
    size = 120 * 2**20 + needed
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
    many = analyse(trace_of([step(i, 100 * i, 100 * i + 100) for i in range(17)]))
    assert [s.name for s in breakdown_of(3, "x", many, None).steps] == [f"ProfilerStep#{i}" for i in range(16)]
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
