"""A recording of a device with round rates."""

from typing import Any

from msgspec.structs import replace
from recordings import recording

from loraprof.analysis.limits.rates import Rates
from loraprof.model.recording import (
    AdapterSite,
    Calibration,
    CopyRate,
    GemmRate,
    GradientCost,
    ModuleInfo,
    ParameterInfo,
    Recording,
    TrainingCost,
)

UNIT = Calibration(gemm=[GemmRate(m=1, n=1, k=1, dtype="float32", ns=1)], copy=[CopyRate(bytes=100, ns=1000)])
RATES = Rates(UNIT)
COST = TrainingCost(
    parameters=1, sampled=1, optimizer_ns=307, clip_ns=53, accumulate_ns=29, reread_ns=11,
    gradients=[GradientCost(module=0, calls=3, weight_ns=101, input_ns=97)],
)  # fmt: skip
SITE = AdapterSite(path="a", kind="lora", rank=2, in_features=5, out_features=7, dtype="float32", base_dtype="float32")


def made(**changes: Any) -> Recording:
    modules = [ModuleInfo(id=i, path=p, cls="Linear", site=0, part=p) for i, p in enumerate(("base", "down", "up"))]
    weight = ParameterInfo(id=0, name="w", module=0, shape=(7, 5), dtype="float32", trainable=False, device="cpu")
    known: dict[str, Any] = {"modules": modules, "parameters": [weight], "sites": [SITE], "calibration": UNIT}
    found = replace(recording(), **(known | {"training_cost": COST} | changes))
    return replace(found, workload=replace(found.workload, micro_batches=4))
