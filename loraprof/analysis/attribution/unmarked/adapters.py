"""Which products are an adapter's? By shapes alone: [T, k] x [k, r], [T, r] x [r, n] beside a [T, k] x [k, n].

r is at most a quarter of k and of n, and the two paths are added: by an op of that size after both, or by the product
itself (addmm). Nothing that ends a layer (a norm, an activation, an attention core) lies between the three: then the
narrow pair would read something else than the base does.
"""

import numpy as np
from msgspec import Struct

from loraprof.analysis.attribution.unmarked.calls import Calls, Sort
from loraprof.model.trace import NONE, Bool, Int64

QUARTER = 4
NEAR = 12  # products between the three: as many adapters share a base
ENDS = [Sort.NORM, Sort.ACTIVATION, Sort.CORE, Sort.SOFTMAX, Sort.EMBEDDING, Sort.LOSS, Sort.FREE]


class Pairs(Struct, frozen=True, eq=False):
    """Adapters found: positions in the calls, all of one length. A base may have several."""

    down: Int64
    up: Int64
    base: Int64
    last: Int64  # of all that belongs to the layer, the sum included

    def __len__(self) -> int:
        return len(self.down)

    @property
    def first(self) -> Int64:
        """Of the three products."""
        return np.minimum(np.minimum(self.down, self.up), self.base)


def pairs_of(calls: Calls, ends: Bool) -> Pairs:
    """``ends`` marks calls besides products that end a layer."""
    at = np.flatnonzero((calls.sort == Sort.PRODUCT) & (calls.inner > 0))
    barriers = np.concatenate(([0], np.cumsum(ends | np.isin(calls.sort, ENDS))))
    down, up = _chains(calls.take(at), at, barriers)
    sums = np.concatenate(([0], np.cumsum(calls.sort == Sort.ADD)))
    base = np.full(len(down), NONE, np.int64)
    for held in (np.ones(len(down), np.bool_), base):  # once more without the chains that have no base
        free = np.ones(len(at), np.bool_)
        free[down[held != NONE]], free[up[held != NONE]] = False, False
        found = _bases(calls, at, (barriers + sums, barriers), (down, up), free)
        base[base == NONE] = found[base == NONE]
    known = base != NONE
    down, up, base = down[known], up[known], base[known]
    last = _sums(calls, at, barriers, up, base, free)
    added = last != NONE
    return Pairs(at[down[added]], at[up[added]], at[base[added]], last[added])


def _open(barriers: Int64, first: Int64, second: Int64) -> Bool:
    """Whether nothing ends a layer between two positions."""
    low, high = np.minimum(first, second), np.maximum(first, second)
    free: Bool = barriers[low] == barriers[high]
    return free


def _chains(p: Calls, at: Int64, barriers: Int64) -> tuple[Int64, Int64]:
    """Narrow products and those that widen what they made; each is one end of one chain."""
    narrow = p.outer * QUARTER <= p.inner
    taken = np.zeros(len(p), np.bool_)
    downs, ups = [], []
    for distance in range(1, NEAR + 1):
        a = np.flatnonzero(narrow[:-distance] & ~taken[:-distance])
        b = a + distance
        fits = (p.run[a] == p.run[b]) & (p.inner[b] == p.outer[a]) & (p.outer[b] >= QUARTER * p.inner[b]) & ~taken[b]
        fits &= p.rows[b] <= p.rows[a]  # fewer behind a convolution with strides
        a, b = a[fits], b[fits]
        ok = _open(barriers, at[a], at[b])
        a, b = a[ok], b[ok]
        taken[a], taken[b] = True, True
        downs.append(a)
        ups.append(b)
    none = np.zeros(0, np.int64)
    return np.concatenate([none, *downs]), np.concatenate([none, *ups])


def _bases(calls: Calls, at: Int64, between: tuple[Int64, Int64], chain: tuple[Int64, Int64], free: Bool) -> Int64:
    """Per chain the nearest product that goes its way in one, -1 none.

    First one before it without a sum between, then one after it; a base with several pairs has their sums between.
    """
    p, (down, up) = calls.take(at), chain
    base = np.full(len(down), NONE, np.int64)
    for barriers, sign, end in ((between[0], -1, down), (between[0], 1, up), (between[1], -1, down)):
        for distance in range(1, NEAR + 1):
            b = end + sign * distance
            inside = (b >= 0) & (b < len(p))
            b = np.where(inside, b, 0)
            fits = inside & (base == NONE) & (p.run[b] == p.run[down]) & free[b] if len(p) else inside
            fits &= (p.rows[b] == p.rows[down]) & (p.inner[b] == p.inner[down]) & (p.outer[b] == p.outer[up])
            if barriers is between[1]:  # what was added to it meanwhile is a pair's
                fits &= np.isin(b, base) | (_adding(calls, p.rows[b] * p.outer[b], at[b]) > at[end])
            base = np.where(fits & _open(barriers, at[b], at[end]), b, base)
    return base


def _sums(calls: Calls, at: Int64, barriers: Int64, up: Int64, base: Int64, free: Bool) -> Int64:
    """Position of the call that adds the two paths, before the next product of another layer; -1 none."""
    if not len(up):
        return np.zeros(0, np.int64)
    later = np.maximum(up, base)
    upcoming = np.where(free, np.arange(len(at)), len(at))
    following = np.append(np.minimum.accumulate(upcoming[::-1])[::-1], [len(at)])[later + 1]
    limit = np.append(at, len(calls))[following]
    size = calls.rows[at[up]] * calls.outer[at[up]]
    itself = calls.adds[at[up]] | (calls.adds[at[base]] & (base > up))
    hit = _adding(calls, size, at[later])
    fits = (hit < limit) & _open(barriers, at[later], hit)
    return np.where(fits, hit, np.where(itself, at[later], NONE))


def _adding(calls: Calls, size: Int64, after: Int64) -> Int64:
    """The next sum of that size after a call; the length: none."""
    add = np.flatnonzero(calls.sort == Sort.ADD)
    order = add[np.lexsort((add, calls.numel[add]))]
    far = len(calls) + 1
    sizes = calls.numel[order]  # by their place among each other: with positions they would overflow
    places, wanted = np.searchsorted(sizes, sizes), np.searchsorted(sizes, size)
    found = np.searchsorted(places * far + order, wanted * far + after, side="right")
    hit = np.append(order, 0)[np.minimum(found, len(order))]
    return np.where((found < len(order)) & (calls.numel[hit] == size), hit, len(calls))
