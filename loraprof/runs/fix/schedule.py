"""In which order is the program run, with and without each remedy? Rounds A B C A' | A' C B A | …, as in ``compare``.

A run that failed or was refused is not tried again; one that is clearly slower neither. Finished
runs are kept in a folder, so that an interrupted ``fix`` goes on where it was.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from loraprof import units
from loraprof.errors import MeasurementError
from loraprof.runs.fix.forks import Forks
from loraprof.runs.fix.job import Command, Found, Trial
from loraprof.runs.profile.remedy_arm import WATCHED
from loraprof.store.writing import write

WARM_UP: Final = 3
STEPS: Final = 10
LEAST_STEPS: Final = 4
WANTED: Final = 4  # rounds that the steps of a run leave time for
SLOWER: Final = 1.15  # than the unchanged program in two rounds: not tried again
FAR_SLOWER: Final = 2.0  # the same in one
HUNG: Final = 5  # times the unchanged step
SETUP_S: Final = 60.0  # that a remedy may take before its first step
BASE, TWIN = "unchanged", "unchanged again"

Entry = tuple[str, ...]  # the names of the remedies that are applied together


@dataclass(slots=True)
class Bench:
    """``rounds`` hold what each entry's run showed, by entry's name; ``()`` is the unchanged program."""

    forks: Forks
    command: Command
    deadline_ns: int
    folder: Path | None
    say: Callable[[str], None]
    warmup: int = WARM_UP
    steps: int = STEPS
    setup_s: float = SETUP_S
    base_s: float = 0.0  # of one unchanged run
    rounds: list[dict[str, Found]] = field(default_factory=list)
    ended: dict[str, Found] = field(default_factory=dict)  # failed or refused, with the reason
    opening: Found | None = None  # the unchanged program's first run, part of the first round
    took_ns: dict[str, int] = field(default_factory=dict)  # the last run of each, its start included

    def left_ns(self) -> int:
        return self.deadline_ns - time.perf_counter_ns()

    def first(self) -> Found:
        """The unchanged program once; takes fewer steps where it ends early. Raises MeasurementError."""
        found = self._run("first", ())
        spare = found.steps_seen - WATCHED - self.warmup
        if found.status == "failed" and not found.exit_code and spare >= LEAST_STEPS:
            self.steps = spare
            found = self._run("first", ())
        if found.status != "ok":
            needed = WATCHED + self.warmup + LEAST_STEPS
            raise MeasurementError(
                f"the unchanged program cannot be measured: {found.reason}", f"{needed} steps are needed"
            )
        self.base_s, self.opening = found.wall_ns / 1e9, found
        return found

    def round(self, entries: Sequence[Entry], stage: str, number: int) -> None:
        """One run of each that is left, between two of the unchanged program."""
        live = [e for e in entries if name_of(e) not in self.ended]
        order = [(BASE, ()), *((name_of(e), e) for e in live), (TWIN, ())]
        found: dict[str, Found] = {}
        for at, (name, entry) in enumerate(order if number % 2 == 0 else reversed(order)):
            left = max(0, self.left_ns())
            self.say(f"{stage}, round {number + 1}, {at + 1} of {len(order)}: {name} · {units.ns(left)} left at most")
            opening, self.opening = self.opening, None
            one = opening or self._run(f"{stage}-{number}-{name}".replace(" ", "-"), entry)
            if one.status == "ok":
                found[name] = one
            elif entry:
                self.ended[name] = one
            else:
                raise MeasurementError(f"the unchanged program failed in round {number + 1}: {one.reason}", None)
        self.rounds.append(found)

    def train(self, name: str, seconds: float | None, until_loss: float | None, limit_s: float) -> Found:
        """One run of a remedy, or of the unchanged program, until a goal."""
        entry = () if name == BASE else (name,)
        trial = Trial(remedies=list(entry), warmup=0, steps=0, seconds=seconds, until_loss=until_loss)
        return self._kept(f"until-{seconds}-{until_loss}-{name}", trial, limit_s)

    def round_ns(self, entries: Sequence[Entry]) -> int:
        """What a further round of these will take, as their last runs did."""
        return sum(self.took_ns.get(name_of(entry), 0) for entry in [*entries, (), ()])

    def slower(self, entry: Entry) -> bool:
        """In every round so far, by much, than both unchanged runs: in a single one by very much."""
        name = name_of(entry)
        both = [r for r in self.rounds if {name, BASE, TWIN} <= r.keys()]
        found = [median(r[name].times_ns) / max(median(r[key].times_ns) for key in (BASE, TWIN)) for r in both]
        return bool(found) and min(found) > (SLOWER if len(found) > 1 else FAR_SLOWER)

    def _run(self, key: str, entry: Entry) -> Found:
        began_ns = time.perf_counter_ns()
        trial = Trial(remedies=list(entry), warmup=self.warmup, steps=self.steps)
        found = self._kept(key, trial, self._limit_s())
        self.took_ns[name_of(entry)] = max(time.perf_counter_ns() - began_ns, found.wall_ns)
        return found

    def _kept(self, key: str, trial: Trial, limit_s: float) -> Found:
        """What an interrupted ``fix`` has found already, or a run."""
        place = self.folder / f"{key}.run" if self.folder else None
        if place is not None and place.exists():
            return msgspec.msgpack.decode(place.read_bytes(), type=Found)
        found = self.forks.run(self.command, trial, limit_s)
        if place is not None:
            write(place, msgspec.msgpack.encode(found))
        return found

    def survey(self) -> Found:
        """Which remedies fit?"""
        return self._kept("survey", Trial(warmup=2, steps=0, survey=True), max(60.0, self.left_ns() / 1e9))

    def _limit_s(self) -> float:
        """A start as long as the unchanged one's, and steps five times as long, within the time that is left."""
        left_s = self.left_ns() / 1e9
        if not self.base_s:
            return max(60.0, left_s)
        return min(HUNG * self.base_s + self.setup_s, max(left_s, 2 * self.base_s))


def steps_within(budget_ns: int, runs: int, survey: Found, warmup: int) -> int:
    """Timed steps of a run, so that ``WANTED`` rounds of so many runs fit into the budget: rounds count for more."""
    step_ns = median(survey.times_ns) if survey.times_ns else 0
    started_ns = survey.wall_ns - survey.steps_seen * step_ns
    each = (budget_ns / (WANTED * runs) - started_ns) / step_ns if step_ns else STEPS
    return max(LEAST_STEPS, min(STEPS, int(each) - warmup - WATCHED))


def name_of(entry: Entry) -> str:
    return "+".join(entry) or BASE
