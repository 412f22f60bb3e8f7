"""A hand-written comparison with plausible figures: what the renderers' tests show."""

import msgspec
from sample_report import findings

from loraprof.model import compare as c
from loraprof.model.vocabulary import Cause, Phase, Role


def _arm(median_ns: int, peak_gib: float, trainable: int) -> c.ArmResult:
    return c.ArmResult(
        median_ns=median_ns,
        mean_ns=median_ns + 210_000,
        low_ns=median_ns - 900_000,
        high_ns=median_ns + 1_100_000,
        steps=60,
        tokens_per_s=8_192 / median_ns * 1e9,
        peak_bytes=int(peak_gib * 2**30),
        trainable=trainable,
        energy_j_per_step=median_ns * 6e-7,
    )


def _bar(phase: Phase | None, role: Role | None, cause: Cause | None, ns: int, count_ns: int) -> c.Bar:
    key = "/".join(word for word in (phase, role, cause) if word)
    return c.Bar(key=key, phase=phase, role=role, cause=cause, ns=ns, count_ns=count_ns, duration_ns=ns - count_ns)


def comparison() -> c.Comparison:
    """Full, frozen and LoRA arms of one workload, one arm out of memory."""
    bars = [
        _bar("backward", "base.linear", None, -98_204_118, -97_000_000),
        _bar("optimizer", "optimizer", None, -74_310_220, 0),
        _bar("optimizer", "grad_clip", None, -11_902_330, -1_000_000),
        _bar("forward", "adapter.elementwise", None, 17_402_880, 17_402_880),
        _bar("backward", "adapter.elementwise", None, 26_114_432, 26_114_432),
        _bar("forward", "adapter.down", None, 6_120_512, 6_120_512),
        _bar("backward", "adapter.up", None, 12_210_880, 12_210_880),
        _bar("forward", "adapter.elementwise", "python", 6_402_117, 6_000_000),
        _bar("backward", "adapter.down", "framework", 3_180_004, 3_180_004),
        _bar("forward", "norm", None, 40_210, 0),
    ]
    named = sum(b.ns for b in bars)
    from_ns, to_ns = 408_230_000, 309_622_345
    residual = to_ns - from_ns - named
    bars.append(c.Bar(key="residual", phase=None, role=None, cause=None, ns=residual, count_ns=0, duration_ns=residual))
    return c.Comparison(
        workload="llama-3-8b",
        device_name="NVIDIA H100 80GB HBM3",
        arms={
            "full": _arm(408_020_000, 78.2, 8_030_000_000),
            "frozen": _arm(222_900_000, 41.0, 0),
            "lora": c.ArmResult(
                **msgspec.structs.asdict(_arm(309_412_345, 57.0, 41_943_040))
                | {
                    "initial_loss": [11.77, 11.78, 11.76],
                    "final_loss": [2.104, None, 2.177],
                    "iso_batch": 6,
                    "iso_tokens_per_s": 26_912.4,
                    "iso_low": 26_701.3,
                    "iso_high": 27_020.9,
                    "iso_peak_bytes": int(78.1 * 2**30),
                }
            ),
            "dora": c.ArmResult(status="oom", reason="78.9 GiB wanted, 79.1 GiB there, 3.2 GiB used by others"),
        },
        ratios=[
            c.Ratio(of="frozen", to="full", ratio=0.5463, low=0.5441, high=0.5490, verdict="faster"),
            c.Ratio(of="lora", to="full", ratio=0.7583, low=0.7551, high=0.7622, verdict="faster"),
        ],
        noise_floor=c.NoiseFloor(ratio=1.0008, low=0.9989, high=1.0031),
        waterfall=c.Waterfall(from_="full", to="lora", from_ns=from_ns, to_ns=to_ns, bars=bars),
        findings=findings()[:1],
        predicted=c.PredictedRatio(full_over_lora=1.3127, low=1.26, high=1.37, error=-0.0046),
        ideal=c.Ratio(of="full", to="frozen", ratio=1.8305, low=1.8215, high=1.8379, verdict="slower"),
        quality_steps=60,
        iso_limit_bytes=80 * 2**30,
        recommendation="Keep LoRA, and pass autocast_adapter_dtype=False: 1.14x more is predicted.",
        notes=["one arm could not run"],
    )
