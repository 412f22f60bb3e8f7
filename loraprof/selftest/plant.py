"""What is a plant? Known work that runs inside one profiled step, and where the report must say how much it was.

    planted   what the work itself knows: a count, or a time taken around it while it ran
    reported  what the analysis made of the trace of that step
    off       reported / planted - 1;  a time may be off by TOLERANCE, everything else by nothing

A plant that should leave nothing (0 ns) is measured against the step it lies in.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

import torch
from torch import nn

from loraprof.capture.device.kinds import KINDS
from loraprof.model.report import Report, Step
from loraprof.model.selftest import Relation, Row, Unit
from loraprof.model.trace import Trace

TOLERANCE: Final = 0.05
TIMED: Final = ("ns", "flops/s", "bytes/s")  # compared within TOLERANCE

Run = Callable[[], Sequence[float]]  # works once, returns what each quantity truly was


class NotHere(Exception):
    """Raised by ``Plant.make``: this plant does not apply to the device; the message says why."""


@dataclass(frozen=True, slots=True)
class Work:
    """A prepared plant. ``module`` holds the modules whose calls leave markers while it runs."""

    run: Run
    module: nn.Module | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What the analysis has of one step alone."""

    report: Report
    trace: Trace

    @property
    def step(self) -> Step:
        """Raises ValueError where the trace holds no step."""
        step = self.report.step()
        if step is None:
            raise ValueError("the trace holds no step")
        return step


@dataclass(frozen=True, slots=True)
class Quantity:
    """``read`` finds what was planted. ``relation`` other than "equal": what was planted is a bound.

    ``kinds`` are the device types on which it is compared.
    """

    what: str
    unit: Unit
    read: Callable[[Seen], float | None]
    relation: Relation = "equal"
    kinds: tuple[str, ...] = tuple(KINDS)


@dataclass(frozen=True, slots=True)
class Plant:
    """``make`` prepares outside the step (and may warm up); what its work returns is in the order of ``quantities``."""

    name: str
    kinds: tuple[str, ...]  # torch device types
    make: Callable[[torch.device], Work]
    quantities: tuple[Quantity, ...]


def judge(plant: str, quantity: Quantity, planted: float, reported: float | None, whole_ns: float) -> Row:
    """``whole_ns``: the length of the step."""
    off = None
    if reported is not None:
        base = planted or (whole_ns if quantity.unit == "ns" else 0.0)
        off = (reported - planted) / base if base else (0.0 if reported == planted else None)
    return Row(
        plant=plant,
        what=quantity.what,
        unit=quantity.unit,
        relation=quantity.relation,
        planted=planted,
        reported=reported,
        off=off,
        ok=miss(quantity, reported, off) <= (TOLERANCE if quantity.unit in TIMED else 0.0),
    )


def miss(quantity: Quantity, reported: float | None, off: float | None) -> float:
    """How far a report is from what it had to be, as a share; infinite where it says nothing."""
    if off is None or reported is None:
        return inf
    match quantity.relation:
        case "equal":
            return abs(off)
        case "at least":
            return max(-off, 0.0)
        case "at most":
            return max(off, 0.0) if reported > 0 else inf
