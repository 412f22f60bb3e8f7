"""The truth of a simulated step, counted while the machine runs.

The ledger watches one clock. Between two changes of state (a host thread starts doing something else, a record
starts or ends on the device) it adds the time that passed to what was true then. It holds no intervals and
shares no code with the analysis. A gap is settled when the record that ends it starts, from what each host thread
was doing during its pieces.
"""

import heapq
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import NamedTuple

CLASS_ORDER = ("compute", "comm", "copy")
CLASS_RANK = {name: rank for rank, name in enumerate(CLASS_ORDER)}


@dataclass(frozen=True, slots=True)
class Work:
    """Who issued a record. ``module`` is a path, a name like ``<loss>``, or ``None``."""

    phase: str
    role: str
    module: str | None


class Record(NamedTuple):
    """A record on the device, with its launch call ``[called, returned)`` on host thread ``thread``."""

    cls: str
    stream: int
    correlation: int
    start: int
    end: int
    called: int
    returned: int
    thread: int
    work: Work

    def precedence(self) -> tuple[int, int, int, int]:
        return CLASS_RANK[self.cls], self.start, self.stream, self.correlation


@dataclass(slots=True)
class StepTruth:
    """One step. Counters are ns by (class or cause, phase, role), except ``records``."""

    name: str
    start: int
    end: int
    host_ns: int  # what the host needed to submit the step, without waiting for the device
    busy: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    idle: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    records: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # that start inside the window
    overlap: Counter[tuple[str, str]] = field(default_factory=Counter)  # (over, under)
    modules: Counter[str | None] = field(default_factory=Counter)  # busy ns
    launches: set[int] = field(default_factory=set)  # correlations of the records that start inside
    excess_ns: int = 0  # integral of (active records - 1) where any is active

    @property
    def wall_ns(self) -> int:
        return self.end - self.start

    @property
    def launch_bound(self) -> bool:
        """The host alone needs 95 % of the window: the device waits for it."""
        return self.host_ns * 100 >= self.wall_ns * 95

    def cause(self, cause: str) -> int:
        return sum(ns for (c, _, _), ns in self.idle.items() if c == cause)


class _Piece(NamedTuple):
    """A stretch of time in which nothing changed. ``begun``: records that started at its first instant."""

    start: int
    end: int
    active: tuple[Record, ...]
    begun: tuple[Record, ...]
    hosts: tuple[tuple[int, str | None], ...]


class Ledger:
    """Feed it changes in time order; read ``steps`` after ``finish``."""

    def __init__(self, main: int, turnaround_ns: int) -> None:
        self.steps: list[StepTruth] = []
        self._main, self._tau = main, turnaround_ns
        self._at = 0
        self._hosts: dict[int, str | None] = {}
        self._active: list[Record] = []
        self._begun: list[Record] = []
        self._coming: list[tuple[int, int, int, Record]] = []  # (time, 0 end | 1 start, tie, record)
        self._pieces: deque[_Piece] = deque()
        self._waiting: deque[StepTruth] = deque()  # windows whose end lies ahead
        self._open: tuple[str, int, int, int] | None = None  # name, start, host work so far, last end
        self._serial = 0
        self._edge: int | None = None

    def host(self, time: int, thread: int, cause: str | None) -> None:
        """From ``time`` on, ``thread`` spends its time on ``cause``; ``None``: outside every record."""
        self._pass(time)
        self._hosts[thread] = cause

    def device(self, record: Record) -> None:
        """``record`` will run; to be called when its launch call begins."""
        self._serial += 1
        heapq.heappush(self._coming, (record.start, 1, self._serial, record))
        heapq.heappush(self._coming, (record.end, 0, self._serial, record))
        if self._open:
            name, start, host_ns, last = self._open
            self._open = (name, start, host_ns, max(last, record.end))

    def step_begins(self, time: int, name: str, host_ns: int) -> None:
        self._pass(time)
        self._open = (name, time, host_ns, -1)

    def step_ends(self, time: int, host_ns: int) -> None:
        """The window ends with the last record launched inside, or here when there is none."""
        assert self._open is not None
        self._pass(time)
        name, start, before, last = self._open
        begin = start if self._edge is None else self._edge
        self._edge = max(begin, time if last < 0 else last)
        self._waiting.append(StepTruth(name, begin, self._edge, host_ns - before))
        self._open = None
        self._settle()

    def finish(self) -> None:
        """Lets the device run dry."""
        if self._coming:
            self._pass(max(time for time, _, _, _ in self._coming))
        self._settle()
        assert not self._waiting

    def _pass(self, time: int) -> None:
        while self._coming and self._coming[0][0] <= time:
            at, starts, _, record = heapq.heappop(self._coming)
            self._tick(at)
            if starts:
                self._active.append(record)
                self._begun.append(record)
            else:
                self._active.remove(record)
        self._tick(time)

    def _tick(self, time: int) -> None:
        assert time >= self._at, "changes must come in time order"
        if time > self._at:
            hosts = () if self._active else tuple(self._hosts.items())
            piece = _Piece(self._at, time, tuple(self._active), tuple(self._begun), hosts)
            self._pieces.append(piece)
            self._begun.clear()
            self._at = time

    def _settle(self) -> None:
        while self._waiting and self._at >= self._waiting[0].end:
            step = self._waiting.popleft()
            gap: list[_Piece] = []
            while self._pieces and self._pieces[0].end <= step.end:
                piece = self._pieces.popleft()
                if piece.start < step.start:
                    continue  # before the first step
                if not piece.active:
                    gap.append(piece)
                    continue
                if gap:
                    self._charge(step, gap, min(piece.begun, key=lambda r: r.correlation))
                    gap = []
                _busy(step, piece)
            if gap:
                step.idle["unknown", "other", "other"] += gap[-1].end - gap[0].start
            self.steps.append(step)

    def _charge(self, step: StepTruth, gap: list[_Piece], ender: Record) -> None:
        low, high, owner = gap[0].start, gap[-1].end, (ender.work.phase, ender.work.role)
        if ender.called <= low:
            first = min(self._tau, high - low)
            step.idle["turnaround", *owner] += first
            step.idle["queued", *owner] += high - low - first
            return
        for piece in gap:
            step.idle[self._cause(piece, ender), *owner] += piece.end - piece.start

    def _cause(self, piece: _Piece, ender: Record) -> str:
        if piece.start >= ender.returned:
            return "launch_latency"
        if piece.start >= ender.called:
            return "launch_api"
        hosts = dict(piece.hosts)
        return hosts.get(ender.thread) or hosts.get(self._main) or "python"


def _busy(step: StepTruth, piece: _Piece) -> None:
    ns, owner = piece.end - piece.start, piece.active[0]
    if len(piece.active) > 1:
        owner = min(piece.active, key=Record.precedence)
        step.excess_ns += ns * (len(piece.active) - 1)
        for under in {r.cls for r in piece.active} - {owner.cls}:
            step.overlap[owner.cls, under] += ns
    step.busy[owner.cls, owner.work.phase, owner.work.role] += ns
    step.modules[owner.work.module] += ns
    for record in piece.begun:
        step.records[record.cls, record.work.phase, record.work.role] += 1
        step.launches.add(record.correlation)
