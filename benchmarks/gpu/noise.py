"""The noise floor: one LoRA arm timed against itself, interleaved as ``compare`` does it."""

from statistics import median

from benchmarks.gpu.results import Noise, Options
from benchmarks.gpu.workload import spec_of
from loraprof.capture.device.kinds import measured
from loraprof.comparison.ratios import ratios_of
from loraprof.runs.compare.interleave import StepTimer, interleave
from loraprof.workloads.build import build


def run(options: Options) -> Noise:
    built = build(spec_of(options, "tinyllama-1.1b", {}), "lora")
    budget_ns = options.pick(3, 10, 30) * 10**9
    device = measured(built.device)
    timed = interleave({"lora": built.step}, StepTimer(device), budget_ns, state=device.state)
    _, floor = ratios_of(timed)
    assert floor is not None  # the reference always has its twin
    samples = timed.series["lora"].samples()
    return Noise(
        ratio=floor.ratio, low=floor.low, high=floor.high, steps=len(samples), median_ns=round(median(samples))
    )
