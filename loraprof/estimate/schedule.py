"""How long does the work take? Kernels by their roof, a phase by the later of the GPU and the host that feeds it.

    kernel  = fixed + max(FLOPs / (peak x efficiency), bytes / (bandwidth x efficiency))
    segment = max(GPU end before it + its kernels, host end of its launches)

The host runs ahead of the GPU within a step and waits for it at the end of one.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from loraprof.estimate.work import Work
from loraprof.model.estimate import Row
from loraprof.model.gpu import GpuSpec
from loraprof.model.vocabulary import Phase

# In the order they run; the head and the loss come between the blocks' two directions.
SEGMENTS: Final[tuple[tuple[Phase, bool], ...]] = (
    ("forward", False),
    ("forward", True),
    ("backward", True),
    ("backward", False),
    ("optimizer", False),
)
OPTIMIZER: Final = 4
SETTLED: Final = 3  # micro-batches after which host and GPU keep their distance
CACHED: Final = ("elementwise", "skinny", "skinny_fp32")  # what reads a tensor that was just written
ENDS: Final = ("head", "loss")
NAMES: Final = {"wgrad": "weight gradients", "accumulate": "accumulation"}  # rows of their own within a role


class Load(Struct, frozen=True):
    """Work against one GPU's data sheet: seconds at the full peak and at the full bandwidth, and the rates' names."""

    segment: int
    kernels: float
    flop_s: float
    byte_s: float
    fixed: str
    flop_rate: str
    byte_rate: str
    cached: bool


def loads(works: Sequence[Work], gpu: GpuSpec) -> list[Load]:
    """One per work, in order."""
    return [_load(work, gpu) for work in works]


def _load(work: Work, gpu: GpuSpec) -> Load:
    matrix = work.shape.startswith(("gemm", "attention"))
    phase = "backward" if work.phase == "recompute" else work.phase
    return Load(
        segment=OPTIMIZER if phase == "optimizer" else SEGMENTS.index((phase, work.role in ENDS)),
        kernels=work.kernels,
        flop_s=work.flops / _peak(gpu, work.dtype) if work.flops else 0.0,
        byte_s=work.bytes / (gpu.dram_bytes_per_s or 1.0),
        fixed="skinny_us" if work.shape == "skinny_fp32" else "kernel_us",
        flop_rate=work.shape if matrix else "gemm_fp32" if work.dtype == "float32" else "gemm",
        byte_rate="elementwise" if matrix else work.shape,
        cached=work.shape in CACHED and 0 < 3 * work.piece <= (gpu.l2_bytes or 0),
    )


def _peak(gpu: GpuSpec, dtype: str) -> float:
    """FLOP/s of the dtype, of fp32 where the GPU has no units for it (bf16 before compute capability 8.0)."""
    return gpu.peak(dtype) or gpu.peak("float32") or 1.0


def seconds(load: Load, rates: Mapping[str, float]) -> float:
    """Of all kernels of a load, one after another."""
    share = rates[load.byte_rate] * (rates["cached"] if load.cached else 1.0)
    return load.kernels * rates[load.fixed] * 1e-6 + max(load.byte_s / share, load.flop_s / rates[load.flop_rate])


def used(parts: Iterable[Load]) -> set[str]:
    """Which rates these loads depend on."""
    found: set[str] = set()
    for load in parts:
        found |= {load.fixed, load.byte_rate, *(("cached",) if load.cached else ())}
        found |= {load.flop_rate} if load.flop_s else set()
    return found


class Pace(Struct, frozen=True):
    """What the GPU does not decide: seconds per launch, collectives by phase, micro-batches per step."""

    launch_s: float
    comm: Mapping[Phase, float]
    micro_batches: int


def step_seconds(parts: Sequence[Load], rates: Mapping[str, float], pace: Pace) -> float:
    """The whole step, without its rows."""
    busy, launches = _segments(parts, [seconds(load, rates) for load in parts])
    return sum(busy) + sum(_waits(busy, launches, pace).values()) + sum(_exposed(busy, pace.comm).values())


def step_rows(works: Sequence[Work], parts: Sequence[Load], rates: Mapping[str, float], pace: Pace) -> list[Row]:
    """Rows by phase and role; what the GPU waits for is "host", what no kernel hides of transfers "comm"."""
    taken = [seconds(load, rates) for load in parts]
    busy, launches = _segments(parts, taken)
    sums: dict[tuple[Phase, str], list[float]] = {}
    for work, spent in zip(works, taken, strict=True):
        row = sums.setdefault((work.phase, NAMES.get(work.key, work.role)), [0.0] * 4)
        for i, value in enumerate((work.kernels, work.flops, work.bytes, spent)):
            row[i] += value
    for role, extra in (("host", _waits(busy, launches, pace)), ("comm", _exposed(busy, pace.comm))):
        sums |= {(phase, role): [0.0, 0.0, 0.0, spent] for phase, spent in extra.items() if spent > 1e-9}
    return [
        Row(phase=phase, role=role, kernels=round(v[0]), flops=v[1], bytes=round(v[2]), ns=round(v[3] * 1e9))
        for (phase, role), v in sums.items()
    ]


def _segments(parts: Sequence[Load], taken: Sequence[float]) -> tuple[list[float], list[float]]:
    """Seconds and launches of each segment."""
    busy, launches = [0.0] * len(SEGMENTS), [0.0] * len(SEGMENTS)
    for load, spent in zip(parts, taken, strict=True):
        busy[load.segment] += spent
        launches[load.segment] += load.kernels
    return busy, launches


def _waits(busy: Sequence[float], launches: Sequence[float], pace: Pace) -> dict[Phase, float]:
    """Time per phase that the GPU waits for launches. From the second micro-batch on each waits like the one before."""
    count = pace.micro_batches
    waits: dict[Phase, float] = {"forward": 0.0, "backward": 0.0}
    gpu_end = host_end = 0.0
    for batch in range(min(count, SETTLED)):
        repeats = count - batch if batch == SETTLED - 1 else 1
        began = gpu_end
        for at in range(OPTIMIZER):
            host_end += launches[at] * pace.launch_s / count
            end = max(gpu_end + busy[at] / count, host_end)
            waits[SEGMENTS[at][0]] += repeats * (end - gpu_end - busy[at] / count)
            gpu_end = end
        gpu_end += (repeats - 1) * (gpu_end - began)
        host_end += (repeats - 1) * sum(launches[:OPTIMIZER]) * pace.launch_s / count
    late = host_end + launches[OPTIMIZER] * pace.launch_s - gpu_end - busy[OPTIMIZER]
    waits["optimizer"] = max(0.0, late)
    return waits


def _exposed(busy: Sequence[float], comm: Mapping[Phase, float]) -> dict[Phase, float]:
    """What of a phase's collectives its own kernels cannot hide."""
    hidden: dict[Phase, float] = {"forward": busy[0] + busy[1], "backward": busy[2] + busy[3]}
    return {phase: max(0.0, spent - hidden.get(phase, 0.0)) for phase, spent in comm.items()}
