"""What does a change of the training give at equal time, or take to an equal loss?

The unchanged program and each remedy that trains something else run once more, from the start, until the time is over
or the mean loss of the last few steps is low enough. Time and steps count from where the remedy took effect.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from loraprof.live_remedies.remedy import LiveRemedy
from loraprof.model.fix import Reached
from loraprof.runs.fix.schedule import BASE, Bench

GRACE: Final = 3.0  # times the seconds asked for that a run may take, its start aside


@dataclass(frozen=True, slots=True)
class Goal:
    """``seconds`` of training, or a loss; one of them."""

    seconds: float | None = None
    until_loss: float | None = None

    @property
    def words(self) -> str:
        return f"after {self.seconds:g} s of training" if self.seconds else f"until a loss of {self.until_loss:g}"


def reach(bench: Bench, remedies: Sequence[LiveRemedy], goal: Goal) -> dict[str, Reached]:
    """By remedy's name, the unchanged program's too. What failed before is left out."""
    live = [r.name for r in remedies if r.kind == "other_training" and r.name not in bench.ended]
    names = [BASE, *live] if live else []
    out = {}
    for at, name in enumerate(names):
        each_s = bench.left_ns() / 1e9 / (len(names) - at)
        limit_s = min(each_s, goal.seconds * GRACE + bench.setup_s) if goal.seconds else each_s
        bench.say(f"{goal.words}, {at + 1} of {len(names)}: {name} · {limit_s:.0f} s at most")
        found = bench.train(name, goal.seconds, goal.until_loss, limit_s)
        out[name] = found.reached or Reached(reason=found.reason or "it was stopped before")
    return out
