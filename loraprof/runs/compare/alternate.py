"""How long does a step of each arm take when every arm needs a process of its own?

Rounds of processes in the order A B C A' | A' C B A | …: drift cancels over two rounds, A' is the noise floor. A
process warms up, then times the same number of steps; the interval is resampled by round, the highest level.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final

from loraprof.analysis.statistics import HALF_WIDTH, MIN_WARMUP, converged
from loraprof.comparison.ratios import Failure, Series, Timed, estimate
from loraprof.runs.compare.interleave import TWIN
from loraprof.runs.compare.job import Outcome

WARM_UP: Final = MIN_WARMUP
STEPS: Final = 10
ENOUGH: Final = 5  # rounds, from which on a narrow interval ends it
LEAST: Final = 2  # rounds, whatever the budget

Start = Callable[[str], Outcome]


def alternate(
    arms: Sequence[str],
    start: Start,
    budget_ns: int,
    *,
    progress: Callable[[str], None] = lambda _: None,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> tuple[Timed, dict[str, Outcome]]:
    """Times every arm; also returns each arm's last outcome. An arm that fails once is left out of the times."""
    begun, live = clock(), list(arms)
    rounds: list[dict[str, tuple[int, ...]]] = []
    last: dict[str, Outcome] = {}
    while live and (stopped := _stopped(rounds, clock() - begun, budget_ns, live)) is None:
        entries = [*live, TWIN]
        progress(f"round {len(rounds) + 1} of processes: {', '.join(live)}, {live[0]} again")
        found = {}
        for entry in entries if len(rounds) % 2 == 0 else reversed(entries):
            name = live[0] if entry == TWIN else entry
            outcome = last[name] = start(name)
            if outcome.status != "ok":
                live.remove(name)
                rounds = []  # the reference or the order changes: start over with the others
                break
            found[entry] = tuple(outcome.times_ns)
        else:
            rounds.append(found)
    series = {e: Series(tuple(one[e] for one in rounds)) for e in ([*live, TWIN] if live else [])}
    twin = series.pop(TWIN, None)
    lost = [name for name, outcome in last.items() if outcome.status == "oom" and name not in live]
    failed = {name: Failure(last[name].reason or "", last[name].peak_bytes) for name in lost}
    timed = Timed(
        reference=live[0] if live else arms[0],
        series=series,
        twin=twin,
        clock=next((o.clock for o in last.values() if o.clock), ""),
        stopped=stopped if live and stopped else "no arm could be timed",
        dropped=dict.fromkeys(live, WARM_UP * len(rounds)),
        failed=failed,
        notes=(f"{len(rounds)} restarts of every arm, in alternating order",),
    )
    return timed, last


def _stopped(
    rounds: Sequence[dict[str, tuple[int, ...]]], spent_ns: int, budget_ns: int, live: Sequence[str]
) -> str | None:
    """Why it ends here, ``None`` when it goes on."""
    if len(rounds) >= LEAST and spent_ns >= budget_ns:
        return "the time budget is spent"
    if len(rounds) >= LEAST and len(live) == 1:
        return "one arm is left"
    if len(rounds) < ENOUGH:
        return None
    base = Series(tuple(one[live[0]] for one in rounds))
    rivals = [Series(tuple(one[name] for one in rounds)) for name in [*live[1:], TWIN]]
    if all(converged(estimate(rival, base)) for rival in rivals):
        return f"every interval is within {HALF_WIDTH:.0%}"
    return None
