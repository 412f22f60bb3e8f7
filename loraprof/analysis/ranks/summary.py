"""All ranks on one page: the slowest and why, the spread of every figure, the clocks, and who comes last.

The reason is where the slowest rank's own work exceeds the median rank's most, by class or cause, phase and role. A
lead that the steps of one rank also show, or below ``LEAST`` of the window, makes no rank slow.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Final

import numpy as np
from msgspec import Struct

from loraprof import units
from loraprof.analysis.ranks.arrivals import Arrivals
from loraprof.analysis.ranks.breakdown import Cell, RankBreakdown, StepBreakdown, cell_of
from loraprof.analysis.ranks.clocks import LIMIT_NS, Clocks
from loraprof.analysis.ranks.matching import Matched
from loraprof.model.ranks import ClockAlignment, Difference, RankRow, RankSummary, Spread, Straggler
from loraprof.model.trace import distinct
from loraprof.model.vocabulary import PHASES

LEAST: Final = 0.01
SHOWN: Final = 3  # differences, stragglers
FIGURES: Final[dict[str, Callable[[StepBreakdown], int]]] = {
    "step": lambda at: at.wall_ns,
    "own": lambda at: at.own_ns,
    "busy": lambda at: at.total(busy=True),
    "exposed_comm": lambda at: at.exposed_comm_ns,
    "overlapped_comm": lambda at: at.overlapped_comm_ns,
    "idle": lambda at: at.total(busy=False),
}


class View(Struct, frozen=True, eq=False, dict=True):
    """The ranks that are compared, in the order of their numbers, and the step at which they are."""

    found: list[RankBreakdown]
    names: list[str]
    step: str
    clocks: Clocks
    came: Arrivals | None

    @cached_property
    def at(self) -> list[StepBreakdown]:
        return [rank.step(self.step) for rank in self.found]

    @cached_property
    def own_ns(self) -> list[int]:
        return [one.own_ns for one in self.at]


def middle(values: Sequence[int]) -> int:
    """Lower median."""
    return sorted(values)[(len(values) - 1) // 2]


def rows_of(view: View) -> list[RankRow]:
    out = []
    for i, (rank, at) in enumerate(zip(view.found, view.at, strict=True)):
        aligned = view.clocks.usable
        out.append(
            RankRow(
                rank=rank.rank,
                wall_ns=at.wall_ns,
                busy_ns=at.total(busy=True),
                exposed_comm_ns=at.exposed_comm_ns,
                overlapped_comm_ns=at.overlapped_comm_ns,
                idle_ns=at.total(busy=False),
                phases_ns={phase: at.total(phase=phase) for phase in PHASES},
                own_ns=at.own_ns,
                clock_offset_ns=int(view.clocks.offset_ns[i]) if aligned else None,
                last_arrivals=int(view.came.last[i]) if view.came is not None else None,
            )
        )
    return out


def summary_of(view: View, world: int | None) -> RankSummary:
    """``world``: how many ranks the run had, where a recording says."""
    ranks = [rank.rank for rank in view.found]
    at = view.own_ns.index(max(view.own_ns))
    lead, varies = view.own_ns[at] - middle(view.own_ns), _step_spread(view)
    close = max(varies or 0, LEAST * view.at[at].wall_ns)
    even = len(ranks) < 2 or lead <= close
    differences = [] if even else _differences(view, at)
    known = world or next((rank.world for rank in view.found if rank.world), None)
    return RankSummary(
        sentence=_even(view, close, varies) if even else _sentence(view, at, differences),
        step=view.step,
        count=len(ranks),
        world=known,
        missing=sorted(set(range(known or 0)) - set(ranks)),
        slowest=ranks[at],
        fastest=ranks[view.own_ns.index(min(view.own_ns))],
        even=even,
        step_spread_ns=varies,
        spreads=[_spread(name, ranks, [figure(one) for one in view.at]) for name, figure in FIGURES.items()],
        phases=[_spread(phase, ranks, own) for phase in PHASES if any(own := [one.own_in(phase) for one in view.at])],
        differences=differences,
        clocks=_clocks(view),
        stragglers=_stragglers(view),
    )


def _step_spread(view: View) -> int | None:
    """How much own work differs between the steps of one rank, the median over ranks; None with a single step."""
    if len(view.names) < 2:
        return None
    own = [[rank.step(name).own_ns for name in view.names] for rank in view.found]
    return middle([max(steps) - min(steps) for steps in own])


def _spread(what: str, ranks: list[int], values: list[int]) -> Spread:
    ordered = sorted(values)
    return Spread(
        what=what,
        min_ns=ordered[0],
        median_ns=middle(values),
        p90_ns=ordered[-(-9 * len(values) // 10) - 1],
        max_ns=ordered[-1],
        min_rank=ranks[values.index(ordered[0])],
        max_rank=ranks[values.index(ordered[-1])],
    )


def _differences(view: View, slowest: int) -> list[Difference]:
    """Where the slowest rank spends more than the median rank, the largest first."""
    keys = distinct(np.concatenate([one.cell[~one.exposed] for one in view.at]))
    table = np.zeros((len(view.at), len(keys)), np.int64)
    for row, one in zip(table, view.at, strict=True):
        working = ~one.exposed
        row[np.searchsorted(keys, one.cell[working])] = one.ns[working]
    median = np.sort(table, axis=0)[(len(table) - 1) // 2]
    more = table[slowest] - median
    order = sorted(np.flatnonzero(more > 0).tolist(), key=lambda i: (-int(more[i]), i))
    return [_difference(cell_of(int(keys[i])), int(table[slowest][i]), int(median[i])) for i in order[:SHOWN]]


def _difference(cell: Cell, ns: int, median_ns: int) -> Difference:
    return Difference(
        kind="busy" if cell.busy else "idle",
        what=cell.what,
        phase=cell.phase,
        role=cell.role,
        ns=ns,
        median_ns=median_ns,
    )


def _even(view: View, close: float, varies: int | None) -> str:
    own = view.own_ns
    if len(own) < 2:
        return f"Only rank {view.found[0].rank} can be read: there is nothing to compare it with."
    within = f"; the steps of one rank differ by {units.ns(varies)}" if varies is not None else ""
    if max(own) - min(own) <= close:
        return f"The ranks are even: own work from {units.ns(min(own))} to {units.ns(max(own))}{within}."
    most, median, least = (units.ns(ns) for ns in (max(own), middle(own), min(own)))
    quick = view.found[own.index(min(own))].rank
    return f"No rank is slow: own work is {most} at most, {median} by median, {least} at least (rank {quick}){within}."


def _sentence(view: View, slowest: int, found: list[Difference]) -> str:
    own, rank = view.own_ns, view.found[slowest].rank
    text = f"Rank {rank} is the slowest of {units.count(len(own))}: its own work takes {units.ns(own[slowest])}, "
    text += f"the median rank's {units.ns(middle(own))}"
    if not found:
        return f"{text}."
    first = found[0]
    work = "work of unknown role" if first.role == "other" else first.role
    place = work if first.kind == "busy" else f"idle time ({first.what}) before {work}"
    phase = "outside all phases" if first.phase == "other" else f"in {first.phase}"
    more = f"{units.ns(first.ns)} against {units.ns(first.median_ns)}"
    return f"{text}; most of the difference is {place} {phase}, {more}."


def _clocks(view: View) -> ClockAlignment | None:
    if len(view.found) < 2:
        return None
    clocks = view.clocks
    offsets = np.abs(clocks.offset_ns[clocks.aligned])
    return ClockAlignment(
        collectives=clocks.collectives,
        residual_ns=clocks.residual_ns,
        limit_ns=LIMIT_NS,
        usable=clocks.usable,
        largest_offset_ns=int(offsets.max()) if clocks.residual_ns is not None else None,
        one_machine=clocks.one_machine,
    )


def _stragglers(view: View) -> list[Straggler] | None:
    came = view.came
    if came is None:
        return None
    order = sorted(range(len(view.found)), key=lambda i: (-int(came.late_ns[i]), i))
    return [
        Straggler(rank=view.found[i].rank, last=int(came.last[i]), of=int(came.of[i]), late_ns=int(came.late_ns[i]))
        for i in order[:SHOWN]
        if came.last[i]
    ]


def notes_of(view: View, groups: Sequence[Matched]) -> Iterator[str]:
    """What holds for the comparison, and what does not."""
    if len(view.found) == 1:
        yield f"the report is rank {view.found[0].rank}'s, the only one that can be read"
    else:
        yield f"{units.count(len(view.found))} ranks; the report is rank {_slowest(view)}'s, the slowest"
    clocks = view.clocks
    if len(view.found) > 1 and clocks.residual_ns is None:
        yield "the ranks' clocks cannot be aligned, no two ranks share a collective: durations only are compared"
    elif not clocks.usable and len(view.found) > 1:
        limit = units.ns(LIMIT_NS)
        why = f"the residual is {units.ns(clocks.residual_ns)}, above {limit}"
        if not clocks.aligned.all():
            alone = [rank.rank for rank, there in zip(view.found, clocks.aligned, strict=True) if not there]
            why = f"{units.named('rank', alone)} share no collective with the others"
        yield f"the ranks' clocks cannot be aligned, {why}: who comes last is not said, durations remain valid"
    strange = {view.found[i].rank for group in groups for i in group.strangers}
    if strange:
        yield f"{units.named('rank', strange)} ran other collectives than the rest of a group and are not matched there"
    if any(one.calls.whole > len(one.calls) for one in view.at):
        yield f"ranks are matched by the first {units.count(len(view.at[0].calls))} collectives of each step"


def _slowest(view: View) -> int:
    return view.found[view.own_ns.index(max(view.own_ns))].rank
