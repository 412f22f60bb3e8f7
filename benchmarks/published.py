"""How good is ``loraprof estimate`` against numbers that others published? Rows and sources: ``published.toml``.

    python benchmarks/published.py              # the rows the rates were tuned on, then the held-out ones, apart
    python benchmarks/published.py --tuned      # the former alone: what may be looked at while tuning

A row is a ratio of two times. "right": predicted and published lie on the same side of 1; a published ratio within
3 % of 1 says "no difference" and is met by a prediction within 10 % of 1. "covered": published lies in the interval.
"""

import argparse
import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from loraprof.estimate.config import architecture
from loraprof.estimate.step import Question, spread_of
from loraprof.model.estimate import Settings
from loraprof.store.efficiencies import load_rates, rates_of
from loraprof.store.gpus import gpu_files, load_gpu

FILE = Path(__file__).with_suffix(".toml")
GOALS = {"sign right": 0.90, "within 15 %": 0.70, "covered": 0.90}
NEAR, NO_DIFFERENCE, CLOSE = 0.15, 0.03, 0.10
PHASES = {"forward": ("forward",), "backward": ("backward", "recompute"), "both": ("forward", "backward", "recompute")}


class Published(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of the file."""

    name: str
    source: str
    model: str
    gpu: str
    published: float
    of: dict[str, Any]
    to: dict[str, Any]
    at: dict[str, Any] = {}
    quantity: Literal["step", "forward", "backward", "both"] = "step"
    per: Literal["token", "step"] = "token"
    second_hand: bool = False
    own: bool = False
    near: str = ""
    assumed: str = ""
    reason: str = ""

    @property
    def held_out(self) -> bool:
        return int(hashlib.sha256(self.name.encode()).hexdigest(), 16) % 3 == 0


class Excluded(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    why: str


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    models: dict[str, dict[str, Any]]
    row: tuple[Published, ...]
    excluded: tuple[Excluded, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """A row and what was predicted for it."""

    row: Published
    predicted: float
    low: float
    high: float

    @property
    def over(self) -> float:
        return self.predicted / self.row.published

    @property
    def right(self) -> bool:
        if abs(self.row.published - 1) <= NO_DIFFERENCE:
            return abs(self.predicted - 1) <= CLOSE
        return (self.predicted > 1) == (self.row.published > 1)

    @property
    def near(self) -> bool:
        return 1 / (1 + NEAR) <= self.over <= 1 + NEAR

    @property
    def covered(self) -> bool:
        return self.low <= self.row.published <= self.high


def load() -> File:
    return msgspec.convert(tomllib.loads(FILE.read_text(encoding="utf-8")), File)


def predict(row: Published, models: Mapping[str, dict[str, Any]]) -> Result:
    """The ratio of the two sides at the rates' values, and its interval."""
    sides = [_side(row, side, models) for side in (row.of, row.to)]

    def ratio(moved: Mapping[str, float]) -> dict[str, float]:
        of, to = (_time(question, arm, row, moved) for question, arm in sides)
        return {"ratio": of / to}

    span = spread_of(ratio, [rate for question, _ in sides for rate in question.used()])["ratio"]
    return Result(row, span.value, span.low, span.high)


def _side(row: Published, side: Mapping[str, Any], models: Mapping[str, dict[str, Any]]) -> tuple[Question, str]:
    chosen = {**row.at, **side}
    arm, gpu = chosen.pop("arm"), chosen.pop("gpu", row.gpu)
    settings = msgspec.convert(chosen, Settings)
    model = architecture(models[row.model], row.model, FILE.name)
    return Question(model, settings, load_gpu(gpu_files()[gpu]), rates_of(gpu, load_rates())), arm


def _time(question: Question, arm: str, row: Published, moved: Mapping[str, float]) -> float:
    tokens = question.settings.tokens * question.settings.accumulate if row.per == "token" else 1
    if row.quantity == "step":
        return question.seconds(arm, moved) / tokens
    rows = question.rows(arm, moved)
    return sum(one.ns for one in rows if one.phase in PHASES[row.quantity]) / tokens


def table(results: Sequence[Result]) -> list[str]:
    """GitHub's flavour of Markdown: reads as text too."""
    lines = ["| row | predicted | published | predicted / published | covered | sign right |",
             "|---|---:|---:|---:|---|---|"]  # fmt: skip
    for r in results:
        marks = " (second-hand)" if r.row.second_hand else ""
        interval = f"{r.predicted:.2f} [{r.low:.2f}, {r.high:.2f}]"
        words = ("yes" if r.covered else "NO", "yes" if r.right else "NO")
        cells = (f"{r.row.name}{marks}", interval, f"{r.row.published:.2f}", f"{r.over:.2f}", *words)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def score(results: Sequence[Result]) -> list[str]:
    """Each goal with what was reached."""
    reached = {
        "sign right": sum(r.right for r in results),
        "within 15 %": sum(r.near for r in results),
        "covered": sum(r.covered for r in results),
    }
    return [
        f"{name}: {met} of {len(results)}, {met / len(results):.0%} (goal {GOALS[name]:.0%}"
        f"{', met' if met >= GOALS[name] * len(results) else ', MISSED'})"
        for name, met in reached.items()
    ]


def misses(results: Sequence[Result]) -> list[str]:
    """Every row off by more than 15 % or outside its interval, with the likely reason."""
    return [
        f"- {r.row.name}: {r.over:.2f}; {r.row.reason or 'no reason known'}"
        for r in results
        if not (r.near and r.covered and r.right)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tuned", action="store_true", help="leave the held-out rows unseen")
    tuned_only = parser.parse_args().tuned
    file = load()
    public = [row for row in file.row if not row.own]
    groups = [
        ("Measured for this repository, where the H100's rates come from", [row for row in file.row if row.own]),
        ("Rows the rates were tuned on", [row for row in public if not row.held_out]),
    ]
    if not tuned_only:
        groups.append(("Held out", [row for row in public if row.held_out]))
    for title, rows in groups:
        results = [predict(row, file.models) for row in rows]
        print("\n".join(["", f"{title}: {len(rows)}", "", *table(results), "", *score(results), "", *misses(results)]))
    print(f"\nLeft out: {len(file.excluded)} sources, with the reason of each in {FILE.name}.")


if __name__ == "__main__":
    main()
