"""Clocks of ranks: planted offsets come back exactly, and what cannot be aligned is refused, with the residual."""

import numpy as np
import pytest
from builders import document_of, write
from fleets import fleet, surveyed
from msgspec.structs import replace

import loraprof
from loraprof.analysis.ranks.arrivals import arrivals
from loraprof.analysis.ranks.breakdown import Calls, Members, RankBreakdown, StepBreakdown
from loraprof.analysis.ranks.clocks import LIMIT_NS, align
from loraprof.analysis.ranks.matching import matched
from loraprof.analysis.ranks.messages import KIND
from loraprof.model.trace import Int64
from loraprof.report.registry import render

NONE = np.zeros(0, np.int64)
WORLD = Members("0", 4, "all", True)


def calls(
    start: Int64, end: Int64, group: Int64 | None = None, sequence: Int64 | None = None, kind: str = "all_reduce"
) -> Calls:
    n = len(start)
    return Calls(
        kind=np.full(n, KIND[kind]),
        start=start,
        end=end,
        group=np.zeros(n, np.int64) if group is None else group,
        sequence=np.full(n, -1) if sequence is None else sequence,
        exposed=end - start,
        whole=n,
    )


def rank(number: int, *steps: Calls, groups: tuple[Members, ...] = (WORLD,)) -> RankBreakdown:
    made = tuple(StepBreakdown(f"ProfilerStep#{i}", 1000, NONE, NONE, 0, one) for i, one in enumerate(steps))
    return RankBreakdown(number, f"rank{number}", "cuda", groups, made)


def lockstep(offsets: list[int], n: int = 8, noise: int = 0, late: int = 0) -> list[RankBreakdown]:
    """Ranks that leave each of ``n`` collectives together, on clocks of their own; they come at different times.

    ``late``: up to so long after the transfer, as a rank that has no core free leaves.
    """
    ends = np.arange(1, n + 1) * 1_000_000
    random = np.random.default_rng(3)
    return [
        rank(i, calls(ends - 1000 * (i + 1) + offset, ends + offset + random.integers(-noise, noise + late + 1, n)))
        for i, offset in enumerate(offsets)
    ]


STEPS = ("ProfilerStep#0",)


def test_planted_offsets_come_back() -> None:
    offsets = [0, 5_000_000_000, -77, 123_456]
    clocks = align([None] * 4, matched(lockstep(offsets), STEPS))
    assert clocks.offset_ns.tolist() == offsets
    assert (clocks.residual_ns, clocks.usable, clocks.collectives) == (0, True, 8)


def test_offsets_within_the_noise_and_a_residual_of_its_size() -> None:
    offsets = [0, 1_000_000, -2_000_000, 3_000_000]
    clocks = align([None] * 4, matched(lockstep(offsets, n=200, noise=50_000), STEPS))
    assert np.abs(clocks.offset_ns - offsets).max() < 50_000
    assert clocks.residual_ns is not None
    assert 10_000 < clocks.residual_ns < 60_000
    assert clocks.usable


@pytest.mark.parametrize("n", [3, 8])
def test_a_clock_that_was_set_meanwhile_is_refused(n: int) -> None:
    ranks = lockstep([0, 0, 0, 0], n)
    late = ranks[2].steps[0].calls
    moved = np.where(np.arange(n) >= n // 2, 5_000_000, 0)
    ranks[2] = rank(2, calls(late.start + moved, late.end + moved))
    clocks = align([None] * 4, matched(ranks, STEPS))
    assert clocks.residual_ns is not None
    assert clocks.residual_ns > LIMIT_NS
    assert not clocks.usable


def test_a_drifting_clock_is_refused() -> None:
    ends = np.arange(1, 101) * 1_000_000
    drift = ends // 10
    clocks = align([None] * 2, matched([rank(0, calls(ends, ends)), rank(1, calls(ends, ends + drift))], STEPS))
    assert not clocks.usable


def test_one_machine_has_one_clock_whatever_its_ranks_do() -> None:
    clocks = align(["m"] * 4, matched(lockstep([0] * 4, 3, late=5_000_000), STEPS))
    assert clocks.offset_ns.tolist() == [0] * 4
    assert clocks.one_machine
    assert clocks.usable


def test_one_machine_whose_ranks_leave_before_others_come_has_no_one_clock() -> None:
    """The trace of one rank was taken an hour later: the machine is the same, the clock is not."""
    hour = 3_600_000_000_000
    clocks = align(["a"] * 3, matched(lockstep([0, 0, hour]), STEPS))
    assert (clocks.one_machine, clocks.offset_ns.tolist(), clocks.residual_ns) == (False, [0, 0, hour], 0)
    near = align(["a"] * 3, matched(lockstep([0, 0, 2_000]), STEPS))  # within the time of the collective
    assert near.one_machine


def test_ranks_of_a_machine_share_their_offset() -> None:
    clocks = align(["a", "a", "b", "b"], matched(lockstep([0, 0, 9_000_000, 9_000_000], 8, noise=1000), STEPS))
    assert clocks.offset_ns[0] == clocks.offset_ns[1] == 0
    assert clocks.offset_ns[2] == clocks.offset_ns[3]
    assert abs(int(clocks.offset_ns[2]) - 9_000_000) < 2000


def test_groups_that_share_a_member_are_aligned_through_it() -> None:
    """Ranks 0 and 1, and ranks 1 and 2; no collective holds all three."""
    first, second = Members("1", 2, "0,1", True), Members("2", 2, "1,2", True)
    ends = np.arange(1, 9) * 1000
    both = calls(np.repeat(ends, 2), np.repeat(ends, 2) + 500, np.tile([0, 1], 8))
    ranks = [
        rank(0, calls(ends, ends), groups=(first,)),
        rank(1, both, groups=(first, second)),
        rank(2, calls(ends, ends + 800), groups=(second,)),
    ]
    clocks = align([None] * 3, matched(ranks, STEPS))
    assert clocks.offset_ns.tolist() == [0, 500, 800]
    assert clocks.aligned.all()


def test_collectives_are_in_the_order_of_their_numbers() -> None:
    """Those of two streams may start in another order."""
    ends = np.array([1000, 2000])
    ranks = [rank(i, calls(ends, ends + 5, sequence=np.array(order))) for i, order in enumerate(([4, 3], [3, 4]))]
    (found,) = matched(ranks, STEPS)
    assert found.row.tolist() == [[1, 0], [0, 1]]


def test_groups_of_most_members_come_first() -> None:
    ends = np.arange(1, 9) * 1000
    groups = tuple(Members(name, 2, name, True) for name in ("b", "c", "a"))
    two = calls(np.repeat(ends, 3), np.repeat(ends, 3) + 5, np.tile([0, 1, 2], 8))
    ranks = [rank(0, two, groups=groups), rank(1, two, groups=groups), rank(2, calls(ends, ends), groups=groups[1:2])]
    assert [(m.group.name, m.members.tolist()) for m in matched(ranks, STEPS)] == [
        ("c", [0, 1, 2]),
        ("a", [0, 1]),
        ("b", [0, 1]),
    ]


def test_a_rank_that_shares_no_collective_is_not_aligned() -> None:
    ranks = [*lockstep([0, 0, 0]), rank(3, calls(NONE, NONE))]
    clocks = align([None] * 4, matched(ranks, STEPS))
    assert clocks.aligned.tolist() == [True, True, True, False]
    assert not clocks.usable


def test_numbers_join_what_order_would_not() -> None:
    """Rank 1's profiler began one collective later."""
    ends = np.arange(1, 9) * 1000
    numbers = np.arange(100, 108)
    ranks = [rank(0, calls(ends, ends, None, numbers)), rank(1, calls(ends[1:], ends[1:] + 7, None, numbers[1:]))]
    assert matched(ranks, STEPS) == []  # another kind of count: they did not run the same
    ranks[1] = rank(1, calls(ends, ends + 1007, None, numbers + 1))
    (found,) = matched(ranks, STEPS)
    assert len(found.step) == 7
    assert align([None] * 2, [found]).offset_ns.tolist() == [0, 7]


def test_a_member_that_ran_other_collectives_is_a_stranger() -> None:
    ends = np.arange(1, 9) * 1000
    ranks = [*lockstep([0, 0, 0]), rank(3, calls(ends, ends, kind="all_gather"))]
    (found,) = matched(ranks, STEPS)
    assert (found.members.tolist(), found.strangers) == ([0, 1, 2], (3,))


def test_broadcasts_and_messages_between_two_align_nothing() -> None:
    ends = np.arange(1, 9) * 1000
    for kind in ("broadcast", "send_recv", "gather"):
        assert matched([rank(i, calls(ends, ends, kind=kind)) for i in range(2)], STEPS) == []


def test_who_comes_last_is_said_only_on_clocks_that_agree() -> None:
    seen = surveyed(fleet(4, offsets_ns={2: 10**9}))
    assert seen.summary.clocks is not None
    assert (seen.summary.clocks.residual_ns, seen.summary.clocks.largest_offset_ns) == (0, 10**9)
    assert seen.summary.stragglers is not None
    (last,) = seen.summary.stragglers
    assert (last.rank, last.last, last.late_ns) == (1, 3, 9_000_000)  # the first collective of each of three steps
    assert [row.last_arrivals for row in seen.rows] == [0, 3, 0, 0]
    assert [row.clock_offset_ns for row in seen.rows] == [0, 0, 10**9, 0]


def test_who_waits_in_a_broadcast_is_not_late_at_the_next_collective() -> None:
    """Rank 2 works 9 ms longer; rank 0 waits for it in a broadcast, rank 1 only in the all-reduce."""
    kind = np.array([KIND["broadcast"], KIND["all_reduce"]])
    starts = np.array([[0, 10_000_000], [0, 1_000_000], [9_000_000, 10_000_000]])
    ends = np.array([[9_100_000, 10_500_000], [100_000, 10_500_000], [9_100_000, 10_500_000]])
    pairs = zip(starts, ends, strict=True)
    ranks = [rank(i, replace(calls(start, end), kind=kind)) for i, (start, end) in enumerate(pairs)]
    groups = matched(ranks, STEPS)
    found = arrivals(3, groups, align(["a"] * 3, groups))
    assert found is not None
    assert (found.last.tolist(), found.late_ns.tolist()) == ([0, 0, 1], [0, 0, 9_000_000])


def test_clocks_that_disagree_within_a_trace_are_refused_on_the_page() -> None:
    place = fleet(4)
    document = document_of(place / "rank2.trace.json")
    for event in document["traceEvents"]:  # this rank's clock runs a fifth too fast
        event |= {field: event[field] * 12 / 10 for field in ("ts", "dur") if field in event}
    write(place / "rank2.trace.json", document)
    report = loraprof.diagnose(place)
    assert report.rank_summary is not None
    clocks = report.rank_summary.clocks
    assert clocks is not None
    assert clocks.residual_ns is not None
    assert clocks.residual_ns > LIMIT_NS
    assert not clocks.usable
    assert report.rank_summary.stragglers is None
    assert any("who comes last is not said, durations remain valid" in note for note in report.closure.notes)
    assert b"times of different ranks are not compared" in render(report, "markdown")
