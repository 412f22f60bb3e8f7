"""Which numbers of a report are curves? Ten that one watches over runs; the page beside them has the others.

Times in ms per step, ratios as they are; unknown figures are left out.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from loraprof.model.report import Report, Step
from loraprof.model.vocabulary import ADAPTER_ROLES

_NUMBER = re.compile(r"#(\d+)$")
_NS_PER_MS = 1e6


class Scalar(NamedTuple):
    """One point: ``value`` at ``step`` of the curve ``tag``."""

    tag: str
    step: int
    value: float


def scalars(report: Report) -> list[Scalar]:
    """Every step of the main device, and at the reported one what is known of the step without the profiler."""
    reported = report.step()
    at = numbers(report.steps)[report.steps.index(reported)] if reported else 0
    return [*_steps(report.steps), *(Scalar(tag, at, value) for tag, value in _figures(report) if value is not None)]


def numbers(steps: list[Step]) -> list[int]:
    """The number in each step's name, or its position where not all names end in one."""
    found = [_NUMBER.search(step.name) for step in steps]
    return [int(f[1]) for f in found if f] if all(found) else list(range(len(steps)))


def _steps(steps: list[Step]) -> Iterator[Scalar]:
    for number, step in zip(numbers(steps), steps, strict=True):
        times = {"wall": step.wall_ns, "busy": step.ns(kind="busy"), "idle": step.ns(kind="idle")}
        times["adapter"] = sum(step.ns(kind="busy", role=role) for role in ADAPTER_ROLES)
        for name, ns in times.items():
            yield Scalar(f"step/{name}_ms", number, ns / _NS_PER_MS)


def _figures(report: Report) -> Iterator[tuple[str, float | None]]:
    unprofiled, verdict, adapter = report.timing.unprofiled, report.verdict, report.adapter
    added = adapter.added_ns if adapter else None
    yield "unprofiled/step_ms", unprofiled.median_ns / _NS_PER_MS if unprofiled else None
    yield "unprofiled/inflation", report.timing.inflation
    yield "unprofiled/adapter_adds_ms", added / _NS_PER_MS if added is not None else None
    yield "verdict/speedup_vs_full", verdict.speedup_vs_full
    yield "verdict/ideal_speedup", verdict.ideal_speedup
    yield "verdict/findings", float(len(report.findings))
