"""What do Perfetto and chrome://tracing show? The profiler's trace, and above it a process "loraprof" with one track
per step: its partition in time order, busy time under its role, idle time under its cause.

Times are microseconds with three decimals on the trace's own clock, as Kineto writes them; ``args.ns`` is the exact
length. Perfetto reads a time as ``llround(double * 1000)`` (older: truncated), off by 1 ns on a clock that far from
0, and drops a slice that overlaps its neighbour: ``dur`` is cut by that nanosecond where it would
(google/perfetto ``json_trace_tokenizer.cc``, ``slice_tracker.cc``).
"""

import math
from collections.abc import Iterator
from itertools import chain, count
from typing import Any, Final

import msgspec

from loraprof.analysis.step.segments import Segments, segments
from loraprof.model.trace import Trace
from loraprof.report.export.files import replacing
from loraprof.report.export.job import Job
from loraprof.store.kineto.events import OWN_CATEGORY

FIRST_PID: Final = 1 << 30  # no operating system gives one out


def export(job: Job) -> str:
    """Writes the file, gzip when it ends in ``.gz``; returns what to do with it."""
    with replacing(job.target) as out:
        job.copy(job.shown, out, extra=_events(job))
    seen = job.survey
    more = f" (rank {seen.summary.slowest}, the slowest of {len(job.ranks)})" if seen is not None else ""
    return f"open it at https://ui.perfetto.dev{more}"


def _events(job: Job) -> Iterator[bytes]:
    pid = _free_pid(job.analysis.trace)
    yield from (
        _line({"ph": "M", "name": name, "pid": pid, "tid": 0, "ts": 0, "args": args})
        for name, args in (("process_name", {"name": "loraprof"}), ("process_sort_index", {"sort_index": -1}))
    )
    for i, track in enumerate(segments(job.analysis)):
        yield from _track(track, pid, pid + 1 + i, i)


def _track(track: Segments, pid: int, tid: int, place: int) -> Iterator[bytes]:
    for name, args in (("thread_name", {"name": track.track}), ("thread_sort_index", {"sort_index": place})):
        yield _line({"ph": "M", "name": name, "pid": pid, "tid": tid, "ts": 0, "args": args})
    for start, end, label, details in track.rows():
        times = {"ts": _us(start), "dur": _us(_shown_ns(start, end))}
        event = {"ph": "X", "cat": OWN_CATEGORY, "name": label, "pid": pid, "tid": tid, **times}
        yield _line({**event, "args": {**details, "ns": end - start}})


def _free_pid(trace: Trace) -> int:
    taken = set(chain.from_iterable(trace.threads))
    return next(pid for pid in count(FIRST_PID) if str(pid) not in taken)


def _shown_ns(start: int, end: int) -> int:
    """The length at which no reader's end passes its start of the piece that follows."""
    first, last = start / 1000 * 1000.0, end / 1000 * 1000.0
    rounded = math.floor(last + 0.5) - math.floor(first + 0.5)
    return max(0, min(end - start, rounded, math.trunc(last) - math.trunc(first)))


def _us(ns: int) -> msgspec.Raw:
    """Exact: microseconds with three decimals."""
    whole, rest = divmod(abs(ns), 1000)
    return msgspec.Raw(f"{'-' * (ns < 0)}{whole}.{rest:03}".encode())


def _line(event: dict[str, Any]) -> bytes:
    return msgspec.json.encode(event)
