"""Which records of different ranks are one collective?

Those of one process group (name and, where known, its ranks) with one sequence number; without numbers those at one
place in the order of their step. Members of a group must have run the same kinds in the same order: those that
differ from most are left out of that group. Only collectives that no rank can leave before every rank has come to
them are matched: a broadcast's source and a sender go on alone.
"""

from collections import Counter
from collections.abc import Sequence
from functools import reduce
from typing import Final

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from loraprof.analysis.ranks.breakdown import Calls, Members, RankBreakdown
from loraprof.analysis.ranks.messages import KIND
from loraprof.model.trace import Int64, distinct

TOGETHER: Final = [KIND[kind] for kind in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "barrier")]


class Matched(Struct, frozen=True, eq=False):
    """The collectives that the members of one group have in common: arrays are (members, collectives)."""

    group: Members
    members: Int64  # indices of the ranks, ascending
    step: Int64  # per collective, -> the steps asked for
    row: Int64  # -> that rank's calls of that step
    start: Int64  # epoch ns, each on its own clock
    end: Int64
    waited: Int64  # ns in other collectives since the group's last one
    strangers: tuple[int, ...]  # indices of members that ran something else


def matched(ranks: Sequence[RankBreakdown], steps: Sequence[str]) -> list[Matched]:
    """Per group of at least two ranks that ran the same, largest first."""
    groups: dict[Members, list[tuple[int, int]]] = {}
    for i, rank in enumerate(ranks):
        for g, group in enumerate(rank.groups):
            if group.joined:
                groups.setdefault(group, []).append((i, g))
    out = [_group(group, places, ranks, steps) for group, places in groups.items() if len(places) > 1]
    return sorted((m for m in out if m is not None), key=lambda m: (-len(m.members), m.group.name))


class _Own(Struct, frozen=True, eq=False):
    """One member's collectives of the group over all steps."""

    step: Int64
    row: Int64
    kind: Int64
    sequence: Int64
    start: Int64
    end: Int64
    waited: Int64

    @property
    def numbered(self) -> bool:
        return bool((self.sequence >= 0).all()) and len(distinct(self.sequence)) == len(self.sequence)

    def taken(self, at: Int64) -> "_Own":
        columns = (self.step, self.row, self.kind, self.sequence, self.start, self.end, self.waited)
        return _Own(*(column[at] for column in columns))


def _group(
    group: Members, places: list[tuple[int, int]], ranks: Sequence[RankBreakdown], steps: Sequence[str]
) -> Matched | None:
    own = {i: _own([ranks[i].step(name).calls for name in steps], g) for i, g in places}
    signs = {i: one.step.tobytes() + one.kind.tobytes() for i, one in own.items() if len(one.row)}
    if not signs:
        return None
    usual, count = Counter(signs.values()).most_common(1)[0]
    members = [i for i, sign in signs.items() if sign == usual]
    strangers = tuple(i for i in signs if i not in members)
    if count < 2:
        return None
    chosen = _by_sequence([own[i] for i in members])
    if not len(chosen[0].row):
        return None
    first = chosen[0]
    told = ("row", "start", "end", "waited")
    row, start, end, waited = (np.stack([getattr(one, name) for one in chosen]) for name in told)
    return Matched(group, np.array(members, np.int64), first.step, row, start, end, waited, strangers)


def _own(calls: list[Calls], group: int) -> _Own:
    parts, elsewhere = [], 0
    for step, one in enumerate(calls):
        joined = (one.group == group) & np.isin(one.kind, TOGETHER)
        rows = np.flatnonzero(joined)
        at = np.full(len(rows), step, np.int64)
        others = elsewhere + np.cumsum(np.where(joined, 0, one.exposed))
        elsewhere = int(others[-1]) if len(others) else elsewhere
        parts.append((at, rows, one.kind[rows], one.sequence[rows], one.start[rows], one.end[rows], others[rows]))
    own = _Own(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    own = replace(own, waited=np.diff(own.waited, prepend=0))
    return own.taken(np.argsort(own.sequence)) if own.numbered else own  # several streams: starts may swap


def _by_sequence(own: list[_Own]) -> list[_Own]:
    """The records whose numbers all members have; all of them where there are no numbers."""
    if not all(one.numbered for one in own):
        return own
    shared = reduce(np.intersect1d, [one.sequence for one in own])
    return [one.taken(np.flatnonzero(np.isin(one.sequence, shared))) for one in own]
