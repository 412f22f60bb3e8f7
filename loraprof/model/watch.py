"""A training that was watched: when its step time shifted, by how much, and what else shifted then; schema
``loraprof.watch/1``."""

import msgspec

SCHEMA = "loraprof.watch/1"


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """A quantity that shifted with the step time: its median before and after."""

    what: str
    before: float
    after: float
    unit: str


class Shift(msgspec.Struct, frozen=True, kw_only=True):
    """``step``: the first one at the new level, counted from 0; ``at_ns``: its time since the first step.

    ``moved`` is empty where nothing that was watched shifted too.
    """

    step: int
    at_ns: int
    before_ns: int
    after_ns: int
    moved: list[Moved] = []


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """``median_ns`` and its interval are of all steps but warm-up and those that were recorded."""

    schema: str = SCHEMA
    script: str
    device_name: str
    steps: int
    warmup: int  # steps before the first level
    median_ns: int | None
    low_ns: int | None
    high_ns: int | None
    shifts: list[Shift]
    cost_ns: float  # of watching, per step
    before: str | None = None  # recordings
    after: str | None = None
    notes: list[str] = []
