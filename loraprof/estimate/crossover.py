"""From which width and from how many tokens on does LoRA pay? And where do the nanoseconds between the arms go?"""

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from math import exp, log
from typing import Final

from msgspec.structs import replace

from loraprof.analysis.costmodel.speedup import crossover_hidden
from loraprof.estimate.step import Question
from loraprof.estimate.work import compute_dtype, gemm_shape, variant, width
from loraprof.model.compare import Bar, Waterfall
from loraprof.model.estimate import ArmEstimate, Settings

GRID: Final = tuple(2**power for power in range(6, 19))  # 64 to 262,144 tokens
BARS: Final = {
    "weight gradients": "wgrad",
    "adapter.down": "adapter path",
    "adapter.up": "adapter path",
    "adapter.elementwise": "adapter path",
    "host": "waiting for the host",
    "comm": "communication",
    "accumulation": "gradient accumulation",
}


def crossover_width(question: Question) -> float | None:
    """d* = (c / 2) x effective FLOP/s over effective B/s, features; None for a variant the cost model lacks."""
    chosen, values, settings = variant(question.settings), question.values(), question.settings
    peak = question.gpu.peak(compute_dtype(settings)) or question.gpu.peak("float32")
    if chosen is None or peak is None or not question.gpu.dram_bytes_per_s:
        return None
    rho = peak * values[gemm_shape(settings, 8)] / (question.gpu.dram_bytes_per_s * values["elementwise"])
    return crossover_hidden(chosen, rho, settings.checkpointing) * (2 if width(settings) == 4 else 1)


def pays(question: Question) -> list[tuple[int | None, int | None]]:
    """Ranges of tokens per micro-batch within which LoRA is faster; a range open at an end of the grid has None."""
    logs = [(tokens, log(_speedup(question, tokens))) for tokens in GRID]
    crossings = [
        exp(log(a) + (log(b) - log(a)) * at / (at - after))
        for (a, at), (b, after) in pairwise(logs)
        if (at > 0) != (after > 0)
    ]
    edges: list[int | None] = [round(tokens) for tokens in crossings]
    if logs[0][1] > 0:
        edges.insert(0, None)
    if logs[-1][1] > 0:
        edges.append(None)
    return list(zip(edges[::2], edges[1::2], strict=True))


def _speedup(question: Question, tokens: int) -> float:
    at = replace(question, settings=with_tokens(question.settings, tokens))
    return at.seconds("full") / at.seconds("lora")


def with_tokens(settings: Settings, tokens: int) -> Settings:
    """As many sequences of the given length as there are tokens for, or one short one."""
    batch = max(1, tokens // settings.seq)
    return replace(settings, batch=batch, seq=tokens // batch)


def waterfall(arms: Mapping[str, ArmEstimate]) -> Waterfall:
    """From full fine-tuning to LoRA, by role; the bars close it exactly."""
    sums = Counter[str]()
    for sign, arm in ((-1, arms["full"]), (1, arms["lora"])):
        for row in arm.rows:
            sums[BARS.get(row.role, row.role)] += sign * row.ns
    bars = [
        Bar(key=key, phase=None, role=None, cause=None, ns=ns, count_ns=ns, duration_ns=0)
        for key, ns in sums.items()
        if ns
    ]
    return Waterfall(from_="full", to="lora", from_ns=arms["full"].step_ns, to_ns=arms["lora"].step_ns, bars=bars)
