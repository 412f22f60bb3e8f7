"""What was a host thread doing? The class table that makes "innermost record" deterministic.

First class, in this order, that any covering record of the thread has: profiler, sync, allocator, launch_api, data,
framework, and python where nothing covers. The time of each class inside any interval is a difference of two
running integrals, so all gaps of a trace are answered at once.
"""

import re

import numpy as np
from msgspec import Struct

from loraprof.analysis.trace.intervals import union
from loraprof.analysis.trace.launch_links import Links
from loraprof.analysis.trace.step_windows import DATA
from loraprof.model.trace import NONE, Int8, Int64, Trace, distinct, taken
from loraprof.model.vocabulary import Cause, HostKind

STATES: tuple[Cause, ...] = ("profiler", "sync", "allocator", "launch_api", "data", "framework", "python")
PYTHON = STATES.index("python")

_LAZY = re.compile(r"Lazy Function Loading|Triggered Module Loading")
_SYNC = re.compile(r"(Device|Stream|Event)Synchronize|^(cuda|hip)Memcpy(_v2|WithStream)?$|^(cuda|hip)Memcpy(HtoD|DtoH)")
_ALLOCATOR = re.compile(
    r"^(cuda|hip)(Malloc|Free|HostAlloc|HostMalloc|HostFree)|^cuMem|^hipMem(Alloc|Free|Create|Map|Release)"
)


class Timeline(Struct, frozen=True, eq=False):
    """Piecewise-constant state of one thread: ``state[i]`` holds from ``at[i]`` to ``at[i + 1]``."""

    at: Int64
    state: Int8

    def between(self, low: int, high: int) -> "Timeline":
        """The part that says what holds in ``[low, high]``, so that a window does not pay for the whole trace."""
        first = max(int(np.searchsorted(self.at, low, side="right")) - 1, 0)
        last = max(int(np.searchsorted(self.at, high, side="right")), first + 1)
        return Timeline(self.at[first:last], self.state[first:last])

    def integrals(self) -> Int64:
        """Running time per state at each ``at``: shape (states, len(at))."""
        out = np.zeros((len(STATES), len(self.at)), dtype=np.int64)
        if len(self.at) > 1:
            step = np.diff(self.at)
            for i in range(len(STATES)):
                out[i, 1:] = np.cumsum(np.where(self.state[:-1] == i, step, 0))
        return out


def idle_causes(trace: Trace) -> tuple[Cause, ...]:
    """The idle cause of each state: where no ops were recorded, what a host does between its calls is unknown."""
    return STATES if (trace.host.kind == HostKind.OP).any() else (*STATES[:PYTHON], "unknown")


def classify(trace: Trace, links: Links) -> Int8:
    """State index per host row; python for rows that say nothing (frames, plain annotations, markers)."""
    host = trace.host
    names = trace.names or ("",)
    sync = np.array([bool(_SYNC.search(n)) for n in names])
    allocator = np.array([bool(_ALLOCATOR.search(n)) for n in names])
    data = np.array([bool(DATA.search(n)) for n in names])
    lazy = np.array([bool(_LAZY.search(n)) for n in names])
    state = np.full(len(host), PYTHON, dtype=np.int8)
    runtime = host.kind == HostKind.RUNTIME
    state[(host.kind == HostKind.OP) | runtime] = STATES.index("framework")
    state[(host.kind == HostKind.ANNOTATION) & data[host.name]] = STATES.index("data")
    state[runtime & links.is_launch] = STATES.index("launch_api")
    state[runtime & allocator[host.name]] = STATES.index("allocator")
    state[runtime & sync[host.name]] = STATES.index("sync")
    state[_blocking_copies(trace, links)] = STATES.index("sync")
    overhead = host.kind == HostKind.OVERHEAD
    state[overhead] = np.where(lazy[host.name[overhead]], STATES.index("framework"), STATES.index("profiler"))
    return state


def _blocking_copies(trace: Trace, links: Links) -> Int64:
    """DtoH copies whose call took more than ten median launch calls: they waited."""
    host, device = trace.host, trace.device
    launches = np.flatnonzero(links.is_launch)
    if not len(launches):
        return launches
    median = np.sort(host.end[launches] - host.start[launches])[(len(launches) - 1) // 2]
    to_host = np.array(["DtoH" in n or "DeviceToHost" in n for n in trace.names], dtype=np.bool_)
    rows = links.launch[to_host[device.name] & (links.launch != NONE)]
    slow: Int64 = rows[host.end[rows] - host.start[rows] > 10 * median]
    return slow


def timeline(start: Int64, end: Int64, state: Int8) -> Timeline:
    """Overlays records; the lowest state index wins at every instant."""
    covers = {i: union(start[state == i], end[state == i]) for i in range(PYTHON)}
    at = distinct(np.concatenate([edge for c in covers.values() for edge in (c.start, c.end)]))
    if not len(at):
        return Timeline(np.zeros(1, np.int64), np.full(1, PYTHON, np.int8))
    result = np.full(len(at), PYTHON, dtype=np.int8)
    for i, cover in reversed(covers.items()):
        depth = np.zeros(len(at), dtype=np.int8)
        depth[np.searchsorted(at, cover.start)] = 1
        depth[np.searchsorted(at, cover.end)] = -1  # pieces of a cover never touch
        result[np.cumsum(depth, dtype=np.int8) > 0] = i
    return _changes(at, result)


def _changes(at: Int64, state: Int8) -> Timeline:
    """Only the instants at which the state changes."""
    fresh = np.append(True, state[1:] != state[:-1])
    return Timeline(at[fresh], state[fresh])


def stand_in(thread: Timeline, main: Timeline) -> Timeline:
    """Where a thread shows nothing, what the step's main thread was doing (hand-over to the autograd thread)."""
    at = distinct(np.concatenate((thread.at, main.at)))
    worker_state, main_state = _sample(thread, at), _sample(main, at)
    return _changes(at, np.where(worker_state == PYTHON, main_state, worker_state).astype(np.int8))


def _sample(line: Timeline, at: Int64) -> Int8:
    i = np.searchsorted(line.at, at, side="right") - 1
    return taken(line.state, i, PYTHON).astype(np.int8)


def measure(line: Timeline, start: Int64, end: Int64) -> Int64:
    """Time per state inside each ``[start, end)``: shape (states, n); rows sum to ``max(end - start, 0)``."""
    end = np.maximum(start, end)
    near = line.between(int(start.min()), int(end.max())) if len(start) else line
    integrals = near.integrals()

    def upto(t: Int64) -> Int64:
        i = np.searchsorted(near.at, t, side="right") - 1
        at = np.maximum(i, 0)
        out: Int64 = integrals[:, at].copy()
        rest = np.where(i < 0, 0, t - near.at[at])
        out[near.state[at], np.arange(len(t))] += rest
        return out

    out = upto(end) - upto(start)
    out[PYTHON] += (end - start) - out.sum(axis=0)  # before the first record nothing covers
    return out


def timelines(trace: Trace, links: Links, main: int) -> dict[int, Timeline]:
    """What every thread that launched device work, and the main thread, shows of itself."""
    host = trace.host
    state = classify(trace, links)
    out: dict[int, Timeline] = {}
    used = distinct(host.thread[links.launch[links.launch != NONE]]).tolist()
    for thread in {*used, main} - {NONE}:
        rows = host.thread == thread
        out[thread] = timeline(host.start[rows], host.end[rows], state[rows])
    return out


def stood_in(shown: dict[int, Timeline], main: int) -> dict[int, Timeline]:
    """The timelines, each with the main thread's state where it shows nothing itself."""
    if main not in shown:
        return shown
    return {t: line if t == main else stand_in(line, shown[main]) for t, line in shown.items()}


def states_of(trace: Trace, links: Links, main: int) -> dict[int, Timeline]:
    """Timeline per thread that launched device work, and of the main thread."""
    return stood_in(timelines(trace, links, main), main)
