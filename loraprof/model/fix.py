"""What ``loraprof fix`` found: every remedy measured beside its prediction, schema ``loraprof.fix/1``."""

from typing import Literal

import msgspec

from loraprof.model.finding import Gain, RemedyKind

SCHEMA = "loraprof.fix/1"

Status = Literal["kept", "no gain", "loss differs", "refused", "failed"]
LossVerdict = Literal["same", "close", "differs"]


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Step time with the remedy over that of the unchanged program, in turn; below 1 is faster."""

    ratio: float
    low: float
    high: float
    verdict: Literal["faster", "slower", "undecided"]


class LossChange(msgspec.Struct, frozen=True, kw_only=True):
    """Against the unchanged program over the same steps: relative, the largest of any step.

    "same": within what two unchanged runs differ by, or within rounding. None where no loss was seen.
    """

    largest_relative_difference: float | None
    verdict: LossVerdict


class Reached(msgspec.Struct, frozen=True, kw_only=True):
    """A training until a loss or for a time: steps and ns since the remedy took effect, mean ``loss`` of its last
    steps. ``reason``: why the goal was not reached, None where it was."""

    steps: int = 0
    ns: int = 0
    loss: float | None = None
    reason: str | None = None


class Unchanged(msgspec.Struct, frozen=True, kw_only=True):
    """The program as it is. ``loss`` of every step of its first run, None where it is no finite number; empty where no
    backward of a scalar was seen."""

    median_ns: int
    low_ns: int
    high_ns: int
    peak_bytes: int | None
    loss: list[float | None] = []
    reached: Reached | None = None


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """One remedy. ``finding``: the cause that it answers, where the recording showed one, with what it ``predicted``;
    ``unpredicted``: why nothing is.

    ``covered``: the predicted interval of the speed-up holds what was measured; None where either is unknown,
    or where the measured interval reaches into the predicted one and its middle does not. ``untried``: it fits, and the
    time was spent before its turn.
    """

    finding: str | None
    arm: str
    kind: RemedyKind
    text: str
    predicted: Gain | None = None
    unpredicted: str | None = None
    measured: Measured | None = None
    covered: bool | None = None
    peak_bytes: int | None = None
    loss: LossChange | None = None
    reached: Reached | None = None
    status: Status
    reason: str | None = None
    untried: bool = False


class Together(msgspec.Struct, frozen=True, kw_only=True):
    """Those that helped, added one by one as long as each made the step faster."""

    arms: list[str]
    measured: Measured
    loss: LossChange | None = None
    peak_bytes: int | None = None


class Fix(msgspec.Struct, frozen=True, kw_only=True):
    """``noise_floor``: what two unchanged runs differ by, as a relative difference of step times. ``needed_ns``:
    the time in which all that fit would have their turn; None where they had."""

    schema: str = SCHEMA
    target: str
    device_name: str
    base: Unchanged
    noise_floor: float | None
    remedies: list[Tried]
    together: Together | None = None
    goal: str | None = None  # of trainings at equal time or until an equal loss
    rounds: int = 0
    needed_ns: int | None = None
    notes: list[str] = []
    missed: str | None = None  # what --require asked for and is not there
