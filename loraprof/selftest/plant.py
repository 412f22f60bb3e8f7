"""What is a plant? Known work that runs inside one profiled step, and where the report must say how much it was.

    planted   what the work itself knows: a count, or a time taken around it while it ran
    reported  what the analysis made of the trace of that step
    off       reported / planted - 1;  a time may be off by TOLERANCE, everything else by nothing

A plant that should leave nothing (0 ns) is measured against the step it lies in.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec
import torch

from loraprof.model.report import Report, Step

TOLERANCE: Final = 0.05
Unit = Literal["ns", "flops", "bytes", "count", "flops/s", "bytes/s"]
TIMED: Final = ("ns", "flops/s", "bytes/s")  # compared within TOLERANCE
Work = Callable[[], Sequence[float]]  # runs once, returns what each quantity truly was


@dataclass(frozen=True, slots=True)
class Quantity:
    """``read`` finds in a report of that step alone what was planted. ``at_least``: more than planted is no error.

    ``kinds`` are the device types on which it is compared.
    """

    what: str
    unit: Unit
    read: Callable[[Report], float | None]
    at_least: bool = False
    kinds: tuple[str, ...] = ("cpu", "cuda")


@dataclass(frozen=True, slots=True)
class Plant:
    """``make`` prepares outside the step (and may warm up) and returns the work, whose values are in the order of
    ``quantities``."""

    name: str
    kinds: tuple[str, ...]  # torch device types
    make: Callable[[torch.device], Work]
    quantities: tuple[Quantity, ...]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the result. ``off`` is null where a share cannot be formed."""

    plant: str
    what: str
    unit: Unit
    planted: float
    reported: float | None
    off: float | None
    ok: bool


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """A plant that did not run: it does not apply here, or ``failed``."""

    plant: str
    reason: str
    failed: bool


def judge(plant: str, quantity: Quantity, planted: float, reported: float | None, whole_ns: float = 0) -> Row:
    """``whole_ns``: the length of the step."""
    ok, off = False, None
    if reported is not None:
        base = planted or (whole_ns if quantity.unit == "ns" else 0.0)
        off = (reported - planted) / base if base else (0.0 if reported == planted else None)
        allowed = TOLERANCE if quantity.unit in TIMED else 0.0
        ok = off is not None and (-allowed <= off and (off <= allowed or quantity.at_least))
    return Row(
        plant=plant, what=quantity.what, unit=quantity.unit, planted=planted, reported=reported, off=off, ok=ok
    )


def step_of(report: Report) -> Step:
    """The one step of a plant's report. Raises ValueError where there is none."""
    step = report.step()
    if step is None:
        raise ValueError("the trace holds no step")
    return step
