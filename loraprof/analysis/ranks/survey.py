"""Many ranks together: which of them can be compared, at which step, and what does each one's row say?

All ranks are compared at one step: of those that all of them hold, the one whose median window over the ranks is the
lower middle. The report's main fields are those of the slowest rank, the one with the most own work.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final

from msgspec import Struct

from loraprof import units
from loraprof.analysis.ranks.arrivals import arrivals, transfers
from loraprof.analysis.ranks.breakdown import RankBreakdown
from loraprof.analysis.ranks.clocks import align
from loraprof.analysis.ranks.examine import LeftOut, Result
from loraprof.analysis.ranks.matching import matched
from loraprof.analysis.ranks.summary import View, middle, notes_of, rows_of, summary_of
from loraprof.errors import InputError
from loraprof.model.ranks import RankRow, RankSummary
from loraprof.model.trace import Int64

SHOWN: Final = 3  # reasons, and files without a rank's number
_DETAIL = re.compile(r" *\([^)]*\)")


class Survey(Struct, frozen=True, eq=False):
    """What the ranks' breakdowns say together. The report describes the slowest rank."""

    step: str
    trace: str  # name of the slowest rank's file
    rows: list[RankRow]
    summary: RankSummary
    transfer_ns: Int64  # of the slowest rank's first collectives in that step, -1 unknown
    notes: tuple[str, ...]


def survey(results: Iterable[Result], world: int | None = None) -> Survey:
    """Raises InputError when no rank can be read, or two traces are of one rank."""
    found, left = _sorted_out(results)
    found, strangers = _of_one_run(found)
    names = [name for name in found[0].names if all(name in rank.names for rank in found)]
    if not names:
        raise InputError("the ranks' traces share no step", "record all ranks in one run")
    walls = [middle([rank.step(name).wall_ns for rank in found]) for name in names]
    step = names[walls.index(middle(walls))]
    groups = matched(found, names)
    clocks = align([rank.machine for rank in found], groups)
    view = View(found, names, step, clocks, arrivals(len(found), groups, clocks))
    summary = summary_of(view, world)
    slowest = [rank.rank for rank in found].index(summary.slowest)
    transfer = transfers(slowest, len(view.at[slowest].calls), names.index(step), groups)
    notes = (*_left_out([*left, *strangers]), *notes_of(view, groups))
    return Survey(step, found[slowest].trace, rows_of(view), summary, transfer, notes)


def _sorted_out(results: Iterable[Result]) -> tuple[list[RankBreakdown], list[LeftOut]]:
    found: list[RankBreakdown] = []
    left: list[LeftOut] = []
    for one in results:
        if isinstance(one, LeftOut):
            left.append(one)
        else:
            found.append(one)
    if not found:
        raise InputError(_left_out(left)[0] if left else "there is no rank here", "record it again")
    twice = [rank for rank, n in Counter(one.rank for one in found).items() if n > 1]
    if twice:
        names = " and ".join(one.trace for one in found if one.rank == twice[0])
        raise InputError(f"{names} say that they are of rank {twice[0]}", "take all but one of them away")
    return sorted(found, key=lambda one: one.rank), left


def _of_one_run(found: list[RankBreakdown]) -> tuple[list[RankBreakdown], list[LeftOut]]:
    """Without the ranks whose run, number of ranks, step or step names are not those of most."""
    questions: tuple[tuple[str, Callable[[RankBreakdown], Any]], ...] = (
        ("recorded by another run", lambda rank: rank.launch),
        ("recorded by a run with another number of ranks", lambda rank: rank.world),
        ("its trace is of another step of the training", lambda rank: rank.first_step),
        ("its trace holds none of the steps of the others", lambda rank: rank.names),
    )
    left: list[LeftOut] = []
    for why, ask in questions:
        answers = Counter(answer for rank in found if (answer := ask(rank)) is not None)
        if answers:
            usual = answers.most_common(1)[0][0]
            left += [LeftOut(rank.rank, "", why) for rank in found if not _agrees(ask(rank), usual)]
            found = [rank for rank in found if _agrees(ask(rank), usual)]
    return found, left


def _agrees(answer: Any, usual: Any) -> bool:
    if isinstance(usual, tuple):
        return bool(set(answer) & set(usual))
    return answer is None or answer == usual


def _left_out(left: list[LeftOut]) -> list[str]:
    """A line per reason, however many ranks it holds for."""
    alike: dict[str, list[LeftOut]] = {}
    for one in left:
        alike.setdefault(_DETAIL.sub("", one.why), []).append(one)
    lines = []
    for why, group in alike.items():
        nameless = [one.name for one in group if one.rank is None]
        numbers = [one.rank for one in group if one.rank is not None]
        missing_names = [units.named("rank", numbers)] if numbers else []
        missing_names += nameless[:SHOWN] + ([f"{len(nameless) - SHOWN} more files"] if len(nameless) > SHOWN else [])
        first = group[0]
        said = why if len(group) > 1 else f"{first.name}: {first.why}" if first.name and numbers else first.why
        lines.append(f"{', '.join(missing_names)} left out: {said}")
    return lines[:SHOWN] + ([f"ranks left out for {len(lines) - SHOWN} further reasons"] if len(lines) > SHOWN else [])
