"""Which calls would another step make? Changes to the calls of a replay: some go, others are added.

A call that goes takes its host time with it, and the time before it; of a launch with several records only some may
go, and the call stays while it has any left.
"""

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from loraprof.analysis.prediction.replay import Call, Calls
from loraprof.model.trace import NONE, Bool, Int64

Floats = npt.NDArray[np.float64]


class Launch(Struct, frozen=True):
    """A launch to add ``after`` the call of that index (-1: before all): one record of ``record_ns``."""

    after: int
    gap_ns: int
    duration_ns: int
    record_ns: int
    stream: int


def without(calls: Calls, call: Bool, record: Bool) -> Calls:
    """``calls`` without the flagged records, and without the flagged calls that have no record left."""
    counts = np.diff(calls.first)
    owner = np.repeat(np.arange(len(counts)), counts)
    left = np.bincount(owner[~record], minlength=len(counts))
    launched = counts > 0
    keep = np.where(launched, left > 0, ~call)
    return replace(
        calls,
        gap_ns=calls.gap_ns[keep],
        duration_ns=calls.duration_ns[keep],
        kind=calls.kind[keep],
        first=np.concatenate(([0], np.cumsum(left[keep]))),
        record_ns=calls.record_ns[~record],
        stream=calls.stream[~record],
        own=None if calls.own is None else calls.own[keep],
        waits=None if calls.waits is None else calls.waits[~record],
        span_ns=None,
    )


def merged(calls: Calls, record: Bool) -> Calls:
    """``calls`` in which launches of a flagged record each that follow each other are one, as long as all together."""
    counts = np.diff(calls.first)
    launches = np.flatnonzero(counts)
    single = (counts[launches] == 1) & record[calls.first[launches]]
    stream = calls.stream[calls.first[launches]]
    joins = np.zeros(len(launches), dtype=np.bool_)
    joins[1:] = single[1:] & single[:-1] & (stream[1:] == stream[:-1])
    group = np.cumsum(~joins) - 1
    longer = calls.record_ns.copy()
    first = calls.first[launches]
    sums = np.bincount(group, calls.record_ns[first]).astype(np.int64)
    head = single & ~joins
    longer[first[head]] = sums[group[head]]
    gone = np.zeros(len(calls.record_ns), dtype=np.bool_)
    gone[first[joins]] = True
    return without(replace(calls, record_ns=longer, span_ns=None), np.zeros(len(counts), dtype=np.bool_), gone)


def stretched(calls: Calls, factor: Floats) -> Calls:
    """``calls`` whose records take ``factor`` times as long, one per record; the host's time is as it was."""
    return replace(calls, record_ns=np.rint(factor * calls.record_ns).astype(np.int64), span_ns=None)


def eased(calls: Calls, factor: Floats) -> Calls:
    """``calls`` in which launching a record costs the host ``factor`` times as much, one per record."""
    counts = np.diff(calls.first)
    owner = np.repeat(np.arange(len(counts)), counts)
    mean = np.bincount(owner, factor, minlength=len(counts)) / np.maximum(counts, 1)
    each = np.where(counts > 0, mean, 1.0)
    gap, duration = (np.rint(each * ns).astype(np.int64) for ns in (calls.gap_ns, calls.duration_ns))
    return replace(calls, gap_ns=gap, duration_ns=duration, span_ns=None)


def with_launches(calls: Calls, launches: list[Launch]) -> Calls:
    """``calls`` and the added launches, in the order given where several follow the same call."""
    if not launches:
        return calls
    counts = np.diff(calls.first)
    at = np.array([launch.after + 1 for launch in launches])
    records_at = calls.first[at]

    def added(column: Int64, where: Int64, values: list[int]) -> Int64:
        return np.insert(column, where, np.array(values, dtype=np.int64))

    return replace(
        calls,
        gap_ns=added(calls.gap_ns, at, [x.gap_ns for x in launches]),
        duration_ns=added(calls.duration_ns, at, [x.duration_ns for x in launches]),
        kind=np.insert(calls.kind, at, np.full(len(launches), Call.LAUNCH, dtype=np.int8)),
        first=np.concatenate(([0], np.cumsum(added(counts, at, [1] * len(launches))))),
        record_ns=added(calls.record_ns, records_at, [x.record_ns for x in launches]),
        own=None if calls.own is None else np.insert(calls.own, at, np.full(len(launches), True)),
        stream=added(calls.stream, records_at, [x.stream for x in launches]),
        waits=None if calls.waits is None else added(calls.waits, records_at, [NONE] * len(launches)),
        span_ns=None,
    )
