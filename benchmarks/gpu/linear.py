"""From which hidden size on does LoRA gain? One square linear over hidden sizes, tokens and adapter variants.

Forward and backward of the layer trained whole against the frozen layer with its adapter; the cost model says that
LoRA gains from d* = (c / 2) rho on, where rho is this device's FLOP/s over bytes/s and c the adapter's bytes per token
and feature (loraprof.analysis.costmodel). The graph is that of PEFT's ``Linear.forward``.
"""

import itertools
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks.gpu.results import Crossover, Layer, Linear, Options
from loraprof.analysis.costmodel import VARIANTS, crossover_hidden
from loraprof.analysis.costmodel.variants import Variant
from loraprof.analysis.limits.rates import Rates
from loraprof.capture.device.calibration_cache import cached_calibration
from loraprof.capture.device.kinds import measured as seam
from loraprof.capture.device.stopwatch import median_ns
from loraprof.runs.compare.interleave import is_out_of_memory

RANK: Final = 16
SIX: Final = ("V1", "V2", "V3", "V4", "V5", "V6")
BUDGET_NS: Final = 30_000_000  # per layer
_linear = torch.nn.functional.linear


def run(options: Options) -> Linear:
    device = torch.device(options.device)
    hidden = options.pick((64, 128, 256), (1024, 2048, 4096, 8192), (1024, 1536, 2048, 3072, 4096, 6144, 8192))
    tokens = options.pick((64, 256), (1024, 16384), (256, 1024, 4096, 16384))
    rates = Rates(cached_calibration(device, dtype="bfloat16")[0])
    balance = (rates.gemm_flops_per_s("bfloat16") or 0.0) / (rates.stream_bytes_per_s or 1.0)
    layers, skipped = [], []
    for t in tokens:
        for d in hidden:
            try:
                layers.append(measured(device, d, t))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                skipped.append(f"hidden {d}, {t} tokens: {str(error).splitlines()[0]}")
    most = [layer for layer in layers if layer.tokens == max(tokens)]
    return Linear(
        rank=RANK,
        balance=balance,
        layers=layers,
        crossovers=[
            Crossover(variant=v, predicted=crossover_hidden(v, balance), measured=crossing(most, v)) for v in SIX
        ],
        skipped=skipped,
    )


def measured(device: torch.device, hidden: int, tokens: int) -> Layer:
    """Median times of forward and backward."""
    bf16 = torch.bfloat16
    x = torch.randn(tokens, hidden, device=device, dtype=bf16, requires_grad=True)
    w = torch.randn(hidden, hidden, device=device, dtype=bf16) / math.sqrt(hidden)
    dy = torch.randn(tokens, hidden, device=device, dtype=bf16)
    trained = w.clone().requires_grad_()
    clock = seam(device).time_ns

    def time_of(layer: Callable[[Tensor], Tensor], wanted: list[Tensor]) -> int:
        return median_ns(lambda: torch.autograd.grad(layer(x), [*wanted, x], dy), clock, BUDGET_NS)

    variants = {}
    for name in SIX:
        layer, wanted = adapted(VARIANTS[name], w)
        variants[name] = time_of(layer, wanted)
    return Layer(
        hidden=hidden, tokens=tokens, full_ns=time_of(lambda x: _linear(x, trained), [trained]), variants=variants
    )


def adapted(variant: Variant, w: Tensor) -> tuple[Callable[[Tensor], Tensor], list[Tensor]]:
    """PEFT's ``Linear.forward``, and A and B."""
    wide = variant.input_up or variant.weight_down
    dtype, hidden = torch.float32 if wide else w.dtype, w.shape[0]
    a, b = (torch.randn(s, device=w.device, dtype=dtype).requires_grad_() for s in ((RANK, hidden), (hidden, RANK)))
    context: Callable[[], Any] = nullcontext
    if variant.weight_down:
        context = lambda: torch.autocast(w.device.type, w.dtype)  # noqa: E731

    def layer(x: Tensor) -> Tensor:
        with context():
            base = _linear(x, w)
            inner = x.to(dtype) if variant.input_up else x
            if variant.dropout:
                inner = torch.nn.functional.dropout(inner, 0.1)
            return (base + _linear(_linear(inner, a), b) * 2.0).to(base.dtype)

    return layer, [a, b]


def crossing(layers: list[Layer], variant: str) -> float | None:
    """Hidden size at which the layer takes as long as trained whole, between two of the grid (log-log)."""
    points = sorted((layer.hidden, layer.variants[variant] / layer.full_ns) for layer in layers)
    for (low, slow), (high, fast) in itertools.pairwise(points):
        if slow >= 1 > fast:
            share = math.log(slow) / math.log(slow / fast)
            return math.exp(math.log(low) + share * math.log(high / low))
    return None
