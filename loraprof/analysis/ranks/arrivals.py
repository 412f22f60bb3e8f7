"""Who comes last to a collective, and how long does the transfer itself take?

Arrival is when a rank's record starts, on aligned clocks, less what it waited in other collectives since the group's
last one: who waits for a slow rank in a broadcast comes as late as that one, yet is not slow. A rank is last where it
comes after all others by more than the clocks can tell. The last one does not wait: the shortest record of a collective
over its ranks is the transfer.
"""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from loraprof.analysis.ranks.clocks import Clocks
from loraprof.analysis.ranks.matching import Matched
from loraprof.model.trace import NONE, Int64


class Arrivals(Struct, frozen=True, eq=False):
    """Per rank: how often it was last, how often it could have been, and how long after the median rank in all."""

    last: Int64
    of: Int64
    late_ns: Int64


def arrivals(count: int, groups: Sequence[Matched], clocks: Clocks) -> Arrivals | None:
    """None where times of different ranks cannot be compared."""
    if not clocks.usable:
        return None
    last, of, late = (np.zeros(count, np.int64) for _ in range(3))
    for m in groups:
        came = m.start - m.waited - clocks.offset_ns[m.members][:, None]
        order = np.sort(came, axis=0)
        clear = order[-1] - order[-2] > clocks.tolerance_ns
        latest = came.argmax(axis=0)[clear]
        np.add.at(last, m.members[latest], 1)
        np.add.at(late, m.members[latest], (order[-1] - order[(len(order) - 1) // 2])[clear])
        of[m.members] += len(m.step)
    return Arrivals(last, of, late)


def transfers(rank: int, calls: int, step: int, groups: Sequence[Matched]) -> Int64:
    """Shortest duration over the ranks of each of one rank's collectives in a step, ns; -1 where none is matched."""
    out = np.full(calls, NONE, np.int64)
    for m in groups:
        member = np.flatnonzero(m.members == rank)
        if len(member):
            at = np.flatnonzero(m.step == step)
            out[m.row[member[0], at]] = (m.end[:, at] - m.start[:, at]).min(axis=0)
    return out
