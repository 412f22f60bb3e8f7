"""What one capture leaves on disk beside the trace: ``recording.json`` and ``nvml.json``.

Everything a later analysis needs and cannot know from the trace: the modules, the parameters, the unprofiled
timing, the sequence numbers of module calls, the calibration of the device, and what could not be measured.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from loraprof.model.compilation import Compilation
from loraprof.model.ranges import (
    Bytes,
    ClockNs,
    Count,
    Factor,
    Fraction,
    Index,
    IndexOrNone,
    Ns,
    Number,
    Positive,
    PositiveBytes,
    PositiveNs,
    PositiveSize,
    Rank,
    Ranks,
    Rate,
    Size,
)
from loraprof.model.vocabulary import Role

SCHEMA = "loraprof.recording/1"
How = Literal["declared", "observed", "shapes"]
Trainer = Literal[
    "axolotl", "unsloth", "llamafactory", "swift", "trl", "transformers", "lightning", "kohya", "torchtune", "litgpt"
]
REPLACED: Final = ".original_module."  # in the path, with a dot after it, of weights that PEFT trains a copy of


class ModuleInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One module of the profiled model; ``id`` is the number in its marker ``loraprof::m<id>``."""

    id: Index
    path: str
    cls: str  # class name, e.g. "Linear"
    origin: str = ""  # defining Python module, e.g. "torch.nn.modules.linear"
    site: Index | None = None  # index into Recording.sites of the adapted layer it belongs to
    part: str | None = None  # within a site: "wrapper", "base", "down", "up", "dropout", "elementwise"
    in_features: Size | None = None
    out_features: Size | None = None
    root: Index = 0  # which of the models that were called on their own


class ParameterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter; ``id`` is the number in the marker ``loraprof::g<id>``."""

    id: Index
    name: str
    module: Index  # ModuleInfo.id
    shape: tuple[Size, ...]
    dtype: str
    trainable: bool
    device: str
    part: str | None = None  # within a site: "base", "down", "up", "elementwise"
    local_shape: tuple[Size, ...] | None = None  # of the shard on this rank; None where the whole is here


class AdapterSite(msgspec.Struct, frozen=True, kw_only=True):
    """One adapted layer. ``kind`` is "lora", "dora", "conv-lora", "embedding-lora", "expert-lora" (parameters of a
    module that is no layer), "handwritten", or another PEFT method. Ranks of adapters active together are added."""

    path: str
    kind: str
    rank: PositiveSize | None
    in_features: PositiveSize
    out_features: PositiveSize
    dtype: str  # of A and B
    base_dtype: str
    scaling: Factor | None = None
    dropout: Fraction = 0.0
    kernel: tuple[Size, ...] = ()  # convolutions
    active: bool = True
    how: How | None = None  # "declared" by a library, "observed" in the step, "shapes"; None: by an older version


class AdapterOps(msgspec.Struct, frozen=True, array_like=True):
    """Ops of one name that a module issues itself in one call, in order: (site, role), None for other work."""

    module: Index
    op: str
    labels: list[tuple[Index, Role] | None]


class ModuleCall(msgspec.Struct, frozen=True, array_like=True):
    """One module call of a profiled step: autograd sequence numbers before and after, on one thread.

    Node s of that thread belongs to the innermost call with ``before <= s < after`` (rule (b)).
    """

    module: Index
    thread: Number
    before: Number
    after: Number
    recompute: bool
    step: Number


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Unprofiled step times (pass T), raw. ``clock``: "perf_counter_ns" or "cuda_event".

    ``cores``: processor time of the process, all its threads, over the time of the steps. None: not taken.
    """

    samples_ns: list[PositiveNs]
    dropped: Count  # warm-up steps not in samples_ns
    clock: str
    cores: Rate | None = None


class CountedOp(msgspec.Struct, frozen=True, kw_only=True):
    """One op of the counting pass (C), aggregated over equal (module, phase, op, shapes)."""

    module: IndexOrNone  # ModuleInfo.id, -1 outside every module
    phase: str
    op: str
    shapes: str
    count: Count
    flops: Annotated[int, Meta(ge=0, le=2**62)]
    min_bytes: Bytes


Backend = Literal["math", "efficient", "flash", "cudnn", "overrideable"]
RANKS: Final[dict[Backend, int]] = {"math": 0, "efficient": 1, "flash": 2, "cudnn": 2, "overrideable": 2}  # by speed
MaskUse = Literal["none", "all true", "causal", "needed"]
Obstacle = Literal["mask", "dropout", "layout", "dtype", "head size"]


class AttentionCall(msgspec.Struct, frozen=True, kw_only=True):
    """Equal calls of scaled_dot_product_attention in the counted forward pass. ``backend`` is torch's own choice,
    ``faster`` that without the ``obstacles``; None: there is no faster one, or nothing to change."""

    module: IndexOrNone  # ModuleInfo.id, -1 outside every module
    query: tuple[Size, ...]
    key: tuple[Size, ...]
    value: tuple[Size, ...]
    dtype: str
    mask: MaskUse
    mask_shape: tuple[Size, ...] | None = None
    causal: bool = False
    dropout: Fraction = 0.0
    backend: Backend | None = None
    faster: Backend | None = None
    obstacles: list[Obstacle] = []
    said: str | None = None  # by torch's check of flash attention
    count: Count = 1
    ran_ns: PositiveNs | None = None  # forward and backward of one call alone, as it was
    faster_ns: PositiveNs | None = None  # and with the faster kernel


class RepeatedOp(msgspec.Struct, frozen=True, kw_only=True):
    """Ops of the counted forward pass of which another module had computed the same result before."""

    module: Index  # ModuleInfo.id
    op: str
    count: Count
    modules: Count  # that computed it, the first included


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes. On CPU ``peak_bytes`` is null: no allocator statistics exist there."""

    peak_bytes: Bytes | None = None
    reserved_bytes: Bytes | None = None
    allocator_retries: Count | None = None
    total_bytes: Bytes | None = None
    weights_bytes: Bytes | None = None
    gradients_bytes: Bytes | None = None
    optimizer_bytes: Bytes | None = None
    activations_bytes: Bytes | None = None


class DeviceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The device that was profiled. ``kind`` is "cuda" or "cpu"."""

    kind: str
    name: str
    index: Index | None = None
    uuid: str | None = None
    sms: Positive | None = None
    capability: tuple[Count, Count] | None = None
    memory_bytes: PositiveBytes | None = None
    l2_bytes: Bytes | None = None
    cpu_threads: Positive | None = None
    driver: str | None = None


class GemmRate(msgspec.Struct, frozen=True, kw_only=True):
    """A measured GEMM: C[m,n] = A[m,k] B[k,n] in ``dtype``, median time."""

    m: PositiveSize
    n: PositiveSize
    k: PositiveSize
    dtype: str
    ns: PositiveNs


class CopyRate(msgspec.Struct, frozen=True, kw_only=True):
    """A measured copy of ``bytes`` read plus written, median time."""

    bytes: PositiveBytes
    ns: PositiveNs


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """This device's own ceilings (``doctor --calibrate``, or the five seconds ``profile`` spends)."""

    gemm: list[GemmRate]
    copy: list[CopyRate]
    launch_floor_ns: Ns | None = None  # CUDA: launch on an empty queue to knowing of its end, host time
    turnaround_ns: Ns | None = None
    op_ns: Ns | None = None  # CPU: cost of one tiny op
    event_ns: Rate | None = None  # what the profiler adds per recorded event
    host_ns: Rate | None = None  # host time of one eager op call from Python


class GradientCost(msgspec.Struct, frozen=True, kw_only=True):
    """Backward time of one frozen module alone, per call: for its parameters, and for its input (None: indices)."""

    module: Index  # ModuleInfo.id
    calls: Count  # per step, without recomputation
    weight_ns: Ns
    input_ns: Ns | None = None


class TrainingCost(msgspec.Struct, frozen=True, kw_only=True):
    """What training the frozen parameters would add per step.

    Optimizer, clipping and accumulation are measured on tensors of their shapes (a sample), gradients on the modules.
    """

    parameters: Count  # elements the times stand for
    sampled: Count  # elements that were measured
    optimizer_ns: Ns
    clip_ns: Ns
    accumulate_ns: Ns  # one more micro-batch's gradients added
    reread_ns: Ns = 0  # weights that were written come from memory, those that never change may lie in a cache
    gradients: list[GradientCost] = []


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """Software and the allow-listed environment variables."""

    loraprof: str
    python: str
    torch: str | None
    platform: str
    cuda: str | None = None
    packages: dict[str, str] = {}
    variables: dict[str, str] = {}
    host: str | None = None
    rank: Rank = 0
    world_size: Ranks = 1
    launch: str = ""  # the same on all ranks of one run
    machine: str = ""  # the same on all ranks that share a clock; says nothing else about it


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """What ran. ``kind`` is "builtin" or "script"; facts are ``None`` where a script does not reveal them."""

    name: str
    kind: str
    argv: list[str]
    arm: str | None = None
    options: dict[str, str | int | float | bool | list[str] | None] = {}
    tokens_per_step: Count | None = None
    real_tokens_per_step: Count | None = None  # without padding
    longest_tokens_per_step: Count | None = None  # where each batch is padded to its own longest row only
    labelled_tokens_per_step: Count | None = None  # that have a label, so a part in the loss
    micro_batches: Count | None = None
    autocast: str | None = None
    checkpointing: str | None = None  # "none", "reentrant", "non-reentrant"
    optimizer: str | None = None  # class and flags, e.g. "AdamW(foreach)"
    optimizer_flags: dict[str, str | int | float | bool | None] = {}
    grad_clip: bool | None = None
    compiled: bool | None = None
    recompiles: Count | None = None
    graph_breaks: Count | None = None
    missing_gradients: list[str] = []  # trainable parameters without a gradient after backward
    trainers: list[Trainer] = []  # libraries with a training loop of their own that the process had loaded, e.g. "trl"


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """``recording.json``. Lists are ordered; ids are positions."""

    schema: str = SCHEMA
    created: str  # ISO 8601, UTC
    environment: Environment
    device: DeviceInfo
    workload: Workload
    modules: list[ModuleInfo] = []
    parameters: list[ParameterInfo] = []
    sites: list[AdapterSite] = []
    adapter_ops: list[AdapterOps] = []  # of modules whose part alone does not say which op is the adapter's
    dense_ops: list[AdapterOps] | None = None  # that build a change as large as its weight; None: not observed
    calls: list[ModuleCall] = []
    timing: Timing | None = None
    counted: list[CountedOp] = []
    attention: list[AttentionCall] = []
    repeated: list[RepeatedOp] = []
    memory: Memory | None = None
    calibration: Calibration | None = None
    training_cost: TrainingCost | None = None
    overhead_ns: dict[str, Rate] = {}  # cost of loraprof's own hooks and markers, ns per call
    compilation: Compilation | None = None  # None: nothing was compiled
    graph_nodes: dict[Number, str] = {}  # CUDA graph node id -> what the script named the kernel's part when capturing
    first_step: Count | None = None  # optimizer steps that passed before the first profiled one
    whole_steps: Count | None = None  # of the profiled ones, where the script ended within the next; None: all
    missing_ranks: list[Rank] = []  # of several: those that left nothing; the notes say why
    notes: list[str] = []


class NvmlSample(msgspec.Struct, frozen=True, kw_only=True):
    """One reading; ``None`` where the device or driver does not offer the field."""

    monotonic_ns: ClockNs
    sm_clock_mhz: Count | None = None
    mem_clock_mhz: Count | None = None
    power_mw: Count | None = None
    temperature_c: Number | None = None
    reasons: Count | None = None  # clock-event bits
    utilization: Count | None = None  # percent


class Nvml(msgspec.Struct, frozen=True, kw_only=True):
    """``nvml.json``: a loop of ``steps`` steps sampled by another process."""

    uuid: str
    driver: str | None
    steps: Positive
    loop_ns: PositiveNs
    samples: list[NvmlSample]
    energy_mj: Count | None = None  # over the loop
    power_limit_mw: Count | None = None
    sm_clock_max_mhz: Count | None = None
    violations_ns: dict[str, Ns] = {}  # growth of cumulative throttle counters over the loop
    tensor_active: Factor | None = None  # GPM, fraction
    dram_active: Factor | None = None
    longest_gap_ns: Ns | None = None
    missing: dict[str, str] = {}  # figure -> why it is not there

    def mean(self, figure: Literal["sm_clock_mhz", "power_mw", "utilization"]) -> float | None:
        """Of the samples that have it."""
        known = [value for sample in self.samples if (value := getattr(sample, figure)) is not None]
        return sum(known) / len(known) if known else None
