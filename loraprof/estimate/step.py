"""The arms' steps on one GPU, and how far the rates' spread moves them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from math import exp, log, sqrt
from typing import Final

from loraprof.analysis.costmodel.distributed import ddp_bytes, sharded_bytes
from loraprof.estimate.architecture import Architecture
from loraprof.estimate.block import step_work
from loraprof.estimate.memory import memory
from loraprof.estimate.schedule import Load, Pace, loads, step_rows, step_seconds, used
from loraprof.estimate.work import Work, parameter_width, trainable, trained_width
from loraprof.model.estimate import ArmEstimate, Phase, Rate, Row, Settings, Span
from loraprof.model.gpu import GpuSpec

ARMS: Final = ("full", "frozen", "lora")
RATIOS: Final = {"speedup": ("full", "lora"), "ideal": ("full", "frozen")}


@dataclass(frozen=True, slots=True)
class Question:
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

    def values(self) -> dict[str, float]:
        """The rates' middle values, the host's as the settings say."""
        found = {shape: rate.value for shape, rate in self.rates.items()}
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

    def rows(self, arm: str) -> list[Row]:
        """The arm's step at the middle values."""
        values = self.values()
        return step_rows(self.works(arm), self.loads(arm), values, self.pace(arm, values))

    def seconds(self, arm: str) -> float:
        values = self.values()
        return step_seconds(self.loads(arm), values, self.pace(arm, values))

    def spread(self) -> Iterator[tuple[Rate, float]]:
        """Every rate the step depends on, at its low and at its high end."""
        shapes = set().union(*(used(self.loads(arm)) for arm in ARMS))
        shapes |= {self.host_rate} if self.settings.host_us is None else set()
        shapes |= {"link"} if self.settings.gpus > 1 else set()
        for shape in sorted(shapes):
            rate = self.rates[shape]
            yield from ((rate, end) for end in (rate.low, rate.high) if end != rate.value)


@cache
def _works(architecture: Architecture, settings: Settings, arm: str) -> tuple[Work, ...]:
    return tuple(step_work(architecture, settings, arm))


def spans(question: Question) -> dict[str, Span]:
    """Seconds of every arm and the ratios "speedup" and "ideal", with intervals."""
    parts = {arm: question.loads(arm) for arm in ARMS}

    def quantities(values: Mapping[str, float]) -> dict[str, float]:
        found = {arm: step_seconds(parts[arm], values, question.pace(arm, values)) for arm in ARMS}
        return found | {name: found[over] / found[under] for name, (over, under) in RATIOS.items()}

    return spread_of(quantities, question.values(), question.spread())


def ratio_span(of: Question, of_arm: str, to: Question, to_arm: str) -> Span:
    """Time of one arm over that of another, perhaps under other settings, on one GPU."""
    over, under = of.loads(of_arm), to.loads(to_arm)

    def quantities(values: Mapping[str, float]) -> dict[str, float]:
        top = step_seconds(over, values, of.pace(of_arm, values))
        return {"ratio": top / step_seconds(under, values, to.pace(to_arm, values))}

    ends = {(rate.shape, end): (rate, end) for one in (of, to) for rate, end in one.spread()}
    return spread_of(quantities, of.values() | to.values(), ends.values())["ratio"]


def spread_of(
    quantities: Callable[[Mapping[str, float]], dict[str, float]],
    middle: Mapping[str, float],
    ends: Iterable[tuple[Rate, float]],
) -> dict[str, Span]:
    """Each rate is moved to its ends, one at a time; the logarithms of what that does to a quantity are added in
    quadrature, upwards and downwards apart."""
    at = quantities(middle)
    up, down = dict.fromkeys(at, 0.0), dict.fromkeys(at, 0.0)
    for rate, end in ends:
        for name, value in quantities({**middle, rate.shape: end}).items():
            change = log(value / at[name])
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
