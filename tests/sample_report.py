"""Hand-written reports with plausible figures: what the renderers' tests show."""

from collections.abc import Sequence

import msgspec

from loraprof.model import report as r
from loraprof.model.finding import Evidence, Finding, Gain, RemedyKind, RemedyReport
from loraprof.model.vocabulary import Cause, Class, Phase, Role

MEDIAN_NS = 309_412_345

# (phase, role, busy ns, events, gap ns before it, cause)
_ROWS: Sequence[tuple[Phase, Role, int, int, int, Cause]] = (
    ("forward", "embedding", 412_000, 2, 310_220, "data"),
    ("forward", "base.linear", 52_310_400, 224, 1_204_118, "launch_latency"),
    ("forward", "adapter.down", 6_120_512, 224, 2_480_300, "framework"),
    ("forward", "adapter.up", 5_874_080, 224, 1_930_040, "framework"),
    ("forward", "adapter.elementwise", 17_402_880, 896, 6_402_117, "python"),
    ("forward", "attention", 14_022_176, 96, 402_113, "launch_latency"),
    ("forward", "position", 3_120_440, 256, 880_102, "python"),
    ("forward", "norm", 4_801_312, 390, 1_014_223, "launch_api"),
    ("forward", "activation", 5_110_048, 64, 210_004, "launch_api"),
    ("forward", "residual", 2_212_224, 64, 98_113, "launch_latency"),
    ("forward", "head", 6_820_160, 1, 20_100, "turnaround"),
    ("forward", "loss", 3_402_208, 7, 1_320_450, "sync"),
    ("backward", "loss", 2_910_112, 4, 44_100, "queued"),
    ("backward", "head", 6_904_032, 1, 18_011, "turnaround"),
    ("backward", "base.linear", 51_874_304, 224, 610_220, "turnaround"),
    ("backward", "adapter.down", 12_940_672, 448, 1_180_004, "framework"),
    ("backward", "adapter.up", 12_210_880, 448, 1_022_117, "framework"),
    ("backward", "adapter.elementwise", 26_114_432, 1_120, 2_204_118, "launch_api"),
    ("backward", "attention", 33_418_240, 128, 204_442, "launch_latency"),
    ("backward", "position", 3_310_112, 256, 120_013, "turnaround"),
    ("backward", "norm", 9_202_016, 455, 302_212, "framework"),
    ("backward", "activation", 7_604_480, 96, 88_404, "turnaround"),
    ("backward", "residual", 2_118_016, 64, 30_021, "turnaround"),
    ("optimizer", "grad_clip", 402_880, 12, 1_902_330, "python"),
    ("optimizer", "optimizer", 910_304, 28, 2_410_551, "python"),
    ("other", "copy", 61_120, 2, 480_114, "data"),
    ("other", "other", 0, 0, 211_006, "unknown"),
)


def _partition() -> list[r.Part]:
    parts = []
    for phase, role, busy_ns, events, idle_ns, cause in _ROWS:
        if busy_ns:
            class_: Class = "copy" if role == "copy" else "compute"
            parts.append(
                r.Part(
                    kind="busy",
                    class_=class_,
                    cause=None,
                    phase=phase,
                    role=role,
                    ns=busy_ns,
                    events=events,
                )
            )
        gaps = max(1, events // 3)
        parts.append(r.Part(kind="idle", class_=None, cause=cause, phase=phase, role=role, ns=idle_ns, events=gaps))
    return parts


def _unprofiled(wall_ns: int) -> r.UnprofiledStep:
    """The same busy time; idle time is what it leaves."""
    parts = _partition()
    busy, idle = ([p for p in parts if p.kind == kind] for kind in ("busy", "idle"))
    left = wall_ns - sum(p.ns for p in busy)
    scale = left / sum(p.ns for p in idle)
    waits = [msgspec.structs.replace(p, ns=int(p.ns * scale)) for p in idle]
    waits[0] = msgspec.structs.replace(waits[0], ns=waits[0].ns + left - sum(p.ns for p in waits))
    return r.UnprofiledStep(wall_ns=wall_ns, partition=[*busy, *waits], basis="replayed", gate_error=0.021)


def _step(name: str, extra_ns: int = 0) -> r.Step:
    partition = _partition()
    if extra_ns:
        partition.append(
            r.Part(
                kind="idle",
                class_=None,
                cause="python",
                phase="other",
                role="other",
                ns=extra_ns,
                events=1,
            )
        )
    return r.Step(
        name=name,
        wall_ns=sum(p.ns for p in partition),
        partition=partition,
        overlap=[r.Overlap(over="compute", under="copy", ns=18_240)],
        launches=r.Launches(count=5_732, api_median_ns=4_820, latency_floor_ns=3_104, turnaround_median_ns=1_088),
    )


_GEMM = "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x256x64_warpgroupsize2x1x1_execute_kernel__cublas"
_CAST = (
    "void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda(at::TensorIteratorBase&)"
    "::{lambda()#3}::operator()() const::{lambda(float)#1}, std::array<char*, 2ul>, 4>(int, float)"
)
_ADD = (
    "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>, "
    "std::array<char*, 3ul> >(int, at::native::CUDAFunctor_add<float>, std::array<char*, 3ul>)"
)
HOSTILE = "evil|<script>alert('x')</script>&`k`\x1b[31m"

# (name, role, phase, count, ns, FLOPs, bytes, roof ns, bound)
_PRODUCTS: Sequence[tuple[Role, int]] = (("adapter.down", 19_061_888), ("adapter.up", 18_082_816))
_KERNELS: Sequence[tuple[str, Role, Phase, int, int, int | None, int | None, int | None, r.Bound]] = (
    (_GEMM, "base.linear", "forward", 224, 52_310_400, 28_600_000_000_000, 18 * 10**9, 41_800_000, "compute"),
    (_GEMM, "base.linear", "backward", 224, 51_874_304, 28_600_000_000_000, 18 * 10**9, 41_800_000, "compute"),
    (_CAST, "adapter.elementwise", "forward", 448, 9_802_112, 0, 27 * 10**9, 8_900_000, "memory"),
    (_CAST, "adapter.elementwise", "backward", 672, 14_202_880, 0, 40 * 10**9, 13_100_000, "memory"),
    (_ADD, "adapter.elementwise", "backward", 448, 11_911_552, 0, 33 * 10**9, 10_900_000, "memory"),
    ("flash_bwd_dq_dk_dv_kernel", "attention", "backward", 32, 30_118_240, None, None, None, "unknown"),
    (
        "sgemm_32x32x32_NT_vec",
        "adapter.up",
        "backward",
        448,
        12_210_880,
        22 * 10**10,
        6 * 10**9,
        2_100_000,
        "latency",
    ),
    (HOSTILE, "norm", "forward", 64, 804_000, 0, 2_400_000_000, 850_000, "memory"),
)


def _kernels() -> list[r.Kernel]:
    return [
        r.Kernel(
            name=name,
            role=role,
            phase=phase,
            module="model.layers.0.self_attn.q_proj",
            count=count,
            total_ns=total_ns,
            flops=flops,
            min_bytes=min_bytes,
            roof_ns=roof_ns,
            bound=bound,
            note="L2-assisted" if roof_ns and roof_ns > total_ns else None,
        )
        for name, role, phase, count, total_ns, flops, min_bytes, roof_ns, bound in _KERNELS
    ]


ARMS = {"L2": "lora-bf16", "L1": "lora-fused"}


def findings() -> list[Finding]:
    kinds: tuple[RemedyKind, ...] = ("numerics", "same_training", "same_training")
    return [
        msgspec.structs.replace(
            f, remedies=[RemedyReport(kind=kind, stack="peft", text=f.remedy, arm=ARMS.get(f.id), gain=f.gain)]
        )
        for f, kind in zip(_findings(), kinds, strict=True)
    ]


def _findings() -> list[Finding]:
    return [
        Finding(
            id="L2",
            severity="major",
            title="fp32 adapters on a bf16 base: every adapter call casts up and down",
            evidence=[
                Evidence(what="adapter dtype", value="float32", unit=""),
                Evidence(what="adapter GEMM time in fp32", value=37_146_144, unit="ns"),
                Evidence(what="bytes against the bf16 path", value=2.31, unit="ratio"),
            ],
            remedy="pass autocast_adapter_dtype=False to get_peft_model, or run the step under torch.autocast",
            gain=Gain(ns=38_400_000, speedup=1.135, low=1.092, high=1.171, basis="model"),
            see=["huggingface/peft#1706", "kohya-ss/sd-scripts#1156"],
        ),
        Finding(
            id="L1",
            severity="minor",
            title="Scale, add and casts take more of the adapter than its GEMMs",
            evidence=[
                Evidence(what="share of the adapter", value=0.539, unit="share"),
                Evidence(what="achieved bandwidth", value=2.41e12, unit="bytes/s"),
                Evidence(what="threshold", value=0.3, unit="share"),
            ],
            remedy="a fused LoRA kernel (axolotl, Unsloth), or torch.compile after get_peft_model",
            gain=Gain(ns=21_000_000, speedup=1.069, low=1.031, high=1.102, basis="replay"),
            see=["arXiv 2510.00206"],
        ),
        Finding(
            id="N2",
            severity="info",
            title="The tensor pipe is idle most of the time",
            evidence=[Evidence(what="tensor pipe active", value=None, unit="share")],
            remedy="see L2",
        ),
    ]


def report() -> r.Report:
    """A GPU recording with nearly everything known."""
    steps = [_step("ProfilerStep#3"), _step("ProfilerStep#4", 1_204_000), _step("ProfilerStep#5", 3_310_000)]
    return r.Report(
        source=r.Source(
            path="llama-3-8b-20260103-101500.loraprof",
            kind="recording",
            device="cuda",
            device_name="NVIDIA H100 80GB HBM3",
            torch="2.13.0+cu130",
            ranks=1,
            workload="llama-3-8b",
            target="llama-3-8b",
        ),
        verdict=r.Verdict(
            sentence="LoRA is predicted to be 1.31x faster than full fine-tuning here, of at most 1.62x; "
            "fp32 adapters on a bf16 base (L2) cost most of the rest.",
            speedup_vs_full=1.3127,
            speedup_low=1.24,
            speedup_high=1.38,
            basis="predicted",
            ideal_speedup=1.62,
            limiting_cause="L2",
        ),
        timing=r.TimingReport(
            unprofiled=r.Unprofiled(median_ns=MEDIAN_NS, low_ns=308_901_200, high_ns=310_122_800, steps=30),
            profiled_ns=steps[1].wall_ns,
            inflation=steps[1].wall_ns / 309_412_345,
            tokens_per_step=8_192,
        ),
        reported_step="ProfilerStep#4",
        steps=steps,
        kernels=_kernels(),
        modules=[
            r.ModuleRow(
                path="model.layers.0.self_attn.q_proj",
                role="base.linear",
                busy_ns=420_118,
                idle_ns=20_110,
                launches=2,
            ),
            r.ModuleRow(
                path="model.layers.0.self_attn.q_proj",
                role="adapter.down",
                busy_ns=98_420,
                idle_ns=31_402,
                launches=6,
            ),
            r.ModuleRow(path="<optimizer>", role="optimizer", busy_ns=910_304, idle_ns=2_410_551, launches=28),
        ],
        adapter=r.Adapter(
            modules=224,
            rank=16,
            dtype="float32",
            base_dtype="bfloat16",
            busy_ns=80_663_456,
            idle_ns=15_218_696,
            launches=3_360,
            min_bytes=142_000_000_000,
            flops=5_400_000_000_000,
            savings=r.Savings(wgrad_ns=98_200_000, optimizer_ns=74_300_000, grad_clip_ns=11_900_000),
            predicted_full_ns=406_200_000,
            predicted_frozen_ns=221_700_000,
            predicted_full_interval=r.Interval(low=383_700_000, high=427_000_000),
            predicted_frozen_interval=r.Interval(low=212_400_000, high=231_100_000),
            added_ns=MEDIAN_NS - 221_700_000,
            variant="V5",
        ),
        unprofiled=_unprofiled(MEDIAN_NS),
        ceilings=r.Ceilings(
            gemm_flops_per_s=6.84e14,
            copy_bytes_per_s=3.03e12,
            launch_floor_ns=3_104,
            turnaround_ns=1_088,
            basis="measured",
        ),
        replay=r.Replay(gate_error=0.021, host_factor=0.83, accepted=True),
        probes=r.Probes(enqueue_ns=201_300_000),
        memory=r.MemoryReport(
            peak_bytes=61_203_283_968,
            reserved_bytes=64_424_509_440,
            allocator_retries=0,
            weights_bytes=16_060_522_496,
            gradients_bytes=167_772_160,
            optimizer_bytes=335_544_320,
            activations_bytes=44_639_444_992,
        ),
        nvml=r.NvmlReport(
            samples=412,
            energy_j_per_step=181.4,
            power_w=586.2,
            power_limit_w=700.0,
            sm_clock_mhz=1_912.0,
            sm_clock_max_mhz=1_980,
            utilization=0.97,
            throttle=[],
            tensor_active=0.31,
            dram_active=0.44,
        ),
        findings=findings(),
        closure=r.Closure(
            ok=True,
            unattributed_ns=211_006,
            attribution_disagreements=0,
            notes=["memory.reserved_bytes counts the allocator's cache"],
        ),
        traffic=[
            r.Traffic(
                role="adapter.elementwise",
                min_bytes=75_000_000_000,
                l2_bytes=41_000_000_000,
                busy_ns=43_517_312,
                covered_ns=43_517_312,
                bytes_per_s=1.7e12,
                share=75 / 136,
            ),
            *(
                r.Traffic(
                    role=role,
                    min_bytes=12_500_000_000,
                    l2_bytes=6_000_000_000,
                    busy_ns=busy_ns,
                    covered_ns=busy_ns,
                    bytes_per_s=6.6e11,
                    share=12.5 / 136,
                )
                for role, busy_ns in _PRODUCTS
            ),
            r.Traffic(
                role="base.linear",
                min_bytes=36_000_000_000,
                l2_bytes=None,
                busy_ns=104_184_704,
                covered_ns=104_184_704,
                bytes_per_s=3.5e11,
                share=36 / 136,
            ),
        ],
    )


def bare_report() -> r.Report:
    """A foreign CPU trace: nearly everything is unknown, and the notes say why."""
    rows = [
        r.Part(
            kind="busy",
            class_="compute",
            cause=None,
            phase="forward",
            role="base.linear",
            ns=7_001,
            events=3,
        ),
        r.Part(kind="idle", class_=None, cause="python", phase="forward", role="base.linear", ns=2_999, events=2),
    ]
    step = r.Step(name="ProfilerStep#0", wall_ns=10_000, partition=rows, overlap=[], launches=None)
    return r.Report(
        source=r.Source(path="trace.json", kind="trace", device="cpu", device_name=None, torch=None, ranks=1),
        verdict=r.Verdict(sentence="70.0 % of the step is base linears; nothing is known about an adapter."),
        timing=r.TimingReport(unprofiled=None, profiled_ns=10_000, inflation=None, tokens_per_step=None),
        reported_step="ProfilerStep#0",
        steps=[step],
        kernels=[r.Kernel(name="aten::mm", role="base.linear", phase="forward", module=None, count=3, total_ns=7_001)],
        modules=[],
        adapter=None,
        ceilings=None,
        replay=None,
        probes=None,
        memory=None,
        nvml=None,
        findings=[],
        closure=r.Closure(
            ok=False,
            kernels_without_launch=2,
            notes=["nvml: a trace carries no clocks or power", "timing: a trace carries no unprofiled steps"],
        ),
    )


def empty_report() -> r.Report:
    """A trace without a step."""
    return msgspec.structs.replace(bare_report(), reported_step=None, steps=[], kernels=[])
