"""Where would the reported step's time go without the profiler? Its records where the replay puts them, partitioned.

Device records are moved to their replayed places, and every host thread by the piecewise-linear map that its calls'
replayed times define, on the host's time line without the profiler's cost; then the same partition. The step follows
one like it: the host's time before its first call is that after the last call of a step, and before the first. What
no replayed record or call accounts for is idle time of unknown cause.
"""

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from loraprof.analysis.analyse import Analysis
from loraprof.analysis.partition.gpu import DeviceWork, split
from loraprof.analysis.partition.host_state import PYTHON, Timeline, stood_in
from loraprof.analysis.partition.ledger import Ledger
from loraprof.analysis.prediction.host_clock import Floats
from loraprof.analysis.prediction.replay import Replayed, replayed
from loraprof.analysis.prediction.replayed import StepReplay
from loraprof.analysis.trace.step_windows import Window
from loraprof.model.trace import NONE, Int64


class _Place(Struct, frozen=True, eq=False):
    """From the trace's times to those of the replayed step; ``scale`` fits kernels that exceed it."""

    analysis: Analysis
    replay: StepReplay
    run: Replayed
    scale: float
    sigma: float

    def at(self, t: Floats | Int64) -> Int64:
        """Replayed times as ns after the window's start."""
        placed: Int64 = np.rint((t - self.run.opened) * self.scale).astype(np.int64)
        return placed

    def line(self, thread: int, shown: Timeline) -> Timeline:
        """A thread's states in the replayed step, and at the end of the step before it."""
        host, rows, clock, cost = self.analysis.trace.host, self.replay.step.row, self.replay.clock, self.replay.cost_ns
        sigma, run = self.sigma, self.run
        low, high = int(clock.at[0]), int(clock.at[-1])
        part = shown.between(low, high)
        own = np.flatnonzero(host.thread[rows] == thread)
        known = np.stack((clock.times(host.start[rows[own]], cost), clock.times(host.end[rows[own]], cost)), axis=1)
        goal = np.stack((np.array(run.start)[own], np.array(run.end)[own]), axis=1)
        reach = int(host.end[rows].max())
        edges = np.array([low, int(host.start[rows[0]]), reach, high])
        begin, first, last, end = clock.times(edges, cost).tolist()
        start = run.start[0] - sigma * (first - begin)
        finish = max(run.end) + sigma * (end - last)
        x = np.concatenate(([begin], known.ravel(), [end]))
        y = np.maximum.accumulate(np.concatenate(([start], goal.ravel().astype(np.float64), [finish])))
        after = int(np.searchsorted(part.at, reach, side="right"))
        tail = run.host + sigma * (clock.times(part.at[after:], cost) - last)
        body = np.interp(clock.times(np.maximum(part.at, low), cost), x, y)
        state = int(part.state[after - 1]) if len(part.at) else PYTHON
        earlier = np.minimum(body - run.window_ns, run.host)  # calls of the step before that came after its last record
        at = np.concatenate((earlier, [run.host], np.minimum(tail, start), body))
        states = np.concatenate((part.state, [state], part.state[after:], part.state)).astype(np.int8)
        return Timeline(np.maximum.accumulate(self.at(at)), states)

    def work(self, work: DeviceWork) -> DeviceWork:
        """The records of ``work`` that were replayed, at their places."""
        step, trace = self.replay.step, self.analysis.trace
        place = np.full(len(trace.device), NONE, dtype=np.int64)
        place[step.record] = np.arange(len(step.record))
        chosen = np.flatnonzero(place[work.rows] != NONE)
        at = place[work.rows[chosen]]
        begin = np.array(self.run.begin, dtype=np.int64)
        start, end = self.at(begin), self.at(begin + step.calls.record_ns)
        call = np.searchsorted(step.calls.first, np.arange(len(step.record)), side="right") - 1
        called = self.at(np.array(self.run.start)[call]), self.at(np.array(self.run.end)[call])
        order = np.lexsort(
            (trace.device.correlation[work.rows[chosen]], trace.device.stream[work.rows[chosen]], start[at])
        )
        chosen, at = chosen[order], at[order]
        columns = {f: getattr(work, f)[chosen] for f in ("rows", "kind", "module", "phase", "role", "launch", "op")}
        return DeviceWork(
            start=start[at],
            end=end[at],
            call=called[0][at],
            called=called[1][at],
            reach=np.maximum.accumulate(end[at]),
            causes=work.causes,
            **columns,
        )


class Moved(Struct, frozen=True, eq=False):
    """The replayed step: its window from 0 on, the device's records and the threads' states in it."""

    window: Window
    work: DeviceWork
    states: dict[int, Timeline]


def moved_ledger(analysis: Analysis, ledger: Ledger, replay: StepReplay, total_ns: int) -> Ledger | None:
    """The partition of a step of ``total_ns`` without the profiler; sums to it. None where the replay was refused."""
    step = moved(analysis, ledger, replay, total_ns)
    return split(analysis.trace, step.work, step.window, step.states, analysis.tau_ns) if step else None


def moved(analysis: Analysis, ledger: Ledger, replay: StepReplay, total_ns: int) -> Moved | None:
    """The step of ``total_ns`` without the profiler. None where the replay was refused."""
    if replay.sigma is None or analysis.work is None:
        return None
    run = replayed(replay.step.calls, replay.sigma, replay.latency_ns, replay.turnaround_ns)
    place = _Place(analysis, replay, run, min(1.0, total_ns / max(run.window_ns, 1)), replay.sigma)
    main = analysis.marks.thread
    states = stood_in({t: place.line(t, shown) for t, shown in analysis.timelines.items()}, main)
    window = replace(ledger.window, start=0, end=total_ns, first=True)
    return Moved(window, place.work(analysis.work), states)
