"""Made-up results of the GPU suite: one of every part, all limits met unless a test changes something."""

from typing import Any

import msgspec

from benchmarks.gpu import results as r
from loraprof.model.recording import Calibration, CopyRate, GemmRate
from loraprof.model.report import NvmlReport
from loraprof.model.selftest import Row, SelfTest

MS = 1_000_000


def recorded(**changes: Any) -> r.Recorded:
    """A LoRA step of 100 ms; predicted: full 130 ms, frozen 80 ms."""
    nvml = NvmlReport(samples=50, energy_j_per_step=61.2, power_w=612.0, tensor_active=0.41, dram_active=0.52)
    made = r.Recorded(
        step_ns=100 * MS, inflation=1.2, predicted_full_ns=130 * MS, predicted_frozen_ns=80 * MS,
        adapter_busy_ns=19 * MS, adapter_idle_ns=2 * MS,
        closure_ok=True, closure_notes=[], attributed=0.9991, exact=True,
        findings=[
            r.Gain(id="L1", severity="major", ns=10 * MS, speedup=1.111, low=1.05, high=1.15),
            r.Gain(id="L4", severity="minor", ns=4 * MS, speedup=1.042, low=1.03, high=1.05),
            r.Gain(id="G2", severity="info"),
        ],
        hook_share=0.00002, flops=25 * 10**12, min_bytes=150 * 10**9, l2_bytes=None, tensor_model=0.40, dram_model=0.45,
        nvml=nvml, shows="LoRA is 1.30 times as fast as full fine-tuning would be.", gpu="h100-sxm",
        recording="recordings/x.loraprof", recording_bytes=2_000_000,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def model(**times_ms: float) -> r.Model:
    """Arms by their times."""
    arms = {name.replace("_", "-"): r.Arm(median_ns=round(ms * MS), steps=80) for name, ms in times_ms.items()}
    return r.Model(
        workload="tinyllama-1.1b",
        options={},
        tokens_per_step=2048,
        arms=arms,
        noise=0.002,
        notes=[],
        recorded=recorded(),
    )


def part(name: str, result: Any, **changes: Any) -> r.PartResult:
    made = r.PartResult(
        part=name, status="ok", device="cuda", size="full", seconds=10.0, created="2026-03-04T05:06:07+00:00",
        result=msgspec.Raw(msgspec.json.encode(result)),
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def everything() -> dict[str, r.PartResult]:
    """Some parts failed or were not here."""
    session = r.Session(
        expected=600, recorded=600, ok=True,
        launches_without_kernel=0, kernels_without_launch=0, negative_latency=0, zero_timestamps=0,
    )  # fmt: skip
    row = Row(
        plant="sleep", what="idle, python", unit="ns", relation="equal", planted=60, reported=60, off=0.0, ok=True
    )
    calibration = Calibration(
        gemm=[GemmRate(m=1, n=1, k=1, dtype="bfloat16", ns=1)], copy=[CopyRate(bytes=2, ns=1)], launch_floor_ns=5000
    )
    layers = [
        r.Layer(hidden=d, tokens=t, full_ns=1000, variants=dict.fromkeys(("V1", "V5"), 1100) | {"V1": v1})
        for t in (256, 16384)
        for d, v1 in ((1024, 1500), (8192, 800))
    ]
    found = {
        "facts": r.Facts(device_name="NVIDIA H100 80GB HBM3", checks=[], calibration=calibration, notes=[]),
        "selftest": SelfTest(
            device="cuda:0", device_name="NVIDIA H100", ok=False,
            rows=[row, msgspec.structs.replace(row, plant="sync", what="idle, sync", reported=90, off=0.5, ok=False)],
            skipped=[],
        ),
        "tinyllama-512": model(full=131, frozen=81, lora=100),
        "gpt2-xl-512": model(full=150, frozen=81, lora=100),
        "roofs": r.Roofs(
            gemm_side=8192, gemm_roof_flops_per_s=7.5e14, gemm_best_flops_per_s=7.7e14,
            copy_roof_bytes_per_s=2.8e12, copy_best_bytes_per_s=3.0e12,
        ),
        "kernels": r.KernelTimes(
            kernels=[r.KernelTime(name="A", launches=100, unprofiled_ns=6000, traced_ns=6060, kernel_ns=5100)]
        ),
        "sessions": r.Sessions(
            pause_s=15,
            sessions=[session, msgspec.structs.replace(session, recorded=598, ok=False, launches_without_kernel=2)],
        ),
        "main-job": r.MainJob(workload="llama-3.2-1b", wall_s=71.2, recorded=recorded()),
        "linear": r.Linear(
            rank=16, balance=243.1, layers=layers, skipped=[],
            crossovers=[
                r.Crossover(variant="V1", predicted=3890.0, measured=4012.3),
                r.Crossover(variant="V5", predicted=10454.4, measured=None),
            ],
        ),
        "remedies": model(lora=100, lora_fused=90.5, lora_bf16=97),
        "noise": r.Noise(ratio=1.0003, low=0.9988, high=1.0011, steps=80, median_ns=100 * MS),
        "counters": r.Counters(
            kernels=[
                r.Counted(
                    name="gemm", role="base.linear", module="m", ns=95_000, dram_bytes=30 << 20, min_bytes=20 << 20
                )
            ],
            matched=400, of=412,
        ),
    }  # fmt: skip
    made = {name: part(name, result) for name, result in found.items()}
    made["llama-3-8b"] = part("llama-3-8b", None, status="failed", reason="it was stopped after 480 s")
    return made
