"""A grid of workloads and what LoRA gains in each, schema ``loraprof.sweep/1``."""

from typing import Literal

import msgspec

SCHEMA = "loraprof.sweep/1"


class SweepCell(msgspec.Struct, frozen=True, kw_only=True):
    """One workload of the grid. ``speedup`` = full / lora of step time with its interval, measured in turn.

    ``predicted`` is what the cell's LoRA recording alone says. A status other than "ok" carries its ``reason``.
    """

    values: dict[str, str]  # axis -> value
    status: Literal["ok", "oom", "refused", "failed"] = "ok"
    reason: str | None = None
    speedup: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: Literal["faster", "slower", "undecided"] | None = None  # of lora
    full_ns: int | None = None
    lora_ns: int | None = None
    predicted: float | None = None
    predicted_low: float | None = None
    predicted_high: float | None = None
    device_name: str = ""
    notes: list[str] = []


class Crossover(msgspec.Struct, frozen=True, kw_only=True):
    """Where along ``axis`` LoRA starts, or stops, to gain; ``None`` where it does not change within the grid."""

    axis: str
    at: dict[str, str]  # the other axes
    measured: float | None
    predicted: float | None


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    schema: str = SCHEMA
    workload: str
    device_name: str
    axes: dict[str, list[str]]
    cells: list[SweepCell]
    crossovers: list[Crossover]
