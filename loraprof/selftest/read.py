"""Where in a report does each planted quantity stand? Readers for ``Quantity.read``."""

from collections.abc import Callable

from loraprof.model.report import Report
from loraprof.selftest.plant import step_of

Read = Callable[[Report], float | None]


def idle(*causes: str) -> Read:
    """Idle time of these causes, ns."""
    return lambda report: sum(step_of(report).ns(kind="idle", cause=cause) for cause in causes)


def busy(report: Report) -> float:
    """Busy time of the step, ns."""
    return step_of(report).ns(kind="busy")


def of_op(field: str, op: str) -> Read:
    """Sum of a field of the kernel table over the kernels of an op; None where one of them is unknown."""

    def read(report: Report) -> float | None:
        values = [getattr(k, field) for k in report.kernels if op in (k.op, k.name)]
        return None if None in values else sum(values)

    return read


def overlap(over: str, under: str) -> Read:
    """Time of the class ``under`` that ran under ``over``, ns."""
    return lambda report: sum(o.ns for o in step_of(report).overlap if (o.over, o.under) == (over, under))


def kernels(report: Report) -> float:
    """Records on the device."""
    return sum(k.count for k in report.kernels)


def launches(report: Report) -> float | None:
    found = step_of(report).launches
    return found.count if found else None


def launch_floor(report: Report) -> float | None:
    """Least time from a launch call to its kernel on an empty queue, ns."""
    found = step_of(report).launches
    return found.latency_floor_ns if found else None


def unmatched(report: Report) -> float:
    """Records without their partner."""
    return report.closure.launches_without_kernel + report.closure.kernels_without_launch


def found(*ids: str) -> Read:
    """Findings with one of these ids."""
    return lambda report: sum(f.id in ids for f in report.findings)


def roof(field: str) -> Read:
    """A ceiling of the device."""
    return lambda report: getattr(report.ceilings, field) if report.ceilings else None
