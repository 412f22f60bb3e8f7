"""What do Perfetto and chrome://tracing show? The profiler's trace, and above it a process "loraprof".

It has two tracks per step: its phases, and its partition in time order, busy time under its role, idle time under its
cause. An arrow leads from the host call that launched what ended a gap to the gap; a counter is the number of records
launched and not yet begun; the findings stand as instants at the start of the reported step.

Times are microseconds with three decimals on the trace's own clock, as Kineto writes them; ``args.ns`` is the exact
length. Perfetto reads a time as ``llround(double * 1000)`` (older: truncated), off by 1 ns on a clock that far from
0, and drops a slice that overlaps its neighbour: ``dur`` is cut by that nanosecond where it would
(google/perfetto ``json_trace_tokenizer.cc``, ``slice_tracker.cc``).
"""

import math
from collections.abc import Iterable, Iterator
from itertools import chain, count, groupby
from typing import Any, Final

import msgspec
import numpy as np

from loraprof.analysis.analyse import Analysis
from loraprof.analysis.step.scene import launched_after
from loraprof.analysis.step.segments import Segments, segments
from loraprof.model.finding import Finding
from loraprof.model.trace import Trace
from loraprof.model.vocabulary import CLASSES
from loraprof.report.export.files import replacing
from loraprof.report.export.job import Job
from loraprof.store.kineto.events import OWN_CATEGORY

Row = tuple[int, int, str, dict[str, str]]  # start, end, label, details
FIRST_PID: Final = 1 << 30  # no operating system gives one out


def export(job: Job) -> str:
    """Writes the file, gzip when it ends in ``.gz``; returns what to do with it."""
    with replacing(job.target) as out:
        job.copy(job.shown, out, extra=_events(job))
    seen = job.survey
    more = f" (rank {seen.summary.slowest}, the slowest of {len(job.ranks)})" if seen is not None else ""
    return f"open it at https://ui.perfetto.dev{more}"


def _events(job: Job) -> Iterator[bytes]:
    analysis = job.analysis
    pid = _free_pid(analysis.trace)
    yield from (
        _line({"ph": "M", "name": name, "pid": pid, "tid": 0, "ts": 0, "args": args})
        for name, args in (("process_name", {"name": "loraprof"}), ("process_sort_index", {"sort_index": -1}))
    )
    reported = analysis.ledgers[analysis.reported].window if analysis.reported is not None else None
    arrows = count(1)
    for i, track in enumerate(segments(analysis)):
        tid = pid + 1 + 2 * i
        yield from _track(f"{track.track}: phases", _phases(track), pid, tid, 2 * i)
        yield from _track(track.track, track.rows(), pid, tid + 1, 2 * i + 1)
        yield from _arrows(analysis, track, pid, tid + 1, arrows)
        if reported is not None and track.window == reported:
            yield from _instants(job.report.findings, reported.start, pid, tid + 1)
    yield from _queue(analysis, pid)


def _track(title: str, rows: Iterable[Row], pid: int, tid: int, place: int) -> Iterator[bytes]:
    for name, args in (("thread_name", {"name": title}), ("thread_sort_index", {"sort_index": place})):
        yield _line({"ph": "M", "name": name, "pid": pid, "tid": tid, "ts": 0, "args": args})
    for start, end, label, details in rows:
        times = {"ts": _us(start), "dur": _us(_shown_ns(start, end))}
        event = {"ph": "X", "cat": OWN_CATEGORY, "name": label, "pid": pid, "tid": tid, **times}
        yield _line({**event, "args": {**details, "ns": end - start}})


def _phases(track: Segments) -> Iterator[Row]:
    """Pieces of one phase that follow one another are one."""
    for _, group in groupby(track.rows(), key=lambda row: row[3]["phase"]):
        pieces = list(group)
        yield pieces[0][0], pieces[-1][1], pieces[0][3]["phase"], {"kind": "phase"}


def _arrows(analysis: Analysis, track: Segments, pid: int, tid: int, numbers: Iterator[int]) -> Iterator[bytes]:
    """From the call that launched what ended a gap to the gap."""
    host, threads = analysis.trace.host, analysis.trace.threads
    idle = np.flatnonzero(track.kind >= len(CLASSES))
    launched = launched_after(analysis, track.end[idle])
    for piece, call in zip(idle.tolist(), launched.tolist(), strict=True):
        if call < 0 or not (thread := _numbers(threads[int(host.thread[call])])):
            continue
        number = next(numbers)
        own = {"cat": OWN_CATEGORY, "name": "launch", "id": number}
        start = {"ph": "s", "pid": thread[0], "tid": thread[1], "ts": _us(int(host.start[call]))}
        end = {"ph": "f", "bp": "e", "pid": pid, "tid": tid, "ts": _us(int(track.start[piece]))}
        yield _line({**own, **start})
        yield _line({**own, **end})


def _numbers(thread: tuple[str, str]) -> tuple[int, int] | None:
    return (int(thread[0]), int(thread[1])) if thread[0].isdigit() and thread[1].isdigit() else None


def _instants(findings: Iterable[Finding], start: int, pid: int, tid: int) -> Iterator[bytes]:
    for finding in findings:
        event = {"ph": "i", "s": "t", "cat": OWN_CATEGORY, "pid": pid, "tid": tid, "ts": _us(start)}
        yield _line({**event, "name": f"{finding.id}: {finding.title}", "args": {"remedy": finding.remedy}})


def _queue(analysis: Analysis, pid: int) -> Iterator[bytes]:
    """Device records launched and not yet begun, at every change."""
    rows = np.flatnonzero(analysis.links.launch >= 0)
    called = analysis.trace.host.start[analysis.links.launch[rows]]
    begun = np.maximum(analysis.trace.device.start[rows], called)
    at = np.concatenate((called, begun))
    change = np.concatenate((np.ones(len(rows), np.int64), -np.ones(len(rows), np.int64)))
    order = np.lexsort((change, at))
    depth = np.cumsum(change[order])
    last = np.append(np.diff(at[order]) > 0, True)[: len(order)]
    for when, waiting in zip(at[order][last].tolist(), depth[last].tolist(), strict=True):
        own = {"ph": "C", "cat": OWN_CATEGORY, "name": "records queued", "pid": pid, "tid": 0, "ts": _us(when)}
        yield _line({**own, "args": {"queued": max(waiting, 0)}})


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
