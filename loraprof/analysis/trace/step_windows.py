"""Where does each step begin and end?

The step ``ProfilerStep#i`` owns the window that ends with the last device activity it launched (by the start of
the launch record) and starts where the previous step's window ended, so windows tile the trace. Without such
annotations steps end with ``Optimizer.step`` ranges, and without those the whole trace is one window.
"""

import re
from itertools import pairwise

import numpy as np
from msgspec import Struct

from loraprof.analysis.trace.launch_links import Links
from loraprof.model.trace import NONE, Bool, Int64, Trace
from loraprof.model.vocabulary import HostKind

STEP = re.compile(r"^ProfilerStep ?#(\d+)$")
OPTIMIZER_STEP = "Optimizer.step#"
DATA = re.compile(r"^enumerate\(DataLoader\)|DataLoader.*__next__")  # ranges in which a batch is loaded


class Window(Struct, frozen=True):
    """One step: its annotation ``[noted_start, noted_end)`` and its window ``[start, end)``, ns."""

    name: str
    noted_start: int
    noted_end: int
    start: int
    end: int
    thread: int  # the step's main thread, -> Trace.threads; -1 unknown
    first: bool = False  # no window before it: records that run into it are counted here


class Marks(Struct, frozen=True):
    """Step annotations in time order and how they were found."""

    names: tuple[str, ...]
    start: tuple[int, ...]
    end: tuple[int, ...]
    thread: int
    note: str | None


def marks_of(trace: Trace) -> Marks:
    """The step annotations of a trace, or what stands in for them."""
    host = trace.host
    wanted = np.array([bool(STEP.match(n)) for n in trace.names], dtype=np.bool_)
    rows = np.flatnonzero((host.kind == HostKind.ANNOTATION) & wanted[host.name])
    if len(rows):
        rows = rows[np.argsort(host.start[rows], kind="stable")]
        return Marks(
            tuple(trace.names[i].replace(" ", "") for i in host.name[rows]),
            tuple(host.start[rows].tolist()),
            tuple(host.end[rows].tolist()),
            int(host.thread[rows[0]]),
            _disorder(trace, rows),
        )
    return _inferred(trace)


def _disorder(trace: Trace, rows: Int64) -> str | None:
    """C7: what is wrong with the order of the steps, rows sorted by start."""
    host = trace.host
    overlap = int((host.start[rows[1:]] < host.end[rows[:-1]]).sum())
    if overlap:
        return f"{overlap} step annotations overlap the one before: their work is counted with the earlier step"
    numbers = [int(match[1]) for match in map(STEP.match, (trace.names[i] for i in host.name[rows])) if match]
    gaps = sum(after != before + 1 for before, after in pairwise(numbers))
    return f"steps are missing: their numbers jump {gaps} times" if gaps else None


def _inferred(trace: Trace) -> Marks:
    host, device = trace.host, trace.device
    work = np.flatnonzero(np.isin(host.kind, (HostKind.OP, HostKind.RUNTIME, HostKind.MARKER)))
    starts = np.concatenate((host.start[work], device.start))
    if not len(starts):
        return Marks((), (), (), NONE, "the trace holds no work")
    low, high = int(starts.min()), int(np.concatenate((host.end[work], device.end)).max())
    thread = int(np.bincount(host.thread[work]).argmax()) if len(work) else NONE
    optimizer = np.array([n.startswith(OPTIMIZER_STEP) for n in trace.names], dtype=np.bool_)
    rows = np.flatnonzero((host.kind == HostKind.ANNOTATION) & optimizer[host.name])
    if len(rows) < 2:
        return Marks(("trace",), (low,), (high,), thread, "no step annotations: the whole trace is one window")
    rows = rows[np.argsort(host.start[rows], kind="stable")]
    ends = host.end[rows].tolist()
    note = "no ProfilerStep annotations: steps inferred from the ends of Optimizer.step"
    names = tuple(f"OptimizerStep#{i}" for i in range(len(ends)))
    return Marks(names, (low, *ends[:-1]), tuple(ends), int(host.thread[rows[0]]), note)


def finished(marks: Marks, count: int | None) -> Marks:
    """The first ``count`` steps, where the one after them did not come to its end; None: all did."""
    if count is None or count >= len(marks.names):
        return marks
    note = f"the script ended within {marks.names[count]}: that step is left out"
    said = note if marks.note is None else f"{marks.note}; {note}"
    return Marks(marks.names[:count], marks.start[:count], marks.end[:count], marks.thread, said)


def windows(marks: Marks, trace: Trace, links: Links, on_device: Bool) -> list[Window]:
    """Tiling windows for one device; ``on_device`` selects its records."""
    device = trace.device
    linked = np.flatnonzero(on_device & (links.launch != NONE))
    linked = linked[np.argsort(trace.host.start[links.launch[linked]], kind="stable")]
    launched = trace.host.start[links.launch[linked]]
    ends = device.end[linked]
    whole = marks.names == ("trace",)
    out: list[Window] = []
    at = marks.start[0] if marks.names else 0
    for name, s, e in zip(marks.names, marks.start, marks.end, strict=True):
        ends_inside = ends[slice(*np.searchsorted(launched, (s, e)))]
        end = e if whole or not len(ends_inside) else int(ends_inside.max())
        end = max(end, at)
        out.append(Window(name, s, e, at, end, marks.thread, first=not out))
        at = end
    return out


def cpu_windows(marks: Marks) -> list[Window]:
    """Without device work the window is the annotation; a later one never starts before its forerunner's end."""
    out: list[Window] = []
    at: int | None = None
    for name, s, e in zip(marks.names, marks.start, marks.end, strict=True):
        begin = s if at is None else max(s, at)
        at = max(e, begin)
        out.append(Window(name, s, e, begin, at, marks.thread))
    return out
