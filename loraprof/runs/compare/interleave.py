"""How long does a step of each arm take, fairly? Blocks of arms in the order A B C A' | A' C B A, in one process.

Every visit of an arm gives the same number of steps; step j of a visit is paired with step j of the others in the
same half of the block, so drift cancels to first order. A' is the first arm once more, as an arm of its own: the
noise floor. Garbage collection is off meanwhile. Blocks with throttling or a clock difference above 2 % between the
arms are redone, and counted. It ends when every interval is within the half-width, or with the time budget.
"""

import gc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from loraprof.analysis.statistics import HALF_WIDTH, MIN_WARMUP, converged, warmup_end
from loraprof.capture.device.memory import is_out_of_memory
from loraprof.capture.device.protocol import Device, DeviceState
from loraprof.collector import uncollected
from loraprof.comparison.ratios import Failure, Series, Timed, estimate
from loraprof.errors import MeasurementError

Step = Callable[[], Any]
TWIN: Final = "\0twin"  # no arm can be called so
VISIT_NS: Final = 50_000_000  # a visit lasts about this long
VISIT_STEPS: Final = 8  # at most
MIN_BLOCKS: Final = 5
MAX_BLOCKS: Final = 500
CLOCK_TOLERANCE: Final = 0.02
WARM_SHARE: Final = 4  # a quarter of the budget may go into warm-up
LEAST_WARMUP: Final = 2  # steps, when the budget allows no more


class Timer(Protocol):
    """``visit`` runs ``count`` steps and returns the time of each in ns and the last step's result."""

    name: str

    def visit(self, step: Step, count: int) -> tuple[list[int], Any]: ...


class StepTimer:
    """The device's marks between the steps of a visit; it is waited for at both ends."""

    def __init__(self, device: Device) -> None:
        self.device, self.name = device, device.clock

    def visit(self, step: Step, count: int) -> tuple[list[int], Any]:
        result = None
        with self.device.current():
            self.device.synchronise()
            marks = [self.device.mark()]
            for _ in range(count):
                result = step()
                marks.append(self.device.mark())
            return [max(1, ns) for ns in self.device.between_ns(marks)], result


class _OutOfMemory(Exception):
    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name)
        self.name, self.reason = name, reason


@dataclass
class _Run:
    """The state of one measurement; ``blocks`` hold one list of times per entry."""

    arms: dict[str, Step]
    timer: Timer
    budget_ns: int
    clock: Callable[[], int]
    state: Callable[[], DeviceState | None]
    peak: Callable[[], int | None]

    def __post_init__(self) -> None:
        self.failed: dict[str, Failure] = {}
        self.dropped: dict[str, int] = {}
        self.warm_up_ns: dict[str, int] = {}
        self.cut: dict[str, int] = {}  # steps of a warm-up that the budget ended
        self.diverged: set[str] = set()
        self.rejected = 0
        self.started = self.clock()
        self.times: dict[str, list[tuple[int, ...]]] = {}
        self.clocks: dict[str, list[float]] = {}

    def spent_ns(self) -> int:
        return self.clock() - self.started

    def visit(self, entry: str, count: int) -> list[int]:
        name = self.reference if entry == TWIN else entry
        try:
            times, result = self.timer.visit(self.arms[name], count)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise _OutOfMemory(name, str(error).splitlines()[0] if str(error) else "out of memory") from None
        self.check_loss(name, result)
        return times

    def check_loss(self, name: str, result: Any) -> None:
        try:
            loss = float(result)
        except (TypeError, ValueError):
            return
        if not math.isfinite(loss):
            self.diverged.add(name)

    @property
    def reference(self) -> str:
        return next(iter(self.arms))

    def drop(self, failure: _OutOfMemory) -> None:
        self.failed[failure.name] = Failure(failure.reason, self.peak())
        del self.arms[failure.name]
        self.times, self.clocks = {}, {}  # the order of a block changes: start over with the others


def interleave(
    arms: Mapping[str, Step],
    timer: Timer,
    budget_ns: int,
    *,
    clock: Callable[[], int] = time.perf_counter_ns,
    state: Callable[[], DeviceState | None] = lambda: None,
    peak: Callable[[], int | None] = lambda: None,
) -> Timed:
    """Times every arm. ``clock`` is what the budget is counted on, ``state`` is read after every visit, ``peak`` when
    an arm runs out of memory. Raises MeasurementError when no arm can be timed."""
    run = _Run(dict(arms), timer, budget_ns, clock, state, peak)
    gc.collect()
    with uncollected():
        medians = _warm_up(run)
        if not run.arms:
            reasons = "; ".join(f"{name}: {f.reason}" for name, f in run.failed.items())
            raise MeasurementError(f"no arm could be timed: {reasons}", "try a smaller --batch or --seq")
        count = max(1, min(VISIT_STEPS, VISIT_NS // max(medians)))
        stopped = _blocks(run, count)
    series = {
        entry: Series(tuple(blocks), tuple(run.clocks[entry]) if len(run.clocks.get(entry, ())) == len(blocks) else ())
        for entry, blocks in run.times.items()
    }
    twin = series.pop(TWIN, None)
    return Timed(
        reference=run.reference,
        series=series,
        twin=twin,
        clock=timer.name,
        stopped=stopped,
        dropped=run.dropped,
        warm_up_ns=run.warm_up_ns,
        failed=run.failed,
        rejected=run.rejected,
        notes=_notes(run),
        diverged=frozenset(run.diverged),
    )


def _notes(run: _Run) -> tuple[str, ...]:
    if not run.cut:
        return ()
    steps = ", ".join(f"{name} {count}" for name, count in run.cut.items())
    return (f"the budget cut the warm-up short, steps may still get faster: {steps} steps",)


def _warm_up(run: _Run) -> list[int]:
    """Runs each arm until the change-point test passes; returns the last step time of each arm that lives."""
    last = []
    share_ns = run.budget_ns // WARM_SHARE // len(run.arms)
    for name in list(run.arms):
        times: list[int] = []
        try:
            while not _warm(times):
                if sum(times) > share_ns and len(times) >= LEAST_WARMUP:
                    run.cut[name] = len(times)
                    break
                times += run.visit(name, 1)
        except _OutOfMemory as failure:
            run.drop(failure)
            continue
        run.dropped[name], run.warm_up_ns[name] = len(times), sum(times)
        last.append(max(1, times[-1]))
    return last


def _warm(times: list[int]) -> bool:
    """MIN_WARMUP steps in which something may change, and as many since the last change."""
    return len(times) >= 2 * MIN_WARMUP and len(times) - warmup_end(times, minimum=0) >= MIN_WARMUP


def _blocks(run: _Run, count: int) -> str:
    """Fills ``run.times``; returns why it stopped."""
    while True:
        accepted = len(run.times.get(run.reference, ()))
        spent = run.spent_ns() >= run.budget_ns
        if accepted >= MIN_BLOCKS and _all_converged(run):
            return f"every interval is within {HALF_WIDTH:.0%}"
        # Two blocks are the least that can be resampled; throttling must not run for ever either.
        if spent and (accepted >= 2 or run.rejected):
            return "the time budget is spent"
        if accepted + run.rejected >= MAX_BLOCKS:
            return "the largest number of blocks is reached"
        try:
            _block(run, count)
        except _OutOfMemory as failure:
            run.drop(failure)
            if not run.arms:
                raise MeasurementError(f"no arm could be timed: {failure.reason}", "try a smaller --batch") from None


def _block(run: _Run, count: int) -> None:
    entries = [*run.arms, TWIN]
    times: dict[str, list[int]] = {entry: [] for entry in entries}
    states: dict[str, list[DeviceState]] = {entry: [] for entry in entries}
    for entry in [*entries, *reversed(entries)]:
        times[entry] += run.visit(entry, count)
        if (seen := run.state()) is not None:
            states[entry].append(seen)
    clocks = {entry: _mean_clock(seen) for entry, seen in states.items()}
    known = [mhz for mhz in clocks.values() if mhz is not None]
    uneven = bool(known) and max(known) > (1 + CLOCK_TOLERANCE) * min(known)
    if uneven or any(s.throttled for seen in states.values() for s in seen):
        run.rejected += 1
        return
    for entry in entries:
        run.times.setdefault(entry, []).append(tuple(max(1, ns) for ns in times[entry]))
        mhz = clocks[entry]
        if mhz is not None:
            run.clocks.setdefault(entry, []).append(mhz)


def _mean_clock(states: list[DeviceState]) -> float | None:
    known = [s.sm_clock_mhz for s in states if s.sm_clock_mhz is not None]
    return sum(known) / len(known) if known else None


def _all_converged(run: _Run) -> bool:
    base = Series(tuple(run.times[run.reference]))
    rivals = (Series(tuple(blocks)) for name, blocks in run.times.items() if name != run.reference)
    return all(converged(estimate(rival, base)) for rival in rivals)
