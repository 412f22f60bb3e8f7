"""Roles of forward work that no module claims: by what a call says itself, and by what came before and after it.

In this order: a product's own role, an adapter's path, norms written as several ops around an rsqrt, attention and
rotation around a core (or around a softmax between two products of activations), composed activations between two
products, what follows the head (the loss), and what the op's name says.
"""

from collections.abc import Callable

import numpy as np

from loraprof.analysis.attribution.unmarked.adapters import ENDS, Pairs
from loraprof.analysis.attribution.unmarked.calls import Calls, Sort
from loraprof.model.trace import NONE, Bool, Int8, Int64, among
from loraprof.model.vocabulary import ROLE, Role

Give = Callable[[Bool, Role], None]

_UNSAID = -1
_PRODUCTS = [Sort.PRODUCT, Sort.FREE, Sort.CORE]


def norms_of(calls: Calls) -> Bool:
    """Calls of norms written as several ops: what leads to an rsqrt and what scales by it."""
    at = np.flatnonzero(calls.rsqrt)
    begin, last = _back(calls.before_norm, calls.run, at), len(calls) - 1
    stop = last - _back(calls.after_norm[::-1], calls.run[::-1], last - at)
    return _covered(len(calls), begin, stop + 1)


def roles_in_order(calls: Calls, pairs: Pairs, norms: Bool) -> Int8:
    """Role of every call."""
    role = np.full(len(calls), _UNSAID, np.int8)

    def give(flag: Bool, name: Role) -> None:
        role[flag & (role == _UNSAID)] = ROLE[name]

    give(calls.sort == Sort.PRODUCT, "base.linear")
    give(calls.sort == Sort.EMBEDDING, "embedding")
    role[pairs.down], role[pairs.up] = ROLE["adapter.down"], ROLE["adapter.up"]
    path = _covered(len(calls), pairs.first, pairs.last + 1)
    after = np.minimum(pairs.last + 1, len(calls) - 1)
    path[after[calls.cast[after] & (calls.run[after] == calls.run[pairs.last])]] = True  # back to the model's dtype
    give(path, "adapter.elementwise")
    flat = pairs.base[calls.viewed[pairs.base]] - 1
    role[flat[role[flat] == _UNSAID]] = ROLE["base.linear"]
    give(norms | (calls.sort == Sort.NORM), "norm")
    _attention(calls, pairs, role, give)
    _activations(calls, give)
    _head(calls, pairs, role, give)
    return np.where(role == _UNSAID, calls.role, role).astype(np.int8)


def _back(flag: Bool, run: Int64, at: Int64) -> Int64:
    """How far back from each place the flag holds without a break, in its run."""
    passed = np.append(False, flag[:-1] & (run[1:] == run[:-1]))[: len(run)]  # from here to the one before
    reach: Int64 = np.maximum.accumulate(np.where(passed, 0, np.arange(len(run))))[at]
    return reach


def _covered(size: int, begin: Int64, stop: Int64) -> Bool:
    """Places inside any of the ranges [begin, stop)."""
    edge = np.zeros(size + 1, np.int64)
    np.add.at(edge, begin, 1)
    np.add.at(edge, stop, -1)
    covered: Bool = np.cumsum(edge)[:-1] > 0
    return covered


def _neighbours(flag: Bool, run: Int64) -> tuple[Int64, Int64]:
    """Per place the flagged one before it and after it, itself aside, in its run; -1 and the length: none."""
    index, size = np.arange(len(flag)), len(flag)
    before = np.append(NONE, np.maximum.accumulate(np.where(flag, index, NONE)))[:-1]
    after = np.append(np.minimum.accumulate(np.where(flag, index, size)[::-1])[::-1], size)[1:]
    before = np.where((before != NONE) & (run[before] == run), before, NONE)
    last = np.minimum(after, max(size - 1, 0))
    return before, np.where((after < size) & (run[last] == run), after, size)


def _first_of_input(calls: Calls, pairs: Pairs, role: Int8) -> Int64:
    """Per product, the first of those before it that read an input of this size with nothing between (queries, keys,
    values); per other call its own place, with -1 last."""
    out = np.append(np.arange(len(calls)), NONE)
    at = np.flatnonzero(role == ROLE["base.linear"])
    ends = np.cumsum(
        (role == ROLE["norm"]) | np.isin(calls.sort, ENDS) | ((calls.sort == Sort.ADD) & (role == _UNSAID))
    )
    columns = np.stack((calls.run[at], calls.rows[at], calls.inner[at], ends[at]))
    fresh = np.append(True, (columns[:, 1:] != columns[:, :-1]).any(axis=0))[: len(at)]
    out[at] = at[np.maximum.accumulate(np.where(fresh, np.arange(len(at)), 0))]
    out[pairs.down] = out[pairs.up] = out[pairs.base]
    return out


def _attention(calls: Calls, pairs: Pairs, role: Int8, give: Give) -> None:
    """Between the product before a core and the one after it; what rotates comes ahead of the core."""
    before, after = _neighbours(np.isin(calls.sort, _PRODUCTS), calls.run)
    soft = np.flatnonzero(calls.sort == Sort.SOFTMAX)
    soft = soft[(before[soft] != NONE) & (after[soft] < len(calls))]
    soft = soft[(calls.sort[before[soft]] == Sort.FREE) & (calls.sort[after[soft]] == Sort.FREE)]
    core = np.flatnonzero(calls.sort == Sort.CORE)
    begin, stop = np.concatenate((core, before[soft])), np.concatenate((core, after[soft]))
    give(_covered(len(calls), begin, stop + 1), "attention")
    outer, rest = _first_of_input(calls, pairs, role)[before[begin]], after[stop]
    ahead = _covered(len(calls), outer[outer != NONE] + 1, begin[outer != NONE])
    if (ahead & calls.negates).any():
        give(ahead & calls.rotates, "position")
    give(ahead, "attention")
    known = rest < len(calls)
    give(_covered(len(calls), stop[known] + 1, rest[known]) & (calls.sort == Sort.OTHER), "attention")


def _activations(calls: Calls, give: Give) -> None:
    """Ops of an activation's size between the same two products, where it is one that people compose."""
    before, _ = _neighbours(np.isin(calls.sort, _PRODUCTS), calls.run)
    sizes, size = np.unique(calls.numel, return_inverse=True)
    place = (before + 1) * (len(sizes) + 1) + size
    give(among(place, place[calls.composed]), "activation")


def _head(calls: Calls, pairs: Pairs, role: Int8, give: Give) -> None:
    """The product with an embedding's weight, else the last one before the loss; what follows it is the loss."""
    product, told = calls.sort == Sort.PRODUCT, calls.sort == Sort.EMBEDDING
    weights = {*zip(calls.inner[told].tolist(), calls.outer[told].tolist(), strict=True)}
    widths = [*zip(calls.outer.tolist(), calls.inner.tolist(), strict=True)] if weights else []
    head = product & np.array([pair in weights for pair in widths] or np.zeros(len(calls)), np.bool_)
    _, after = _neighbours(head, calls.run)
    head &= (after == len(calls)) & (role == ROLE["base.linear"])  # the last such: a model may be as wide as its words
    head[pairs.base] = False
    if not head.any():
        before, _ = _neighbours(product, calls.run)
        last = before[calls.sort == Sort.LOSS]
        last = last[last >= 0]
        head[last[role[last] == ROLE["base.linear"]]] = True
    role[head] = ROLE["head"]
    before, _ = _neighbours(head, calls.run)
    give(before != NONE, "loss")
