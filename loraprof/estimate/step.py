"""The arms' steps on one GPU, and how far the rates' spread moves them."""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from math import exp, log, sqrt
from typing import Final

from msgspec import Struct

from loraprof.analysis.costmodel.distributed import ddp_bytes, sharded_bytes
from loraprof.estimate.architecture import Architecture
from loraprof.estimate.block import step_work
from loraprof.estimate.memory import memory
from loraprof.estimate.schedule import Load, Pace, loads, step_rows, step_seconds, used
from loraprof.estimate.work import Work, parameter_width, trainable, trained_width
from loraprof.model.estimate import ArmEstimate, Rate, Row, Settings, Span
from loraprof.model.gpu import GpuSpec
from loraprof.model.vocabulary import Phase

ARMS: Final = ("full", "frozen", "lora")
MODEL: Final = "model"  # the rate that stands for what the rates cannot explain
RATIOS: Final = {"speedup": ("full", "lora"), "ideal": ("full", "frozen")}


class Question(Struct, frozen=True):
    """One model and setting on one GPU."""

    architecture: Architecture
    settings: Settings
    gpu: GpuSpec
    rates: Mapping[str, Rate]

    @property
    def host_rate(self) -> str:
        return "compiled_host_us" if self.settings.kernels == "compiled" else "host_us"

    def works(self, arm: str) -> tuple[Work, ...]:
        return _works(self.architecture, self.settings, arm)

    def loads(self, arm: str) -> list[Load]:
        return loads(self.works(arm), self.gpu)

    def values(self, moved: Mapping[str, float] | None = None) -> dict[str, float]:
        """The rates' values, the host's as the settings say; ``moved`` multiplies those it names."""
        moved = moved or {}
        found = {shape: rate.value * moved.get(shape, 1.0) for shape, rate in self.rates.items()}
        if self.settings.host_us is not None:
            found[self.host_rate] = self.settings.host_us
        return found

    def pace(self, arm: str, values: Mapping[str, float]) -> Pace:
        return Pace(values[self.host_rate] * 1e-6, self._collectives(arm, values["link"]), self.settings.accumulate)

    def _collectives(self, arm: str, link: float) -> dict[Phase, float]:
        """Seconds of gradient reduction and weight gathers per step and phase."""
        settings, model = self.settings, self.architecture
        gradients = trainable(model, settings, arm) * trained_width(settings, arm)
        if settings.gpus < 2 or settings.parallel == "none":
            return {}
        if settings.parallel == "ddp":
            return {"backward": ddp_bytes(gradients, settings.gpus) / link}
        weights = model.parameters * parameter_width(settings)
        gather = sharded_bytes(weights, 0, settings.gpus) / 2 / link * settings.accumulate
        return {"forward": gather, "backward": gather + sharded_bytes(0, gradients, settings.gpus) / link}

    def rows(self, arm: str, moved: Mapping[str, float] | None = None) -> list[Row]:
        """The arm's step by phase and role."""
        values = self.values(moved)
        return step_rows(self.works(arm), self.loads(arm), values, self.pace(arm, values))

    def seconds(self, arm: str, moved: Mapping[str, float] | None = None) -> float:
        values = self.values(moved)
        return step_seconds(self.loads(arm), values, self.pace(arm, values))

    def used(self) -> list[Rate]:
        """The rates that some arm's step depends on."""
        shapes = set().union(*(used(self.loads(arm)) for arm in ARMS))
        shapes |= {self.host_rate} if self.settings.host_us is None else set()
        shapes |= {"link"} if self.settings.gpus > 1 else set()
        return [self.rates[shape] for shape in sorted(shapes | {MODEL})]


@cache
def _works(architecture: Architecture, settings: Settings, arm: str) -> tuple[Work, ...]:
    return tuple(step_work(architecture, settings, arm))


Moved = Mapping[str, float]


def spans(question: Question) -> dict[str, Span]:
    """Seconds of every arm and the ratios "speedup" and "ideal", with intervals."""
    parts = {arm: question.loads(arm) for arm in ARMS}

    def quantities(moved: Moved) -> dict[str, float]:
        values = question.values(moved)
        found = {arm: step_seconds(parts[arm], values, question.pace(arm, values)) for arm in ARMS}
        return found | {name: found[over] / found[under] for name, (over, under) in RATIOS.items()}

    return spread_of(quantities, question.used())


def ratio_span(of: Question, of_arm: str, to: Question, to_arm: str) -> Span:
    """Time of one arm over that of another, perhaps under other settings, on one GPU."""
    over, under = of.loads(of_arm), to.loads(to_arm)

    def quantities(moved: Moved) -> dict[str, float]:
        first, second = of.values(moved), to.values(moved)
        top = step_seconds(over, first, of.pace(of_arm, first))
        return {"ratio": top / step_seconds(under, second, to.pace(to_arm, second))}

    return spread_of(quantities, [*of.used(), *to.used()])["ratio"]


def spread_of(quantities: Callable[[Moved], dict[str, float]], rates: Iterable[Rate]) -> dict[str, Span]:
    """``quantities`` with an interval each: every rate is moved to its ends, one at a time, and the logarithms of what
    that does to a quantity are added in quadrature, upwards and downwards apart. The model's own error moves all."""
    at = quantities({})
    up, down = dict.fromkeys(at, 0.0), dict.fromkeys(at, 0.0)
    for rate in {rate.shape: rate for rate in rates}.values():
        for end in (rate.low, rate.high):
            factor = end / rate.value
            moved = quantities({rate.shape: factor})
            for name, value in at.items():
                change = log(factor) if rate.shape == MODEL else log(moved[name] / value)
                (up if change > 0 else down)[name] += change * change
    return {
        name: Span(value=value, low=value * exp(-sqrt(down[name])), high=value * exp(sqrt(up[name])))
        for name, value in at.items()
    }


def arm_estimate(question: Question, arm: str, span: Span) -> ArmEstimate:
    """The arm as it is shown."""
    settings, rows = question.settings, question.rows(arm)
    step_ns = sum(row.ns for row in rows)
    return ArmEstimate(
        step_ns=step_ns,
        low_ns=round(span.low * 1e9),
        high_ns=round(span.high * 1e9),
        forward_ns=_phase(rows, "forward"),
        backward_ns=_phase(rows, "backward", "recompute"),
        optimizer_ns=_phase(rows, "optimizer"),
        tokens_per_s=settings.tokens * settings.accumulate / step_ns * 1e9,
        trainable=trainable(question.architecture, settings, arm),
        launches=sum(row.kernels for row in rows),
        rows=rows,
        memory=memory(question.architecture, settings, arm, question.gpu),
    )


def _phase(rows: list[Row], *phases: str) -> int:
    return sum(row.ns for row in rows if row.phase in phases)
