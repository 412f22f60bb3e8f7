"""The comparison of arms, schema ``loraprof.compare/1``."""

from typing import Literal

import msgspec

from loraprof.model.finding import Finding
from loraprof.model.vocabulary import Cause, Phase, Role

SCHEMA = "loraprof.compare/1"


class ArmResult(msgspec.Struct, frozen=True, kw_only=True):
    """One arm, measured without a profiler. ``status`` "oom" or "refused" carries its ``reason``."""

    median_ns: int | None = None
    mean_ns: int | None = None
    low_ns: int | None = None
    high_ns: int | None = None
    steps: int = 0
    tokens_per_s: float | None = None
    peak_bytes: int | None = None
    trainable: int | None = None
    energy_j_per_step: float | None = None
    status: Literal["ok", "oom", "refused"] = "ok"
    reason: str | None = None
    loss_finite: bool | None = None  # of the timed steps; None: unknown
    initial_loss: list[float | None] | None = None  # --quality, one per seed; None: not finite
    final_loss: list[float | None] | None = None  # mean of the last tenth of the steps
    iso_batch: int | None = None  # --iso-memory: largest batch that fits
    iso_tokens_per_s: float | None = None
    iso_low: float | None = None  # interval of the tokens/s
    iso_high: float | None = None
    iso_peak_bytes: int | None = None  # measured at that batch


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """``ratio`` = median(of) / median(to) of step time; below 1 means ``of`` is faster."""

    of: str
    to: str
    ratio: float
    low: float
    high: float
    verdict: Literal["faster", "slower", "undecided"]


class NoiseFloor(msgspec.Struct, frozen=True, kw_only=True):
    ratio: float
    low: float
    high: float


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """One bar of the waterfall. Raises ValueError unless ``count_ns + duration_ns == ns``."""

    key: str
    phase: Phase | None
    role: Role | None
    cause: Cause | None
    ns: int
    count_ns: int
    duration_ns: int

    def __post_init__(self) -> None:
        if self.count_ns + self.duration_ns != self.ns:
            raise ValueError(f"bar {self.key}: {self.count_ns} + {self.duration_ns} != {self.ns}")


class Waterfall(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """The exact way from one arm's mean step to another's. Raises ValueError unless the bars close it."""

    from_: str
    to: str
    from_ns: int
    to_ns: int
    bars: list[Bar]
    residual_flagged: bool = False

    def __post_init__(self) -> None:
        total = sum(b.ns for b in self.bars)
        if total != self.to_ns - self.from_ns:
            raise ValueError(f"bars sum to {total} ns, the difference is {self.to_ns - self.from_ns} ns")


class PredictedRatio(msgspec.Struct, frozen=True, kw_only=True):
    """What the LoRA recording alone says; ``error`` = predicted - measured full / lora, None where not measured."""

    full_over_lora: float
    error: float | None
    low: float | None = None
    high: float | None = None
    disturbed: bool = False  # the profile pass it comes from ran at another speed than the timed steps


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    schema: str = SCHEMA
    workload: str
    device_name: str
    arms: dict[str, ArmResult]
    ratios: list[Ratio]
    noise_floor: NoiseFloor | None
    waterfall: Waterfall | None
    findings: list[Finding]
    predicted: PredictedRatio | None
    interleaved: bool = True
    ideal: Ratio | None = None  # full / frozen: the speed-up of adapters that cost nothing
    recommendation: str | None = None
    notes: list[str] = []
    quality_steps: int | None = None  # of each training run
    iso_limit_bytes: int | None = None
    missed: str | None = None  # what --fail-on found too slow
