"""The cost model of a LoRA training step: FLOPs, compulsory bytes, launches and time, by formula.

One file per question; every formula names its derivation or paper. Integers are exact counts, floats are
ratios or seconds; rates handed in are effective ones (peak times efficiency).
"""

from loraprof.analysis.costmodel.launches import gemm_counts, launch_table
from loraprof.analysis.costmodel.linear import (
    Pass,
    frozen_bytes,
    frozen_flops,
    full_bytes,
    full_flops,
    lora_extra_bytes,
    lora_extra_flops,
)
from loraprof.analysis.costmodel.speedup import crossover_hidden, ideal_speedup, layer_margin
from loraprof.analysis.costmodel.variants import VARIANTS, detect_variant

__all__ = [
    "VARIANTS",
    "Pass",
    "crossover_hidden",
    "detect_variant",
    "frozen_bytes",
    "frozen_flops",
    "full_bytes",
    "full_flops",
    "gemm_counts",
    "ideal_speedup",
    "launch_table",
    "layer_margin",
    "lora_extra_bytes",
    "lora_extra_flops",
]
