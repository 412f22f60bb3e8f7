"""How far apart are the ranks' clocks? Aligned on collectives, which end on all ranks at about the same time.

    offset of a rank = median over shared collectives of (its end - the end on the ranks already aligned)

starting from the lowest rank, through groups that share a member, the largest first; then each once more against the
median end of all. Ranks of one machine have one clock and take their median offset, unless that has them leave most
collectives before another has come: then their clocks are not one. The residual says how well that fits: a rank's
median deviation from the common end, or the difference between the first and the second half of the trace where that
is larger (a clock that drifts or was set). Times of different machines are compared only where it is below
``LIMIT_NS``; durations on one rank need no alignment.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec import Struct

from loraprof.analysis.ranks.matching import Matched
from loraprof.model.trace import Bool, Int64

LIMIT_NS: Final = 1_000_000
LEAST_NS: Final = 10_000  # what clocks that agree are told apart by: the profiler's own conversion of ticks
FEW: Final = 4  # collectives from which halves are compared; below, the largest deviation counts


class Clocks(Struct, frozen=True, eq=False):
    """``offset_ns[i]``: the clock of rank i less that of the first; meaningless where ``aligned[i]`` is False."""

    offset_ns: Int64
    aligned: Bool
    residual_ns: int | None  # None: no two ranks share a collective
    collectives: int
    one_machine: bool = False

    @property
    def usable(self) -> bool:
        """Whether times of different ranks may be compared."""
        if self.residual_ns is None or not self.aligned.all():
            return False
        return self.one_machine or self.residual_ns <= LIMIT_NS

    @property
    def tolerance_ns(self) -> int:
        """What two ranks' times must differ by to differ."""
        return LEAST_NS if self.one_machine else max(self.residual_ns or 0, LEAST_NS)


def align(machines: Sequence[str | None], groups: Sequence[Matched]) -> Clocks:
    """The clocks of as many ranks as there are ``machines``; None is a machine that is not known."""
    found = _aligned(machines, groups)
    if found.one_machine and _contradicted(groups):
        return _aligned([None] * len(machines), groups)
    return found


def _contradicted(groups: Sequence[Matched]) -> bool:
    """Whether most collectives have ended on one rank before another rank of its machine came to them."""
    left = np.concatenate([m.start.max(axis=0) > m.end.min(axis=0) + LEAST_NS for m in groups])
    return bool(left.mean() > 0.5)


def _aligned(machines: Sequence[str | None], groups: Sequence[Matched]) -> Clocks:
    count = len(machines)
    offset, aligned = np.zeros(count, np.int64), np.zeros(count, np.bool_)
    if not groups:
        return Clocks(offset, aligned, None, 0)
    aligned[min(int(m.members[0]) for m in groups)] = True
    while any(_reach(m, offset, aligned) for m in groups):
        pass
    shared = [m for m in groups if aligned[m.members].all()]
    for m in shared:
        offset[m.members] += _middle(_deviation(m, offset))
    for machine in {*machines} - {None}:
        on_machine = np.array([one == machine for one in machines]) & aligned
        if on_machine.any():
            offset[on_machine] = _middle(offset[on_machine][None, :])[0]
    offset -= offset[np.argmax(aligned)]
    residual = max((int(_spread(_deviation(m, offset)).max()) for m in shared), default=None)
    one = len({*machines}) == 1 and machines[0] is not None
    return Clocks(offset, aligned, residual, sum(len(m.step) for m in shared), one)


def _reach(m: Matched, offset: Int64, aligned: Bool) -> bool:
    """Aligns the members of a group on one that is; False when there is nothing to do."""
    known = np.flatnonzero(aligned[m.members])
    new = np.flatnonzero(~aligned[m.members])
    if not len(known) or not len(new):
        return False
    base = known[0]
    offset[m.members[new]] = offset[m.members[base]] + _middle(m.end[new] - m.end[base])
    aligned[m.members[new]] = True
    return True


def _deviation(m: Matched, offset: Int64) -> Int64:
    """Each member's end less the median end of all, on aligned clocks."""
    ends = m.end - offset[m.members][:, None]
    return ends - _middle(ends.T)[None, :]


def _spread(deviation: Int64) -> Int64:
    """Per member."""
    size = np.abs(deviation)
    n = deviation.shape[1]
    if n < FEW:
        largest: Int64 = size.max(axis=1)
        return largest
    halves = np.abs(_middle(deviation[:, : n // 2]) - _middle(deviation[:, n // 2 :]))
    spread: Int64 = np.maximum(_middle(size), halves)
    return spread


def _middle(values: Int64) -> Int64:
    """Lower median of each row."""
    middle: Int64 = np.sort(values, axis=1)[:, (values.shape[1] - 1) // 2]
    return middle
