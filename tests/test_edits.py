"""Calls that go and calls that come: counts, order, and the window by hand."""

import numpy as np

from loraprof.analysis.prediction.edits import Launch, merged, stretched, with_launches, without
from loraprof.analysis.prediction.replay import Call, Calls, replay

# A launch of two records, a wait, a launch of one.
CALLS = Calls(
    gap_ns=np.array([0, 100, 200]),
    duration_ns=np.array([50, 60, 70]),
    kind=np.array([Call.LAUNCH, Call.OTHER, Call.LAUNCH], dtype=np.int8),
    first=np.array([0, 2, 2, 3]),
    record_ns=np.array([1000, 2000, 3000]),
    stream=np.array([7, 7, 8]),
)


def flags(*values: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.array(values, dtype=np.bool_)


def test_nothing_changes_nothing() -> None:
    same = without(CALLS, flags(0, 0, 0), flags(0, 0, 0))
    for column in ("gap_ns", "duration_ns", "kind", "first", "record_ns", "stream"):
        assert getattr(same, column).tolist() == getattr(CALLS, column).tolist()
    assert with_launches(CALLS, []) is CALLS


def test_a_launch_goes_with_its_last_record() -> None:
    one = without(CALLS, flags(0, 0, 0), flags(1, 0, 0))
    assert (one.gap_ns.tolist(), one.first.tolist()) == ([0, 100, 200], [0, 1, 1, 2])
    assert one.record_ns.tolist() == [2000, 3000]
    both = without(CALLS, flags(0, 0, 0), flags(1, 1, 0))
    assert (both.gap_ns.tolist(), both.first.tolist(), both.stream.tolist()) == ([100, 200], [0, 0, 1], [8])


def test_a_call_without_records_goes_when_flagged_a_launch_does_not() -> None:
    assert without(CALLS, flags(1, 1, 0), flags(0, 0, 0)).gap_ns.tolist() == [0, 200]


def test_launches_follow_their_call_in_the_order_given() -> None:
    longer = with_launches(CALLS, [Launch(-1, 1, 2, 10, 7), Launch(0, 3, 4, 20, 7), Launch(0, 5, 6, 30, 7)])
    assert longer.gap_ns.tolist() == [1, 0, 3, 5, 100, 200]
    assert longer.first.tolist() == [0, 1, 3, 4, 5, 5, 6]
    assert longer.record_ns.tolist() == [10, 1000, 2000, 20, 30, 3000]
    assert longer.kind.tolist() == [0, 0, 0, 0, 2, 0]


def test_the_window_by_hand() -> None:
    """One stream, no latency: records queue, so the added one's time is the window's."""
    queue = Calls(
        gap_ns=np.array([0, 0]), duration_ns=np.array([10, 10]), kind=np.zeros(2, np.int8), first=np.array([0, 1, 2]),
        record_ns=np.array([1000, 500]), stream=np.array([7, 7]),
    )  # fmt: skip
    assert replay(queue, 1.0, 0, 0) == 1500
    assert replay(with_launches(queue, [Launch(0, 0, 10, 250, 7)]), 1.0, 0, 0) == 1750
    assert replay(without(queue, flags(0, 0), flags(0, 1)), 1.0, 0, 0) == 1000


def test_stretched_records_take_longer_and_their_calls_as_long() -> None:
    longer = stretched(CALLS, np.array([1.0, 1.0, 3.0]))
    assert longer.record_ns.tolist() == [*CALLS.record_ns[:-1].tolist(), 3 * int(CALLS.record_ns[-1])]
    assert longer.gap_ns is CALLS.gap_ns
    assert replay(longer, 1.0, 0, 0) - replay(CALLS, 1.0, 0, 0) == 2 * int(CALLS.record_ns[-1])


def test_launches_that_follow_each_other_become_one_as_long_as_all() -> None:
    calls = Calls(
        gap_ns=np.array([1, 2, 3, 4, 5]),
        duration_ns=np.array([10, 20, 30, 40, 50]),
        kind=np.array([Call.LAUNCH, Call.LAUNCH, Call.OTHER, Call.LAUNCH, Call.LAUNCH], dtype=np.int8),
        first=np.array([0, 1, 2, 2, 3, 4]),
        record_ns=np.array([100, 200, 300, 400]),
        stream=np.array([7, 7, 7, 7]),
    )
    one = merged(calls, flags(1, 1, 1, 0))
    assert (one.gap_ns.tolist(), one.record_ns.tolist(), one.first.tolist()) == ([1, 3, 5], [600, 400], [0, 1, 1, 2])
    assert merged(calls, flags(1, 0, 1, 0)).record_ns.tolist() == [100, 200, 300, 400]
    assert merged(calls, flags(0, 0, 1, 1)).record_ns.tolist() == [100, 200, 700]
