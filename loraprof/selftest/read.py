"""Where in a report does each planted quantity stand? Readers for ``Quantity.read``."""

from collections.abc import Callable

import numpy as np

from loraprof.analysis.trace.launch_links import link
from loraprof.diagnosis.rule import Rule
from loraprof.model.vocabulary import Cause, HostKind, Role
from loraprof.selftest.plant import Seen

Read = Callable[[Seen], float | None]


def idle(*causes: Cause) -> Read:
    """Idle time of these causes, ns."""
    return lambda seen: sum(seen.step.ns(kind="idle", cause=cause) for cause in causes)


def of_op(field: str, op: str) -> Read:
    """Sum of a field of the kernel table over the kernels of an op: of several kernels of a call, one has its work.
    None where none is known."""

    def read(seen: Seen) -> float | None:
        values = [getattr(k, field) for k in seen.report.kernels if op in (k.op, k.name)]
        known = [value for value in values if value is not None]
        return sum(known) if known else None

    return read


def flops_of(*roles: Role) -> Read:
    """FLOPs of the kernels with these roles, as far as they are known."""
    return lambda seen: sum(k.flops or 0 for k in seen.report.kernels if k.role in roles)


def overlap(over: str, under: str) -> Read:
    """Time of the class ``under`` that ran under ``over``, ns."""
    return lambda seen: sum(o.ns for o in seen.step.overlap if (o.over, o.under) == (over, under))


def kernels(seen: Seen) -> float:
    """Records on the device."""
    return sum(k.count for k in seen.report.kernels)


def launches(seen: Seen) -> float | None:
    """Launch calls."""
    found = seen.step.launches
    return found.count if found else None


def launch_floor(seen: Seen) -> float | None:
    """Least time from a launch call to its kernel on an empty queue, ns."""
    found = seen.step.launches
    return found.latency_floor_ns if found else None


def longest_launch(seen: Seen) -> float | None:
    """The longest launch call, ns."""
    host = seen.trace.host
    calls = link(seen.trace).is_launch & (host.kind == HostKind.RUNTIME)
    return int(np.max((host.end - host.start)[calls])) if calls.any() else None


def unmatched(seen: Seen) -> float:
    """Launch calls and device records without their partner."""
    return seen.report.closure.launches_without_kernel + seen.report.closure.kernels_without_launch


def adapted(seen: Seen) -> float | None:
    """Adapted layers."""
    return seen.report.adapter.modules if seen.report.adapter else None


def module_busy(root: str) -> Read:
    """Busy time of a module and all in it, ns."""
    return lambda seen: sum(
        row.busy_ns for row in seen.report.modules if row.path == root or row.path.startswith(f"{root}.")
    )


def found(rule: Rule) -> Read:
    """How often a rule found its cause."""
    return lambda seen: sum(f.id == rule.id for f in seen.report.findings)


def evidence(rule: Rule, what: str) -> Read:
    """A figure that a finding gives as evidence; None without the finding."""

    def read(seen: Seen) -> float | None:
        values = [e.value for f in seen.report.findings if f.id == rule.id for e in f.evidence if e.what == what]
        return values[0] if values and isinstance(values[0], int | float) else None

    return read


def roof(field: str) -> Read:
    """A ceiling of the device."""
    return lambda seen: getattr(seen.report.ceilings, field) if seen.report.ceilings else None
