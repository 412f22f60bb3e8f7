"""What is the largest batch of an arm whose measured peak memory stays within a limit?

Every batch that is answered for ran in a process of its own. The next one to try lies where a straight line through
the two largest that fit meets the limit; between one that fits and one that does not, at most half way.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from loraprof.runs.compare.job import Outcome

PROBES: Final = 16
GROWTH: Final = 8  # never more than this times the largest that fits


@dataclass(frozen=True, slots=True)
class Fit:
    """``outcome`` is the run at ``batch``; ``exact``: the next larger batch was tried and does not fit."""

    batch: int
    outcome: Outcome
    exact: bool


def largest_batch(probe: Callable[[int], Outcome], limit_bytes: int) -> Fit | None:
    """The largest batch that fits, ``None`` where not even one does or where the peak cannot be measured."""
    fits: dict[int, Outcome] = {}
    over: int | None = None
    batch = 1
    for _ in range(PROBES):
        outcome = probe(batch)
        if outcome.status == "ok" and outcome.peak_bytes is not None and outcome.peak_bytes <= limit_bytes:
            fits[batch] = outcome
        else:
            over = batch if over is None else min(over, batch)
        if not fits or over == max(fits) + 1:
            break
        batch = _next(fits, over, limit_bytes)
    if not fits:
        return None
    best = max(fits)
    return Fit(best, fits[best], over == best + 1)


def _next(fits: dict[int, Outcome], over: int | None, limit_bytes: int) -> int:
    low = max(fits)
    ceiling = low * GROWTH if over is None else over - 1
    guess = low * 2
    if len(fits) > 1:
        before = sorted(fits)[-2]
        slope = ((fits[low].peak_bytes or 0) - (fits[before].peak_bytes or 0)) / (low - before)
        if slope > 0:
            guess = low + int((limit_bytes - (fits[low].peak_bytes or 0)) / slope)
    crawling = low > 1 and low - 1 in fits and guess <= low + 1  # memory in steps: the line leads nowhere
    if over is None and crawling:
        guess = low + max(1, low // GROWTH)
    elif over is not None and (crawling or guess >= ceiling > low + 1):
        guess = (low + over) // 2
    return max(low + 1, min(guess, ceiling))
