"""What would the host's time line be without the profiler? Its cost, taken out where it arose.

    without(cost) of a piece = max(length - cost events, LEAST length)

The line of the launching threads is cut at every begin and end of a record. An event's cost lies around its two ends,
a quarter on each side of each, so a piece between two cuts carries half an event's; what no record interrupts (a data
loader that waits, a long Python loop) keeps its length. The profiler's own pauses go entirely. The cost per event is
solved for, so that the replayed step takes the unprofiled time; it is at most the calibrated one, where that is known,
and what is still missing makes the whole host faster. On the H100 recordings that predicts the other arms better than
a cost beyond the calibrated one.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from loraprof.analysis.prediction.replay import Calls, StepCalls, replayed
from loraprof.analysis.trace.intervals import union
from loraprof.model.trace import Int64, Trace, among, distinct
from loraprof.model.vocabulary import HostKind

LEAST: Final = 0.3  # of a piece is the host's own, whatever the cost per event says
NEAR: Final = 0.05
CLOSE: Final = 1e-5  # of the step: nearer to it need no solution be
PASSES: Final = 40

Floats = npt.NDArray[np.float64]


class HostClock(Struct, frozen=True, eq=False):
    """Cuts ``at``, ns, and per piece between two: its length without the profiler's pauses, and events."""

    at: Int64
    length: Floats
    events: Floats

    def without(self, cost_ns: float) -> Floats:
        """Time of every cut, ns after the first, where an event costs ``cost_ns`` less."""
        left = np.maximum(self.length - cost_ns * self.events, LEAST * self.length)
        return np.concatenate(([0.0], np.cumsum(left)))

    def times(self, t: Int64, cost_ns: float) -> Floats:
        """The instants ``t`` on that line."""
        origin = self.at[0]
        found: Floats = np.interp((t - origin).astype(np.float64), (self.at - origin), self.without(cost_ns))
        return found

    @property
    def most_ns(self) -> float:
        """The cost per event at which every piece is as short as it gets."""
        some = self.events > 0
        return float(((1 - LEAST) * self.length[some] / self.events[some]).max()) if some.any() else 0.0


class Unslowed(Struct, frozen=True, eq=False):
    """The calls without the profiler: what an event was found to cost, and how much faster (sigma) the rest is."""

    calls: Calls
    cost_ns: float
    sigma: float


def host_clock(trace: Trace, step: StepCalls, noted: tuple[int, int], main: int) -> HostClock:
    """Of the threads that launched ``step``, and the step's main thread."""
    host = trace.host
    start, end = host.start[step.row], host.end[step.row]
    low, high = min(noted[0], int(start.min())), max(noted[1], int(end.max()))
    threads = np.append(distinct(host.thread[step.row]), np.int32(main))
    inside = np.flatnonzero((host.end > low) & (host.start < high))
    inside = inside[among(host.thread[inside], threads)]
    pausing = host.kind[inside] == HostKind.OVERHEAD
    rows, pauses = inside[~pausing], inside[pausing]
    ends = np.concatenate((host.start[rows], host.end[rows]))
    ends = ends[(ends > low) & (ends < high)]
    at = distinct(np.concatenate((np.array([low, high]), ends)))
    count = np.bincount(np.searchsorted(at, ends), minlength=len(at)) / 4
    paused = union(host.start[pauses], host.end[pauses]).measure(at[:-1], at[1:])
    return HostClock(at, (np.diff(at) - paused).astype(np.float64), count[:-1] + count[1:])


def on_clock(trace: Trace, step: StepCalls, clock: HostClock, cost_ns: float) -> Calls:
    """The step's calls where an event costs ``cost_ns`` less."""
    start, end = trace.host.start[step.row], trace.host.end[step.row]
    reach = np.maximum.accumulate(end)
    before = np.concatenate((start[:1], reach[:-1]))
    new_start, new_end, new_before = (clock.times(t, cost_ns) for t in (start, end, before))
    returned, closed = clock.times(np.array([reach[-1], clock.at[-1]]), cost_ns).tolist()
    return replace(
        step.calls,
        gap_ns=np.rint(np.maximum(new_start - new_before, 0)).astype(np.int64),
        duration_ns=np.rint(new_end - new_start).astype(np.int64),
        lead_ns=round(new_start[0] + closed - returned) if step.calls.lead_ns else 0,
        span_ns=None,
    )


def unslowed(
    trace: Trace, step: StepCalls, clock: HostClock, target_ns: int, floors: tuple[int, int], event_ns: float | None
) -> Unslowed | None:
    """The slowest host whose steps take at most ``target_ns``; ``floors`` are lambda and tau.

    None where steps take over NEAR longer than that on any host.
    """

    def window(calls: Calls, sigma: float) -> int:
        return replayed(calls, sigma, *floors).window_ns

    most = min(clock.most_ns, event_ns or clock.most_ns)
    cost = _least(lambda cost: window(on_clock(trace, step, clock, cost), 1.0), target_ns, most)
    if cost is not None:
        return Unslowed(on_clock(trace, step, clock, cost), cost, 1.0)
    calls = on_clock(trace, step, clock, most)
    faster = _least(lambda faster: window(calls, 1.0 - faster), target_ns, 1.0)
    if faster is not None:
        return Unslowed(calls, most, 1.0 - faster)
    near = window(calls, 0.0) <= (1 + NEAR) * target_ns
    return Unslowed(calls, most, 0.0) if near else None


def _least(falling: Callable[[float], int], target: int, most: float) -> float | None:
    """The least x in [0, ``most``] at which a falling function is at most ``target``; None where it never is.

    Regula falsi with the Illinois weights, to CLOSE of ``target``.
    """
    above, below = falling(0.0) - target, falling(most) - target
    if above <= 0 or below > 0:
        return 0.0 if above <= 0 else None
    low, high, weight_low, weight_high, side = 0.0, most, float(above), float(below), 0
    for _ in range(PASSES):
        x = low + (high - low) * weight_low / (weight_low - weight_high)
        if -below <= CLOSE * target or not low < x < high:
            break
        value = falling(x) - target
        if value > 0:
            low, weight_low, weight_high, side = x, float(value), weight_high / (1 + (side > 0)), 1
        else:
            high, below, weight_high = x, value, float(value)
            weight_low, side = weight_low / (1 + (side < 0)), -1
    return high
