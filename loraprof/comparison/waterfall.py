"""From one arm's step time to another's, exactly: which bars lead there, each split into count and duration?

bars = differences of the two profiled partitions, grouped by what a user calls them;
profiler = idle caused by the profiler, less what profiling added: -((P1 - U1) - (P0 - U0));
residual = what is left, (T1 - T0) - (U1 - U0). P: profiled step, U: the same process without profiler, T: mean
of the timed steps. So the bars add up to T1 - T0 as integers, whatever was measured.

Count and duration by two-factor Shapley over n events of mean duration t = ns / n, in rationals:
count = (n1 - n0)(t0 + t1) / 2, the rest is duration; an absent side takes the other's t, so all of it is count.
Rounded half to even once per bar, hence swapping the arms negates every number.
"""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Final, TypeVar

from msgspec import Struct

from loraprof.model.compare import Bar, Waterfall
from loraprof.model.report import Part, Step
from loraprof.model.vocabulary import Cause, Class, Kind, Phase, Role

TRIM: Final = Fraction(1, 10)
RESIDUAL_LIMIT: Final = Fraction(1, 10)  # of the difference
PROFILER: Final = "profiler"
RESIDUAL: Final = "residual"
WEIGHTS: Final = ("base.linear", "head", "embedding")  # whose backward holds the weight gradients

Value = TypeVar("Value")
Cell = tuple[Kind, Class | None, Cause | None, Phase, Role]  # kind, class, cause, phase, role
Amount = tuple[int, int]  # events, ns


class Side(Struct, frozen=True):
    """One arm: its profiled step, the mean of its timed steps, and ``unprofiled_ns``, the step time of the profiled
    process without profiler (``None``: unknown, then the profiler's share stays in the residual)."""

    name: str
    step: Step
    mean_ns: int
    unprofiled_ns: int | None


def key_of(part: Part) -> str:
    """The bar a row of a partition belongs to."""
    if part.kind == "idle":
        if part.cause == "profiler":
            return PROFILER
        return "adapter.launches" if part.role.startswith("adapter.") else f"idle.{part.cause}"
    if part.class_ == "comm":
        return "comm"
    if part.phase == "recompute":
        return "recompute"
    if part.role in ("optimizer", "grad_clip", "adapter.elementwise"):
        return part.role
    if part.role.startswith("adapter."):
        return "adapter.gemm"
    if part.phase == "backward" and part.role in WEIGHTS:
        return "wgrad"
    return f"shared.{part.role}"


def shapley(before: Amount, after: Amount) -> tuple[Fraction, Fraction]:
    """Count and duration effect of (events, ns) -> (events, ns), in ns. Time without events counts as one event."""
    (n0, ns0), (n1, ns1) = ((max(n, 1) if ns else n, ns) for n, ns in (before, after))
    if not n0 or not n1:
        return Fraction(ns1 - ns0), Fraction(0)
    count = (n1 - n0) * (Fraction(ns0, n0) + Fraction(ns1, n1)) / 2
    return count, ns1 - ns0 - count


def waterfall(before: Side, after: Side) -> Waterfall:
    """The bars from ``before`` to ``after``; ``sum(bar.ns) == after.mean_ns - before.mean_ns``."""
    first, last = _cells(before.step.partition), _cells(after.step.partition)
    groups: dict[str, list[Cell]] = {}
    for cell, key in {**first[1], **last[1]}.items():
        groups.setdefault(key, []).append(cell)
    bars = {key: _bar(key, sorted(cells, key=str), first[0], last[0]) for key, cells in sorted(groups.items())}
    added_ns = _added_ns(after, before)
    if added_ns is not None or PROFILER in bars:
        seen_ns = bars[PROFILER].ns if PROFILER in bars else 0
        bars[PROFILER] = _plain(PROFILER, seen_ns - (added_ns or 0))
    difference_ns = after.mean_ns - before.mean_ns
    residual_ns = difference_ns - sum(bar.ns for bar in bars.values())
    ordered = sorted((b for k, b in bars.items() if k != PROFILER), key=lambda b: (-abs(b.ns), b.key))
    tail = [bars[PROFILER]] if PROFILER in bars else []
    return Waterfall(
        from_=before.name,
        to=after.name,
        from_ns=before.mean_ns,
        to_ns=after.mean_ns,
        bars=[*ordered, *tail, _plain(RESIDUAL, residual_ns)],
        residual_flagged=abs(residual_ns) > RESIDUAL_LIMIT * abs(difference_ns),
    )


def _added_ns(after: Side, before: Side) -> int | None:
    """What profiling added to the difference of the two profiled steps."""
    if after.unprofiled_ns is None or before.unprofiled_ns is None:
        return None
    return (after.step.wall_ns - after.unprofiled_ns) - (before.step.wall_ns - before.unprofiled_ns)


def _cells(parts: Iterable[Part]) -> tuple[dict[Cell, Amount], dict[Cell, str]]:
    amounts: dict[Cell, Amount] = {}
    keys: dict[Cell, str] = {}
    for p in parts:
        cell = (p.kind, p.class_, p.cause, p.phase, p.role)
        events, ns = amounts.get(cell, (0, 0))
        amounts[cell] = (events + p.events, ns + p.ns)
        keys[cell] = key_of(p)
    return amounts, keys


def _bar(key: str, cells: Sequence[Cell], first: Mapping[Cell, Amount], last: Mapping[Cell, Amount]) -> Bar:
    absent = (0, 0)
    count = sum((shapley(first.get(c, absent), last.get(c, absent))[0] for c in cells), Fraction(0))
    ns = sum(last.get(c, absent)[1] - first.get(c, absent)[1] for c in cells)
    return Bar(
        key=key,
        phase=_only(cell[3] for cell in cells),
        role=_only(cell[4] for cell in cells),
        cause=_only(cell[2] for cell in cells),
        ns=ns,
        count_ns=round(count),
        duration_ns=ns - round(count),
    )


def _only(values: Iterable[Value | None]) -> Value | None:
    """The value they share, else ``None``."""
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else None


def _plain(key: str, ns: int) -> Bar:
    return Bar(key=key, phase=None, role=None, cause=None, ns=ns, count_ns=0, duration_ns=ns)


def joint_means(first: Sequence[int], second: Sequence[int], paired: bool) -> tuple[int, int]:
    """Means of two arms' step times in ns, over the same steps where they are paired.

    Dropped is the tenth farthest from the medians: of pairs by the farther of their two members, otherwise of
    each arm by itself. Raises ValueError without samples.
    """
    if not first or not second:
        raise ValueError("no samples")
    away = [_distances(first), _distances(second)]
    if paired and len(first) == len(second):
        joint = [max(pair) for pair in zip(*away, strict=True)]
        away = [joint, joint]
    return _kept_mean(first, away[0]), _kept_mean(second, away[1])


def _distances(samples: Sequence[int]) -> list[Fraction]:
    ordered = sorted(samples)
    middle = Fraction(ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2], 2)
    return [abs(s - middle) / middle for s in samples]


def _kept_mean(samples: Sequence[int], away: Sequence[Fraction]) -> int:
    nearest = sorted(range(len(samples)), key=lambda i: (away[i], i))[: len(samples) - int(len(samples) * TRIM)]
    return round(Fraction(sum(samples[i] for i in nearest), len(nearest)))
