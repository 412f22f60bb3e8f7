"""The rows of the table: what a remedy promised, what was measured of it, and what became of it."""

import math
from typing import Final

from loraprof import units
from loraprof.analysis.statistics import median_interval
from loraprof.live_remedies.remedy import LiveRemedy
from loraprof.model.finding import Finding, Gain
from loraprof.model.fix import Measured, Status, Tried, Unchanged
from loraprof.runs.fix.job import Found
from loraprof.runs.fix.judge import Repeats, Rounds, loss_change, measured
from loraprof.runs.fix.promises import Promises
from loraprof.runs.fix.schedule import BASE, TWIN, Bench


def row(remedy: LiveRemedy, bench: Bench, known: Repeats, promises: Promises) -> Tried:
    finding, gain, why = promises.of(remedy)
    found = measured(remedy.name, bench.rounds)
    change, differs = loss_change(remedy.name, bench.rounds, known, remedy.reorders)
    ended = bench.ended.get(remedy.name)
    status: Status
    reason: str | None
    if ended is not None:
        status, reason = ("refused" if ended.status == "refused" else "failed"), ended.reason
    elif found is None:
        status, reason = "refused", "the time was spent before its turn"
    elif change is not None and change.verdict == "differs":
        status, reason = "loss differs", differs
    else:
        status, reason = ("kept" if found.verdict == "faster" else "no gain"), _unsure(found)
    return Tried(
        finding=finding.id if finding else None,
        arm=remedy.name,
        kind=remedy.kind,
        text=_text(remedy, finding),
        predicted=gain,
        unpredicted=why,
        measured=found,
        covered=_covered(gain, found),
        peak_bytes=peak(remedy.name, bench.rounds),
        loss=change,
        status=status,
        reason=reason,
        untried=ended is None and found is None,
    )


def _unsure(found: Measured) -> str | None:
    return "faster, but not surely: within the noise" if found.verdict == "undecided" and found.high < 1 else None


def refused(remedy: LiveRemedy, reason: str, promises: Promises) -> Tried:
    finding, gain, _ = promises.of(remedy)
    return Tried(
        finding=finding.id if finding else None,
        arm=remedy.name,
        kind=remedy.kind,
        text=_text(remedy, finding),
        predicted=gain,
        status="refused",
        reason=reason,
    )


def _text(remedy: LiveRemedy, finding: Finding | None) -> str:
    return next((r.text for r in finding.remedies if r.arm == remedy.name), remedy.text) if finding else remedy.text


def _covered(gain: Gain | None, found: Measured | None) -> bool | None:
    """None also where the prediction says nothing, and where the two intervals overlap and what was measured lies
    outside: it is too uncertain to tell."""
    if gain is None or found is None or not units.is_known(gain.low, gain.high):
        return None
    if gain.low <= 1 / found.ratio <= gain.high:
        return True
    interval_outside = 1 / found.high > gain.high or 1 / found.low < gain.low
    return False if interval_outside else None


def peak(name: str, rounds: Rounds) -> int | None:
    return max((r[name].peak_bytes or 0 for r in rounds if name in r), default=0) or None


def unchanged(rounds: Rounds, first: Found) -> Unchanged:
    blocks = [r[key].times_ns for r in rounds for key in (BASE, TWIN) if key in r] or [first.times_ns]
    samples, labels = [ns for block in blocks for ns in block], [i for i, block in enumerate(blocks) for _ in block]
    median, low, high = median_interval(samples, labels)
    return Unchanged(
        median_ns=median,
        low_ns=low,
        high_ns=high,
        peak_bytes=peak(BASE, rounds) or first.peak_bytes,
        loss=[loss if math.isfinite(loss) else None for loss in first.losses],
    )


_ORDER: Final = {"kept": 0, "no gain": 1, "loss differs": 2, "failed": 3, "refused": 4}


def order(tried: Tried) -> tuple[int, float]:
    return _ORDER[tried.status], tried.measured.ratio if tried.measured else 9.0
