"""What `profile` was asked for and what came of it, for a workload and a script alike."""

from dataclasses import dataclass, field
from typing import NamedTuple

from loraprof.capture.passes.plan import Plan
from loraprof.capture.passes.spent import Spent
from loraprof.capture.ranks.launch import Launch
from loraprof.capture.ranks.publish import Patience
from loraprof.capture.ranks.write import Writer
from loraprof.report.output import say
from loraprof.store.places import Place


@dataclass(frozen=True, slots=True)
class Order:
    """``arm`` is null where none was named: a script runs as it is, a workload as LoRA."""

    plan: Plan
    place: Place
    arm: str | None
    force: bool
    quiet: bool
    patience: Patience = field(default_factory=Patience)  # with the other ranks
    spent: Spent = field(default_factory=Spent)

    def say(self, text: str) -> None:
        say(text, self.quiet)

    def writer(self) -> Writer:
        return Writer(self.place, self.force, self.say, self.patience, self.spent)


class Ended(NamedTuple):
    """What came of the target. ``saved``: this rank gave the recording its name. ``leaves``: it is still to."""

    code: int
    saved: bool
    leaves: Launch | None = None
