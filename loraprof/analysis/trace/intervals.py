"""Exact arithmetic on half-open intervals of integer nanoseconds, vectorised.

A ``Cover`` is a union of intervals kept as disjoint sorted pieces; ``measure`` integrates it over any set of
intervals with two binary searches each, so no function here is worse than n log n.
"""

from heapq import heappop, heappush
from typing import Final

import numpy as np
from msgspec import Struct

from loraprof.model.trace import NONE, Bool, Int64, distinct, taken

MANY_LEVELS: Final = 200  # a pass per level costs less than one per row below


class Cover(Struct, frozen=True, eq=False):
    """Disjoint, sorted, non-empty pieces ``[start, end)`` and their running total."""

    start: Int64
    end: Int64
    total: Int64  # total[i] = length of pieces 0 .. i-1; one longer than start

    def below(self, t: Int64) -> Int64:
        """Length of the cover left of each instant ``t``."""
        if not len(self.start):
            return np.zeros(len(t), dtype=np.int64)
        i = np.searchsorted(self.start, t, side="right") - 1
        below: Int64 = self.total[i] + np.minimum(t, self.end[i]) - self.start[i]
        below[i < 0] = 0
        return below

    def measure(self, start: Int64, end: Int64) -> Int64:
        """Length of the cover inside each ``[start, end)``; 0 where ``end <= start``."""
        inside: Int64 = np.maximum(self.below(end) - self.below(start), 0)
        return inside

    @property
    def length(self) -> int:
        return int(self.total[-1])


def cover_of_disjoint(start: Int64, end: Int64) -> Cover:
    """Cover from pieces that are already disjoint and sorted; empty ones are dropped."""
    keep = end > start
    start, end = start[keep], end[keep]
    return Cover(start, end, np.concatenate(([0], np.cumsum(end - start))).astype(np.int64))


def union(start: Int64, end: Int64) -> Cover:
    """Union of any intervals; abutting pieces are merged."""
    order = np.argsort(start, kind="stable")
    s, e = start[order], end[order]
    if not len(s):
        return cover_of_disjoint(s, e)
    reach = np.maximum.accumulate(e)
    fresh = np.concatenate(([True], s[1:] > reach[:-1]))
    last = np.concatenate((np.flatnonzero(fresh)[1:] - 1, [len(s) - 1]))
    return cover_of_disjoint(s[fresh], reach[last])


def owned(start: Int64, end: Int64) -> tuple[Int64, Int64]:
    """What each interval owns where the one that started first wins; input sorted by start.

    Record i owns ``[max(start_i, latest end before i), end_i)``: disjoint and sorted pieces, some empty.
    """
    if not len(start):
        return start, end
    reach = np.concatenate(([np.iinfo(np.int64).min], np.maximum.accumulate(end)[:-1]))
    begin = np.maximum(start, reach)
    return begin, np.maximum(begin, end)


def gaps(cover: Cover, low: int, high: int) -> tuple[Int64, Int64]:
    """The parts of ``[low, high)`` the cover leaves free, sorted."""
    inside = (cover.end > low) & (cover.start < high)
    s = np.concatenate(([low], np.minimum(cover.end[inside], high)))
    e = np.concatenate((np.maximum(cover.start[inside], low), [high]))
    keep = e > s
    return s[keep], e[keep]


def meet(start: Int64, end: Int64, others_start: Int64, others_end: Int64) -> tuple[Int64, Int64, Int64, Int64]:
    """What two lists of disjoint sorted pieces share: ``(start, end, row of the first, row of the second)``."""
    first = np.searchsorted(others_end, start, side="right")
    count = np.maximum(np.searchsorted(others_start, end, side="left") - first, 0)
    row = np.repeat(np.arange(len(start)), count)
    other = np.arange(len(row)) + np.repeat(first - (np.cumsum(count) - count), count)
    low, high = np.maximum(start[row], others_start[other]), np.minimum(end[row], others_end[other])
    keep = high > low
    return low[keep], high[keep], row[keep], other[keep]


def nesting(start: Int64, end: Int64) -> tuple[Int64, Int64, bool]:
    """Parent and depth of each interval by time; input sorted by (start, -end).

    Returns ``(parent, depth, nested)``; parent -1 is a root. Where intervals cross (``nested`` False) the
    parent is the last interval one level up that is still open, which tolerates the crossing.
    """
    n = len(start)
    if not n:
        empty = np.zeros(0, dtype=np.int64)
        return empty, empty, True
    closed = np.searchsorted(np.sort(end, kind="stable"), start, side="right")
    depth = np.arange(n, dtype=np.int64) - closed
    zero = end <= start
    if zero.any():  # an empty interval is counted as closed at its own start
        same = np.searchsorted(np.sort(end[zero], kind="stable"), start, side="right")
        before: Int64 = np.cumsum(zero) - zero
        depth += same - before
    deepest = int(depth.max())
    parent = _parents_by_level(depth, ~zero, deepest) if deepest < MANY_LEVELS else _crossing(start, end)[0]
    inside = (parent == NONE) | (end <= end[parent])
    rooted = (depth > 0) == (parent != NONE)
    nested = bool(inside.all() and rooted.all())
    if nested:
        return parent, depth, True
    parent, depth = _crossing(start, end)
    return parent, depth, False


def _parents_by_level(depth: Int64, solid: Bool, deepest: int) -> Int64:
    """Of each interval the last one before it that is one level up."""
    parent = np.full(len(depth), NONE, dtype=np.int64)
    level = np.argsort(depth.astype(np.int16), kind="stable")  # below MANY_LEVELS: sorted by digits
    bounds = np.searchsorted(depth[level], np.arange(deepest + 2))
    for d in range(1, deepest + 1):
        above = level[bounds[d - 1] : bounds[d]]
        above = above[solid[above]]
        here = level[bounds[d] : bounds[d + 1]]
        at = np.searchsorted(above, here) - 1
        parent[here] = taken(above, at)
    return parent


def _crossing(start: Int64, end: Int64) -> tuple[Int64, Int64]:
    """Nesting with partial overlaps: the parent is the latest-started interval still open."""
    parent = np.full(len(start), NONE, dtype=np.int64)
    depth = np.zeros(len(start), dtype=np.int64)
    stack: list[int] = []
    starts, ends = start.tolist(), end.tolist()
    for i, s in enumerate(starts):
        while stack and ends[stack[-1]] <= s:  # what has closed further down is met when it comes up
            stack.pop()
        if stack:
            parent[i] = stack[-1]
            depth[i] = depth[stack[-1]] + 1  # not len(stack): what lies between may have closed
        stack.append(i)
    return parent, depth


def outlasting(start: Int64, end: Int64, ranged: Bool) -> Bool:
    """Which ``ranged`` intervals begin inside one that is not and end after it; input sorted by (start, -end)."""
    out = np.zeros(len(start), dtype=np.bool_)
    open_ends: list[int] = []  # a heap
    for i, (s, e, is_range) in enumerate(zip(start.tolist(), end.tolist(), ranged.tolist(), strict=True)):
        while open_ends and open_ends[0] <= s:
            heappop(open_ends)
        if not is_range:
            heappush(open_ends, e)
        elif open_ends and open_ends[0] < e:
            out[i] = True
    return out


def innermost(start: Int64, end: Int64) -> tuple[Int64, Int64, Int64]:
    """Cut the union into slices owned by the latest-started interval that covers them.

    Input sorted by (start, -end). Returns ``(from, to, owner)``: disjoint, sorted, non-empty slices whose total
    equals the union's length, whether or not the intervals nest.
    """
    rows = np.flatnonzero(end > start)
    s, e = start[rows], end[rows]
    parent, _, nested = nesting(s, e)
    if not nested:
        return _innermost_crossing(s, e, rows)
    n = len(s)
    index = np.arange(n)
    at = np.concatenate((e, s))
    is_start = np.concatenate((np.zeros(n, np.int8), np.ones(n, np.int8)))
    rank = np.concatenate((-index, index))  # ends: inner first; starts: outer first
    order = np.lexsort((rank, is_start, at))
    after = np.concatenate((parent, index))[order]
    at = at[order]
    begin, stop, owner = at[:-1], at[1:], after[:-1]
    keep = (stop > begin) & (owner != NONE)
    return begin[keep], stop[keep], rows[owner[keep]]


def _innermost_crossing(s: Int64, e: Int64, rows: Int64) -> tuple[Int64, Int64, Int64]:
    cuts = distinct(np.concatenate((s, e)))
    first, last = np.searchsorted(cuts, s).tolist(), np.searchsorted(cuts, e).tolist()
    owner = np.full(len(cuts) - 1, NONE, dtype=np.int64)
    opened: list[int] = []  # later rows started later, or are the shorter of two that start together
    coming = 0
    for k in range(len(owner)):
        while coming < len(first) and first[coming] <= k:
            opened.append(coming)
            coming += 1
        while opened and last[opened[-1]] <= k:
            opened.pop()
        owner[k] = opened[-1] if opened else NONE
    begin, stop = cuts[:-1], cuts[1:]
    keep = owner != NONE
    return begin[keep], stop[keep], rows[owner[keep]]
