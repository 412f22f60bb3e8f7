"""What each part of the suite leaves behind: JSON that the summary reads, whichever run it came from.

Times are integer ns, sizes bytes, shares fractions. ``None`` is unknown.
"""

import os
from pathlib import Path
from typing import Final, Literal, TypeVar

import msgspec

from loraprof.model.recording import Calibration
from loraprof.model.report import NvmlReport

Size = Literal["small", "short", "full"]  # shrunken presets; as much as a tight budget allows; everything
SIZES: Final[tuple[Size, ...]] = ("small", "short", "full")
T = TypeVar("T")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a part runs with. ``folder`` is where results, logs and recordings go."""

    device: Literal["cuda", "cpu"]
    size: Size
    folder: str

    @property
    def out(self) -> Path:
        return Path(self.folder)

    def pick(self, small: T, short: T, full: T) -> T:
        """The value for this size."""
        return {"small": small, "short": short, "full": full}[self.size]


class NotHere(Exception):
    """Raised by a part that does not apply on this machine; the message says why."""


class PartResult(msgspec.Struct, frozen=True, kw_only=True):
    """One file ``PART.json``. Status other than "ok" carries its ``reason``."""

    part: str
    status: Literal["ok", "failed", "not here"]
    device: str
    size: Size
    seconds: float
    created: str
    reason: str | None = None
    result: msgspec.Raw = msgspec.Raw(b"null")

    def serves(self, options: Options) -> bool:
        """Whether it is as good as a new run."""
        enough = SIZES.index(self.size) >= SIZES.index(options.size)
        return self.status == "ok" and self.device == options.device and enough

    def of(self, kind: type[T]) -> T | None:
        """The result itself, ``None`` where the part has none."""
        return msgspec.json.decode(self.result, type=kind) if self.status == "ok" else None


def load_results(folder: Path) -> dict[str, PartResult]:
    """By part. Files that cannot be read count as not there."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            found[path.stem] = msgspec.json.decode(path.read_bytes(), type=PartResult)
        except msgspec.DecodeError:
            continue
    return found


def save_result(folder: Path, result: PartResult) -> None:
    """Complete or not at all."""
    partial = folder / f".{result.part}.json.{os.getpid()}"
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1))
    partial.replace(folder / f"{result.part}.json")


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """Unprofiled step time of one arm; without one, the reason."""

    median_ns: int | None = None
    low_ns: int | None = None
    high_ns: int | None = None
    steps: int = 0
    reason: str | None = None


class Gain(msgspec.Struct, frozen=True, kw_only=True):
    """A finding of the LoRA recording and what it promises of the step; ``None`` without a promise."""

    id: str
    severity: str
    ns: int | None = None
    speedup: float | None = None
    low: float | None = None
    high: float | None = None


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """What the LoRA recording alone says."""

    step_ns: int | None  # unprofiled
    inflation: float | None
    predicted_full_ns: int | None
    predicted_frozen_ns: int | None
    adapter_busy_ns: int | None
    adapter_idle_ns: int | None
    findings: list[Gain]
    closure_ok: bool
    closure_notes: list[str]
    attributed: float | None  # share of busy time with a module
    exact: bool  # every partition sums to its window
    hook_share: float | None  # cost of loraprof's hook when idle, of the step
    flops: int  # of the reported step, as far as known
    min_bytes: int
    l2_bytes: int | None
    tensor_model: float | None  # share of the tensor peak at the sampled clock that these FLOPs are
    dram_model: float | None  # share of the memory's peak that these bytes are
    nvml: NvmlReport | None
    shows: str  # the verdict in a sentence
    gpu: str | None  # the device's file in profiles/gpus
    recording: str | None  # the copy that may be published
    recording_bytes: int  # of that copy, compressed


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """Arms of one workload, interleaved, and the LoRA recording. ``noise``: the first arm against itself, a share."""

    workload: str
    options: dict[str, str]
    tokens_per_step: int
    arms: dict[str, Arm]
    noise: float | None
    notes: list[str]
    recorded: Recorded | None
    problem: str | None = None  # why there is no recording


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """``loraprof doctor --calibrate``."""

    device_name: str
    checks: list[dict[str, str | bool | None]]
    calibration: Calibration
    notes: list[str]


class Roofs(msgspec.Struct, frozen=True, kw_only=True):
    """The calibration's roofs beside the best that was reached when asked for nothing else."""

    gemm_side: int
    gemm_roof_flops_per_s: float
    gemm_best_flops_per_s: float
    copy_roof_bytes_per_s: float
    copy_best_bytes_per_s: float


class Noise(msgspec.Struct, frozen=True, kw_only=True):
    """One arm against itself."""

    ratio: float
    low: float
    high: float
    steps: int
    median_ns: int


class KernelTime(msgspec.Struct, frozen=True, kw_only=True):
    """One kernel, many times in a row: mean time per launch between two events, and as traced.

    ``traced_ns`` spans the same launches from the first start to the last end; ``kernel_ns`` is inside the kernel.
    """

    name: str
    launches: int
    unprofiled_ns: float
    traced_ns: float
    kernel_ns: float


class KernelTimes(msgspec.Struct, frozen=True, kw_only=True):
    kernels: list[KernelTime]


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """Closure of one profiler session. ``expected`` device records (on a CPU: ops) were launched."""

    expected: int
    recorded: int
    ok: bool
    launches_without_kernel: int
    kernels_without_launch: int
    negative_latency: int
    zero_timestamps: int


class Sessions(msgspec.Struct, frozen=True, kw_only=True):
    """A first and a second session of one process, ``pause_s`` apart."""

    pause_s: float
    sessions: list[Session]


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One square linear, forward and backward: trained whole, and frozen with each adapter variant. ns."""

    hidden: int
    tokens: int
    full_ns: int
    variants: dict[str, int]


class Crossover(msgspec.Struct, frozen=True, kw_only=True):
    """Hidden size from which LoRA gains, at the most tokens; measured ``None``: not inside the grid."""

    variant: str
    predicted: float
    measured: float | None


class Linear(msgspec.Struct, frozen=True, kw_only=True):
    """``balance``: FLOP/s over bytes/s that this device reached (rho)."""

    rank: int
    balance: float
    layers: list[Layer]
    crossovers: list[Crossover]
    skipped: list[str]


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """One kernel of the step: DRAM bytes by ncu beside the bytes it must move at least."""

    name: str
    role: str
    module: str | None
    ns: int
    dram_bytes: int
    min_bytes: int | None


class Counters(msgspec.Struct, frozen=True, kw_only=True):
    kernels: list[Counted]
    matched: int  # kernels of the step that ncu and the trace agree on
    of: int


class MainJob(msgspec.Struct, frozen=True, kw_only=True):
    """``loraprof profile`` as a user runs it."""

    workload: str
    wall_s: float
    recorded: Recorded


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """``loraprof compare`` as a user runs it."""

    workload: str
    wall_s: float
    predicted: float | None
    measured: float | None
    bars_ns: int  # sum of the waterfall
    difference_ns: int
    notes: list[str]
