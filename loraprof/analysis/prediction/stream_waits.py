"""Which records of a step wait for another stream? A trace does not say; when they started tells.

A record waits for the stream whose last record, launched before it, had ended when it started, and most recently. It
does so surely where it started right then (within HANDOVER_NS), though its launch and its own stream would have let it
start earlier; and presumably where the host had just made its stream wait for an event. What started before the other
stream's record had ended does not wait for it.
"""

from typing import Final

import numpy as np
from msgspec.structs import replace

from loraprof.analysis.prediction.replay import StepCalls
from loraprof.model.trace import NONE, Bool, Int64, Trace, distinct

HANDOVER_NS: Final = 5000  # from the end of what is waited for to the start, at most
LONG_AGO: Final = np.iinfo(np.int64).min // 2


def with_waits(trace: Trace, step: StepCalls, latency_ns: int, turnaround_ns: int) -> StepCalls:
    """``step`` with the stream that each record waits for; ``latency_ns`` from a launch call to a record, and
    ``turnaround_ns`` from one record to the next of its stream, both at least."""
    calls = step.calls
    streams = distinct(calls.stream)
    if len(streams) < 2:
        return step
    start, end = trace.device.start[step.record], trace.device.end[step.record]
    call = np.repeat(np.arange(len(step.row)), np.diff(calls.first))
    ended = np.stack([_ended(calls.stream == stream, end) for stream in streams])
    own = calls.stream == streams[:, None]
    queued = ended.max(axis=0, where=own, initial=LONG_AGO) + turnaround_ns
    ready = np.maximum(trace.host.start[step.row[call]] + latency_ns, queued)
    over = np.where(own | (ended > start), LONG_AGO, ended)
    latest, which = over.max(axis=0), over.argmax(axis=0)
    seen = (start - latest <= HANDOVER_NS) & (start - ready > HANDOVER_NS)
    told = _told_to(trace, step)[call] & (latest > LONG_AGO)
    return replace(step, calls=replace(calls, waits=np.where(seen | told, streams[which], NONE)))


def _ended(of_stream: Bool, end: Int64) -> Int64:
    """Per record, in order of launch: when the last record before it of a stream ended."""
    reached = np.maximum.accumulate(np.where(of_stream, end, LONG_AGO))
    return np.concatenate(([LONG_AGO], reached[:-1]))


def _told_to(trace: Trace, step: StepCalls) -> Bool:
    """Per call: whether the host made a stream wait for an event since the launch before it."""
    waits = np.array(["StreamWaitEvent" in name for name in trace.names], dtype=np.bool_)[trace.host.name[step.row]]
    made = np.concatenate(([0], np.cumsum(waits)))[:-1]
    launches = np.diff(step.calls.first) > 0
    at_launch = np.maximum.accumulate(np.where(launches, made, 0))
    found: Bool = made > np.concatenate(([0], at_launch[:-1]))
    return found & launches
