"""Which numbers of a report are curves? Times in ms per step, ratios as they are; unknown figures are left out."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from loraprof.model.report import Report, Step

_NUMBER = re.compile(r"#(\d+)$")
_NS_PER_MS = 1e6


class Scalar(NamedTuple):
    """One point: ``value`` at ``step`` of the curve ``tag``."""

    tag: str
    step: int
    value: float


def scalars(report: Report) -> list[Scalar]:
    """Steps of the main device and of others, the unprofiled timing, the verdict, and what each finding would gain."""
    out = list(_steps(report.steps, ""))
    for device, steps in (report.devices or {}).items():
        out += _steps(steps, f"{device} ")
    reported = report.step()
    at = numbers(report.steps)[report.steps.index(reported)] if reported else 0
    return out + [Scalar(tag, at, value) for tag, value in _figures(report) if value is not None]


def numbers(steps: list[Step]) -> list[int]:
    """The number in each step's name, or its position where not all names end in one."""
    found = [_NUMBER.search(step.name) for step in steps]
    return [int(f[1]) for f in found if f] if all(found) else list(range(len(steps)))


def _steps(steps: list[Step], prefix: str) -> Iterator[Scalar]:
    """A role or cause that one step has is 0, not unknown, in the steps without it."""
    tables = [_partition(step) for step in steps]
    tags = sorted({tag for table in tables for tag in table})
    for number, step, table in zip(numbers(steps), steps, tables, strict=True):
        yield Scalar(f"{prefix}step/wall_ms", number, step.wall_ns / _NS_PER_MS)
        for kind in ("busy", "idle"):
            yield Scalar(f"{prefix}step/{kind}_ms", number, step.ns(kind=kind) / _NS_PER_MS)
        for tag in tags:
            yield Scalar(f"{prefix}{tag}", number, table.get(tag, 0) / _NS_PER_MS)


def _partition(step: Step) -> dict[str, int]:
    out: dict[str, int] = {}
    for part in step.partition:
        tag = f"busy_by_role_ms/{part.role}" if part.kind == "busy" else f"idle_by_cause_ms/{part.cause}"
        out[tag] = out.get(tag, 0) + part.ns
    return out


def _figures(report: Report) -> Iterator[tuple[str, float | None]]:
    unprofiled, verdict = report.timing.unprofiled, report.verdict
    if unprofiled is not None:
        for name in ("median", "low", "high"):
            yield f"unprofiled/{name}_ms", getattr(unprofiled, f"{name}_ns") / _NS_PER_MS
    yield "unprofiled/inflation", report.timing.inflation
    for name in ("speedup_vs_full", "speedup_low", "speedup_high", "ideal_speedup"):
        yield f"verdict/{name}", getattr(verdict, name)
    for finding in report.findings:
        if finding.gain is not None:
            yield f"gain_ms/{finding.id}", finding.gain.ns / _NS_PER_MS
            yield f"gain_speedup/{finding.id}", finding.gain.speedup
