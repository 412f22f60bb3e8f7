"""What do interleaved (or recorded) step times say about the arms? Ratios, noise floor, thresholds.

A ratio is exp of the median paired log ratio over the blocks; the A/A pair of the same design is the noise floor,
and no claim smaller than it is made. Recordings were not interleaved: there the ratio is median(of) / median(to),
and a verdict is given only where it exceeds both intervals and both noise floors together.
"""

import math
import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Final

from msgspec import Struct, field

from loraprof import units
from loraprof.analysis.statistics import (
    MIN_PAIRS,
    Estimate,
    Verdict,
    floor_of,
    median_interval,
    paired_log_ratio,
    three_way,
)
from loraprof.errors import UsageError
from loraprof.model.compare import ArmResult, Comparison, NoiseFloor, Ratio

_THRESHOLD: Final = re.compile(r"\s*slower\s*>\s*(\d+(?:\.\d+)?)\s*%\s*")


class Series(Struct, frozen=True):
    """Step times of one arm per block, and the SM clock during each block (empty: unknown)."""

    blocks: tuple[tuple[int, ...], ...]
    clocks_mhz: tuple[float, ...] = ()

    def samples(self) -> list[int]:
        return [ns for block in self.blocks for ns in block]

    def labels(self) -> list[int]:
        """The block of every sample."""
        return [i for i, block in enumerate(self.blocks) for _ in block]

    def cycles(self) -> list[float]:
        """Step times in clock cycles (times 1e3)."""
        return [ns * mhz for block, mhz in zip(self.blocks, self.clocks_mhz, strict=True) for ns in block]


class Failure(Struct, frozen=True):
    """Why an arm has no times."""

    reason: str
    peak_bytes: int | None = None


class Timed(Struct, frozen=True):
    """What the timing engine saw. ``twin`` is the reference arm run a second time as an arm of its own."""

    reference: str
    series: Mapping[str, Series]
    twin: Series | None
    clock: str
    stopped: str
    dropped: Mapping[str, int] = field(default_factory=dict)  # warm-up steps
    warm_up_ns: Mapping[str, int] = field(default_factory=dict)  # their time; {} unknown
    failed: Mapping[str, Failure] = field(default_factory=dict)
    rejected: int = 0  # blocks redone
    notes: tuple[str, ...] = ()
    diverged: frozenset[str] = frozenset()  # arms whose loss was not finite


def estimate(of: Series, to: Series) -> Estimate:
    """Log ratio of two interleaved series, resampled by block."""
    return paired_log_ratio(of.samples(), to.samples(), of.labels())


def ratios_of(timed: Timed) -> tuple[list[Ratio], NoiseFloor | None]:
    """Every arm against the reference, and the A/A pair. Without an A/A pair every verdict is undecided."""
    if not timed.series:
        return [], None
    base = timed.series[timed.reference]
    same = estimate(timed.twin, base) if timed.twin else None
    floor = floor_of(same) if same else math.inf
    ratios = []
    for name, series in timed.series.items():
        if name != timed.reference:
            found = estimate(series, base)
            cycles = None
            if series.clocks_mhz and base.clocks_mhz:
                cycles = paired_log_ratio(series.cycles(), base.cycles(), series.labels())
            ratios.append(_ratio(name, timed.reference, found, three_way(found, floor, cycles)))
    noise = NoiseFloor(ratio=same.ratio, low=same.ratio_low, high=same.ratio_high) if same else None
    return ratios, noise


def _ratio(of: str, to: str, found: Estimate, verdict: Verdict) -> Ratio:
    return Ratio(of=of, to=to, ratio=found.ratio, low=found.ratio_low, high=found.ratio_high, verdict=verdict)


def arm_result(samples: Sequence[int], blocks: Sequence[int] | None, tokens: int | None) -> ArmResult:
    """Median with interval, mean and throughput of one arm's step times."""
    median, low, high = median_interval(samples, blocks)
    return ArmResult(
        median_ns=median,
        mean_ns=round(fmean(samples)),
        low_ns=low,
        high_ns=high,
        steps=len(samples),
        tokens_per_s=tokens / median * 1e9 if tokens else None,
    )


def own_floor(samples: Sequence[int]) -> float:
    """Noise floor of one recording, as a log ratio: its odd steps against its even ones; infinite if too few."""
    even, odd = samples[: len(samples) // 2 * 2 : 2], samples[1::2]
    return floor_of(paired_log_ratio(odd, even)) if len(even) >= MIN_PAIRS // 2 else math.inf


def recorded_ratio(of: str, to: str, new: Sequence[int], base: Sequence[int]) -> Ratio:
    """Two recordings: a difference must exceed both intervals and both noise floors together.

    ``low`` and ``high`` are the least and greatest quotient of the two medians' intervals.
    """
    (m1, low1, high1), (m0, low0, high0) = median_interval(new), median_interval(base)
    low, high = low1 / high0, high1 / low0
    floor = own_floor(new) + own_floor(base)
    verdict: Verdict = "undecided"
    if math.log(low) > floor:
        verdict = "slower"
    elif math.log(high) < -floor:
        verdict = "faster"
    return Ratio(of=of, to=to, ratio=m1 / m0, low=low, high=high, verdict=verdict)


def steps_to_pay(cost_ns: float, slow_ns: float, fast_ns: float) -> int | None:
    """Steps after which ``cost_ns``, spent once, is won back; None where a step is not faster for it."""
    return math.ceil(cost_ns / (slow_ns - fast_ns)) if fast_ns < slow_ns else None


def parse_threshold(text: str) -> float:
    """``slower>3%`` -> 1.03, the ratio that ``low`` must not exceed. Raises UsageError."""
    found = _THRESHOLD.fullmatch(text)
    if not found:
        raise UsageError(f"--fail-on {text!r} is not a threshold", "write for example --fail-on 'slower>3%'")
    return 1 + float(found[1]) / 100


def missed(ratios: Sequence[Ratio], limit: float) -> list[Ratio]:
    """Ratios that are surely above ``limit``: the whole interval is, and it is no noise."""
    return [r for r in ratios if r.verdict == "slower" and r.low > limit]


def ideal(timed: Timed) -> Ratio | None:
    """full / frozen, the speed-up that adapters of no cost would have; None where one of them was not measured."""
    if not {"full", "frozen"} <= timed.series.keys():
        return None
    full, frozen = timed.series["full"], timed.series["frozen"]
    found = estimate(full, frozen)
    floor = floor_of(estimate(timed.twin, timed.series[timed.reference])) if timed.twin else math.inf
    return _ratio("full", "frozen", found, three_way(found, floor))


def failures(comparison: Comparison, limit: float) -> str | None:
    """One line on what missed the threshold, ``None`` when nothing did."""
    late = missed(comparison.ratios, limit)
    return "; ".join(f"{r.of} is slower than {r.to}: {_how_much(r, limit)}" for r in late) or None


def _how_much(r: Ratio, limit: float) -> str:
    return f"{units.ratio_interval(r.ratio, r.low, r.high)} its step time, {units.ratio(limit)} allowed"
