"""Which host record encloses which: the call tree of every thread, rebuilt from time alone.

Rows are those of the host table that take part (ops, markers, annotations, runtime calls, module frames);
``nearest`` answers "the innermost enclosing row with property P" for all rows at once, one level at a time.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from loraprof.analysis.trace.intervals import MANY_LEVELS, nesting, outlasting
from loraprof.model.trace import NONE, Bool, HostTable, Int32, Int64, Ints, Trace, distinct, taken
from loraprof.model.vocabulary import HostKind

MODULE_FRAME = "nn.Module: "  # with_stack frames of module calls, in traces loraprof did not record


class Tree(Struct, frozen=True, eq=False):
    """Parent (-1 root or not in the tree) and depth (-1 not in the tree) per host row."""

    parent: Int32
    depth: Int32
    levels: tuple[Int32, ...]  # rows by depth
    crossing: int  # threads whose records do not nest

    def nearest(self, flag: Bool) -> Int32:
        """Per row: itself or the innermost enclosing row where ``flag`` holds; -1 none."""
        flag = flag & (self.depth >= 0)
        found = np.where(flag, np.arange(len(flag), dtype=np.int32), np.int32(NONE))
        if not flag.any():
            return found
        if len(self.levels) > MANY_LEVELS:
            return self._leaping(found)
        for rows in self.levels[int(self.depth[flag].min()) + 1 :]:
            up = rows[found[rows] == NONE]
            found[up] = found[self.parent[up]]
        return found

    def _leaping(self, found: Int32) -> Int32:
        """The same for deep trees: with each pass every row looks twice as far up."""
        above = np.append(np.where(found != NONE, found, self.parent), np.int32(NONE))  # -1, the last one, is its own
        while not np.array_equal(further := above[above], above):
            above = further
        return above[:-1]

    def around(self, rows: Int64) -> Iterator[Int64]:
        """``rows``, then what encloses each, level by level; a root stays where it is."""
        while True:
            yield rows
            above = self.parent[rows]
            if not (above != NONE).any():
                return
            rows = np.where(above != NONE, above, rows)

    def overlapping(self, host: HostTable, thread: int, low: int, high: int) -> Int64:
        """Rows of a thread that share time with ``[low, high)``, in the table's order; no look at any other row.

        What was open at ``low`` encloses the last row of the tree before it, whether or not the ranges nest.
        """
        begin, end = np.searchsorted(host.thread, (thread, thread + 1)).tolist()
        first, last = (begin + np.searchsorted(host.start[begin:end], (low, high))).tolist()
        row, opened = first - 1, []
        while row >= begin and self.depth[row] < 0:
            row -= 1
        while row >= begin:
            opened.append(row)
            row = int(self.parent[row])
        rows = np.concatenate((np.array(opened[::-1], np.int64), np.arange(first, last)))
        found: Int64 = rows[host.end[rows] > low]
        return found

    def during(self, host: HostTable, low: int, high: int) -> "Tree":
        """Of the rows alone that share time with ``[low, high]``: others are nearest to none but themselves."""
        threads = distinct(host.thread).tolist()
        rows = np.concatenate([np.zeros(0, np.int64), *(self.overlapping(host, t, low - 1, high + 1) for t in threads)])
        return replace(self, levels=_levels(rows[self.depth[rows] != NONE], self.depth))


def _levels(rows: Ints, depth: Int32) -> tuple[Int32, ...]:
    """``rows``, of the tree, by depth."""
    level = depth[rows]
    deepest = int(level.max(initial=-1))
    narrow = level.astype(np.int16) if deepest < 1 << 15 else level  # sorted by digits
    order = np.argsort(narrow, kind="stable")
    bounds = np.searchsorted(level[order], np.arange(deepest + 2))
    by_depth = rows[order].astype(np.int32)
    return tuple(by_depth[bounds[d] : bounds[d + 1]] for d in range(deepest + 1))


def tree_of(trace: Trace) -> Tree:
    host = trace.host
    frame = np.array([n.startswith(MODULE_FRAME) for n in trace.names], dtype=np.bool_)
    step = np.array([n.startswith("ProfilerStep") for n in trace.names], dtype=np.bool_)
    taking = (host.kind != HostKind.OVERHEAD) & ((host.kind != HostKind.PYTHON) | frame[host.name])
    taking &= ~((host.kind == HostKind.ANNOTATION) & step[host.name])  # Optimizer.step ranges may cross step edges
    parent = np.full(len(host), NONE, dtype=np.int32)
    depth = np.full(len(host), NONE, dtype=np.int32)
    crossing = 0
    threads = np.searchsorted(host.thread, np.arange(len(trace.threads) + 1)).tolist()
    for begin, end in pairwise(threads):
        rows = begin + np.flatnonzero(taking[begin:end])
        if not len(rows):
            continue
        above, level, nested = nesting(host.start[rows], host.end[rows])
        crossing += not nested
        if not nested:  # a range that an op began and did not end says nothing of what comes after
            ranged = (host.kind[rows] == HostKind.ANNOTATION) | (host.kind[rows] == HostKind.PYTHON)
            rows = rows[~outlasting(host.start[rows], host.end[rows], ranged)]
            above, level, _ = nesting(host.start[rows], host.end[rows])
        parent[rows] = taken(rows, above)
        depth[rows] = level
    return Tree(parent, depth, _levels(np.flatnonzero(depth != NONE), depth), crossing)
