"""Which collectives did gloo run? On a CPU a collective is two records that only order and size join.

The op ``c10d::…`` on the thread that asks knows what is asked for (gloo carries a reduce-scatter out as an all-reduce)
and how large the whole is; the range ``gloo:…`` on a worker thread is when it ran. Each op takes the first range of
one of its inputs' sizes that starts after it. A range no op asked for goes by its own name.
"""

import re
from typing import Any, Final

import numpy as np
from msgspec import Struct

from loraprof.analysis.ranks.messages import KINDS, kind_of, width_of
from loraprof.model.trace import Group, Int64, Trace
from loraprof.model.vocabulary import HostKind

RANGE: Final = re.compile(r"^(gloo|mpi|ucc):")
SHARED: Final = ("all_gather", "reduce_scatter", "gather", "scatter")  # the message is larger than one rank's tensor
_ASKED: Final = "c10d::"


class Ran(Struct, frozen=True):
    """One range on a worker thread; ``nbytes`` is None where shapes were not recorded."""

    row: int  # -> Trace.host
    kind: int  # -> messages.KINDS
    nbytes: int | None


def ran(trace: Trace, group: Group | None) -> list[Ran]:
    """Every collective of a CPU trace, by start. ``group`` is the one they all belong to, if that is known."""
    ranges = _rows(trace, RANGE, HostKind.ANNOTATION)
    waiting: dict[int, list[int]] = {}
    for row in ranges.tolist():
        waiting.setdefault(_elements(trace, row)[0], []).append(row)
    asked: dict[int, tuple[int, int | None]] = {}
    for op in _rows(trace, re.compile(f"^{_ASKED}"), HostKind.OP).tolist():
        sizes = _elements(trace, op)
        row = _first(trace, op, [waiting[n] for n in sizes if n in waiting])
        if row is not None:
            kind, nbytes = kind_of(trace.names[int(trace.host.name[op])]), _bytes(trace, (row, op), max(sizes))
            asked[row] = kind, nbytes if min(sizes) else _whole(kind, nbytes, group)
    return [Ran(row, *asked.get(row, _unasked(trace, row, group))) for row in ranges.tolist()]


def _rows(trace: Trace, pattern: re.Pattern[str], kind: HostKind) -> Int64:
    host = trace.host
    named = np.array([bool(pattern.search(n)) for n in trace.names], dtype=np.bool_)
    rows = np.flatnonzero((host.kind == kind) & named[host.name])
    return rows[np.argsort(host.start[rows], kind="stable")]


def _first(trace: Trace, op: int, queues: list[list[int]]) -> int | None:
    """Takes the earliest range that starts no earlier than the op."""
    start = trace.host.start
    best: tuple[int, list[int]] | None = None
    for queue in queues:
        row = next((r for r in queue if start[r] >= start[op]), None)
        if row is not None and (best is None or start[row] < start[best[0]]):
            best = row, queue
    if best is None:
        return None
    best[1].remove(best[0])
    return best[0]


def _unasked(trace: Trace, row: int, group: Group | None) -> tuple[int, int | None]:
    kind = kind_of(trace.names[int(trace.host.name[row])])
    nbytes = _bytes(trace, (row,), _elements(trace, row)[0])
    return kind, _whole(kind, nbytes, group) if KINDS[kind] == "all_gather" else nbytes


def _whole(kind: int, share: int | None, group: Group | None) -> int | None:
    """All ranks' shares, where only one rank's is known: a list of tensor lists has no sizes in a trace."""
    if share is None or KINDS[kind] not in SHARED:
        return share
    return share * group.size if group is not None and group.size is not None else None


def _elements(trace: Trace, row: int) -> tuple[int, int]:
    """Elements of the first two inputs, tensor lists in all; 0 where there is none."""
    shapes = trace.shapes_of(row)
    counts = [_count(dims) for dims in shapes.dims[:2]] if shapes else []
    first, second = (*counts, 0, 0)[:2]
    return first, second


def _count(dims: Any) -> int:
    if not dims:
        return 0
    if isinstance(dims[0], tuple):
        return sum(_count(inner) for inner in dims)
    return int(np.prod(dims))


def _bytes(trace: Trace, rows: tuple[int, ...], elements: int) -> int | None:
    """By the first element type that one of the rows knows; a tensor list has none."""
    types = [kind for row in rows if (shapes := trace.shapes_of(row)) for kind in shapes.types[:2]]
    width = next((w for w in map(width_of, types) if w is not None), None)
    return elements * width if elements and width is not None else None
