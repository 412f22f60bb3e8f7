"""What was seen of every step, and what shifted where the step time did; pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from loraprof.analysis.statistics import shifts, warmup_end
from loraprof.model.recording import NvmlSample
from loraprof.model.watch import Moved, Shift

CLOCK = 0.02  # share by which a clock has to change to be named
LENGTH = 0.02  # and the size of a batch
MEMORY = 0.05  # and reserved memory
LOADER = 0.10  # share of the step's change that waiting for a batch has to explain
NEAR = 0.05  # share of a level's steps around its beginning in which a graph has to be compiled


@dataclass(slots=True)
class Series:
    """One entry per step, in order; ``ends`` on the host's clock. ``memory``: (step, reserved bytes, retries)."""

    ns: Sequence[int] = ()
    ends: Sequence[int] = ()
    loader_ns: Sequence[int] = ()
    elements: Sequence[int] = ()  # of the batches; 0 unknown
    graphs: Sequence[int] = ()  # compiled so far
    disturbed: Sequence[int] = ()  # 1: recorded, or next to a step that was
    memory: Sequence[tuple[int, int, int]] = field(default_factory=tuple)
    clocks: Sequence[NvmlSample] = field(default_factory=tuple)


def steady(series: Series) -> tuple[list[int], int]:
    """Steps that count, warm-up and disturbed ones left out; how many were warm-up."""
    free = [i for i in range(len(series.ns)) if not series.disturbed[i]]
    first = warmup_end([series.ns[i] for i in free], minimum=min(3, len(free)))
    return free[first:], first


def shifts_of(series: Series, steps: Sequence[int]) -> list[Shift]:
    """Where the time of ``steps`` shifts, with what shifted too."""
    at = shifts([series.ns[i] for i in steps])
    edges = [0, *at, len(steps)]
    found = []
    for k, begin in enumerate(at):
        before, after = steps[edges[k] : begin], steps[begin : edges[k + 2]]
        old, new = (round(median(series.ns[i] for i in part)) for part in (before, after))
        step = steps[begin]
        at_ns = series.ends[step] - series.ends[0]
        moved = _moved(series, before, after, new - old)
        found.append(Shift(step=step, at_ns=at_ns, before_ns=old, after_ns=new, moved=moved))
    return found


def _moved(series: Series, before: Sequence[int], after: Sequence[int], change_ns: int) -> list[Moved]:
    def of(column: Sequence[int]) -> tuple[float, float]:
        return median(column[i] for i in before), median(column[i] for i in after)

    found = []
    old, new = of(series.loader_ns)
    if (new - old) / change_ns >= LOADER:
        found.append(Moved(what="waiting for a batch, per step", before=old, after=new, unit="ns"))
    old, new = of(series.elements)
    if old and abs(new / old - 1) >= LENGTH:
        found.append(Moved(what="elements of the batches, per step", before=old, after=new, unit=""))
    found += _compiled(series, before, after)
    found += _memory(series, before, after)
    return found + _clocks(series, before, after)


def _compiled(series: Series, before: Sequence[int], after: Sequence[int]) -> list[Moved]:
    """Graphs compiled around the shift."""
    near = max(1, round(NEAR * len(after)))
    old, new = series.graphs[before[-1 - min(near, len(before) - 1)]], series.graphs[after[min(near, len(after) - 1)]]
    return [Moved(what="graphs compiled so far", before=old, after=new, unit="")] if new > old else []


def _memory(series: Series, before: Sequence[int], after: Sequence[int]) -> list[Moved]:
    parts = [[m for m in series.memory if part[0] <= m[0] <= part[-1]] for part in (before, after)]
    if not all(parts):
        return []
    found = []
    old, new = (median(m[1] for m in part) for part in parts)
    if old and abs(new / old - 1) >= MEMORY:
        found.append(Moved(what="reserved memory", before=old, after=new, unit="B"))
    old, new = parts[0][-1][2], parts[1][-1][2]
    if new > old:
        found.append(Moved(what="allocator retries so far", before=old, after=new, unit=""))
    return found


def _clocks(series: Series, before: Sequence[int], after: Sequence[int]) -> list[Moved]:
    def within(part: Sequence[int], value: Callable[[NvmlSample], int | None]) -> float | None:
        low, high = series.ends[part[0]], series.ends[part[-1]]
        seen = [v for s in series.clocks if low <= s.monotonic_ns <= high and (v := value(s)) is not None]
        return median(seen) if seen else None

    known: tuple[tuple[str, str, Callable[[NvmlSample], int | None]], ...] = (
        ("SM clock", "MHz", lambda s: s.sm_clock_mhz),
        ("memory clock", "MHz", lambda s: s.mem_clock_mhz),
        ("power", "W", lambda s: None if s.power_mw is None else s.power_mw // 1000),
        ("temperature", "degC", lambda s: s.temperature_c),
    )
    found = []
    for what, unit, value in known:
        old, new = within(before, value), within(after, value)
        if old and new and abs(new / old - 1) >= CLOCK:
            found.append(Moved(what=what, before=old, after=new, unit=unit))
    return found
