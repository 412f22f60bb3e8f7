"""In which order is the program run, with and without each remedy? Rounds A B C A' | A' C B A | …, as in ``compare``.

A run that failed or was refused is not tried again; one that is clearly slower after its first round neither. Finished
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
from loraprof.runs.fix.job import WATCHED, Command, Found, Trial
from loraprof.store.writing import write

WARM_UP: Final = 5
STEPS: Final = 10
LEAST_STEPS: Final = 4
SLOWER: Final = 1.15  # than the unchanged program in its first round: not tried again
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
        self.base_s = found.wall_ns / 1e9
        return found

    def round(self, entries: Sequence[Entry], stage: str, number: int) -> None:
        """One run of each that is left, between two of the unchanged program."""
        live = [e for e in entries if name_of(e) not in self.ended]
        order = [(BASE, ()), *((name_of(e), e) for e in live), (TWIN, ())]
        found: dict[str, Found] = {}
        for at, (name, entry) in enumerate(order if number % 2 == 0 else reversed(order)):
            left = max(0, self.left_ns())
            self.say(f"{stage}, round {number + 1}, {at + 1} of {len(order)}: {name} · {units.ns(left)} left at most")
            one = self._run(f"{stage}-{number}-{name}".replace(" ", "-"), entry)
            if one.status == "ok":
                found[name] = one
            elif entry:
                self.ended[name] = one
            else:
                raise MeasurementError(f"the unchanged program failed in round {number + 1}: {one.reason}", None)
        self.rounds.append(found)

    def slower(self, entry: Entry) -> bool:
        """In every round so far, by much."""
        name = name_of(entry)
        pairs = [(r[name].times_ns, r[BASE].times_ns) for r in self.rounds if name in r]
        return bool(pairs) and all(median(own) > SLOWER * median(base) for own, base in pairs)

    def _run(self, key: str, entry: Entry) -> Found:
        kept = self.folder / f"{key}.json" if self.folder else None
        if kept is not None and kept.exists():
            return msgspec.json.decode(kept.read_bytes(), type=Found)
        trial = Trial(remedies=list(entry), warmup=self.warmup, steps=self.steps)
        found = self.forks.run(self.command, trial, self._limit_s())
        if kept is not None:
            write(kept, msgspec.json.encode(found))
        return found

    def _limit_s(self) -> float:
        """A start as long as the unchanged one's, and steps five times as long; unknown before the first run."""
        return HUNG * self.base_s + self.setup_s if self.base_s else max(60.0, self.left_ns() / 1e9)


def name_of(entry: Entry) -> str:
    return "+".join(entry) or BASE


def slowest_setup(entries: Sequence[Entry], left_ns: int) -> float:
    """Seconds that a run may take before its first changed step: compilers are given a quarter of what is left."""
    compiles = any("compile" in name for entry in entries for name in entry)
    return max(SETUP_S, left_ns / 4e9) if compiles else SETUP_S
