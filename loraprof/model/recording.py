"""What one capture leaves on disk beside the trace: ``recording.json`` and ``nvml.json``.

Everything a later analysis needs and cannot know from the trace: the modules, the parameters, the unprofiled
timing, the sequence numbers of module calls, the calibration of the device, and what could not be measured.
"""

from typing import Final, Literal

import msgspec

from loraprof.model.compilation import Compilation

SCHEMA = "loraprof.recording/1"
How = Literal["declared", "observed", "shapes"]
REPLACED: Final = ".original_module."  # in the path, with a dot after it, of weights that PEFT trains a copy of


class ModuleInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One module of the profiled model; ``id`` is the number in its marker ``loraprof::m<id>``."""

    id: int
    path: str
    cls: str  # class name, e.g. "Linear"
    origin: str = ""  # defining Python module, e.g. "torch.nn.modules.linear"
    site: int | None = None  # index into Recording.sites of the adapted layer it belongs to
    part: str | None = None  # within a site: "wrapper", "base", "down", "up", "dropout", "elementwise"
    in_features: int | None = None
    out_features: int | None = None
    root: int = 0  # which of the models that were called on their own


class ParameterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter; ``id`` is the number in the marker ``loraprof::g<id>``."""

    id: int
    name: str
    module: int  # ModuleInfo.id
    shape: tuple[int, ...]
    dtype: str
    trainable: bool
    device: str
    part: str | None = None  # within a site: "base", "down", "up", "elementwise"
    local_shape: tuple[int, ...] | None = None  # of the shard on this rank; None where the whole is here


class AdapterSite(msgspec.Struct, frozen=True, kw_only=True):
    """One adapted layer. ``kind`` is "lora", "dora", "conv-lora", "embedding-lora", "expert-lora" (parameters of a
    module that is no layer), "handwritten", or another PEFT method. Ranks of adapters active together are added."""

    path: str
    kind: str
    rank: int | None
    in_features: int
    out_features: int
    dtype: str  # of A and B
    base_dtype: str
    scaling: float | None = None
    dropout: float = 0.0
    kernel: tuple[int, ...] = ()  # convolutions
    active: bool = True
    how: How | None = None  # "declared" by a library, "observed" in the step, "shapes"; None: by an older version


class ModuleCall(msgspec.Struct, frozen=True, array_like=True):
    """One module call of a profiled step: autograd sequence numbers before and after, on one thread.

    Node s of that thread belongs to the innermost call with ``before <= s < after`` (rule (b)).
    """

    module: int
    thread: int
    before: int
    after: int
    recompute: bool
    step: int


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Unprofiled step times (pass T), raw. ``clock``: "perf_counter_ns" or "cuda_event"."""

    samples_ns: list[int]
    dropped: int  # warm-up steps not in samples_ns
    clock: str


class CountedOp(msgspec.Struct, frozen=True, kw_only=True):
    """One op of the counting pass (C), aggregated over equal (module, phase, op, shapes)."""

    module: int  # ModuleInfo.id, -1 outside every module
    phase: str
    op: str
    shapes: str
    count: int
    flops: int
    min_bytes: int


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes. On CPU ``peak_bytes`` is null: no allocator statistics exist there."""

    peak_bytes: int | None = None
    reserved_bytes: int | None = None
    allocator_retries: int | None = None
    total_bytes: int | None = None
    weights_bytes: int | None = None
    gradients_bytes: int | None = None
    optimizer_bytes: int | None = None
    activations_bytes: int | None = None


class DeviceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The device that was profiled. ``kind`` is "cuda" or "cpu"."""

    kind: str
    name: str
    index: int | None = None
    uuid: str | None = None
    sms: int | None = None
    capability: tuple[int, int] | None = None
    memory_bytes: int | None = None
    l2_bytes: int | None = None
    cpu_threads: int | None = None
    driver: str | None = None


class GemmRate(msgspec.Struct, frozen=True, kw_only=True):
    """A measured GEMM: C[m,n] = A[m,k] B[k,n] in ``dtype``, median time."""

    m: int
    n: int
    k: int
    dtype: str
    ns: int


class CopyRate(msgspec.Struct, frozen=True, kw_only=True):
    """A measured copy of ``bytes`` read plus written, median time."""

    bytes: int
    ns: int


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """This device's own ceilings (``doctor --calibrate``, or the five seconds ``profile`` spends)."""

    gemm: list[GemmRate]
    copy: list[CopyRate]
    launch_floor_ns: int | None = None  # CUDA: launch on an empty queue to knowing of its end, host time
    turnaround_ns: int | None = None
    op_ns: int | None = None  # CPU: cost of one tiny op
    event_ns: float | None = None  # what the profiler adds per recorded event
    host_ns: float | None = None  # host time of one eager op call from Python


class GradientCost(msgspec.Struct, frozen=True, kw_only=True):
    """Backward time of one frozen module alone, per call: for its parameters, and for its input (None: indices)."""

    module: int  # ModuleInfo.id
    calls: int  # per step, without recomputation
    weight_ns: int
    input_ns: int | None = None


class TrainingCost(msgspec.Struct, frozen=True, kw_only=True):
    """What training the frozen parameters would add per step.

    Optimizer, clipping and accumulation are measured on tensors of their shapes (a sample), gradients on the modules.
    """

    parameters: int  # elements the times stand for
    sampled: int  # elements that were measured
    optimizer_ns: int
    clip_ns: int
    accumulate_ns: int  # one more micro-batch's gradients added
    reread_ns: int = 0  # weights that were written come from memory, those that never change may lie in a cache
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
    rank: int = 0
    world_size: int = 1
    launch: str = ""  # the same on all ranks of one run
    machine: str = ""  # the same on all ranks that share a clock; says nothing else about it


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """What ran. ``kind`` is "builtin" or "script"; facts are ``None`` where a script does not reveal them."""

    name: str
    kind: str
    argv: list[str]
    arm: str | None = None
    options: dict[str, str | int | float | bool | list[str] | None] = {}
    tokens_per_step: int | None = None
    real_tokens_per_step: int | None = None  # without padding
    micro_batches: int | None = None
    autocast: str | None = None
    checkpointing: str | None = None  # "none", "reentrant", "non-reentrant"
    optimizer: str | None = None  # class and flags, e.g. "AdamW(foreach)"
    optimizer_flags: dict[str, str | int | float | bool | None] = {}
    grad_clip: bool | None = None
    compiled: bool | None = None
    recompiles: int | None = None
    graph_breaks: int | None = None
    missing_gradients: list[str] = []  # trainable parameters without a gradient after backward


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
    calls: list[ModuleCall] = []
    timing: Timing | None = None
    counted: list[CountedOp] = []
    memory: Memory | None = None
    calibration: Calibration | None = None
    training_cost: TrainingCost | None = None
    overhead_ns: dict[str, float] = {}  # cost of loraprof's own hooks and markers, ns per call
    compilation: Compilation | None = None  # None: nothing was compiled
    graph_nodes: dict[int, str] = {}  # CUDA graph node id -> what the script named the kernel's part when capturing
    first_step: int | None = None  # optimizer steps that passed before the first profiled one
    whole_steps: int | None = None  # of the profiled ones, where the script ended within the next; None: all
    missing_ranks: list[int] = []  # of several: those that left nothing; the notes say why
    notes: list[str] = []


class NvmlSample(msgspec.Struct, frozen=True, kw_only=True):
    """One reading; ``None`` where the device or driver does not offer the field."""

    monotonic_ns: int
    sm_clock_mhz: int | None = None
    mem_clock_mhz: int | None = None
    power_mw: int | None = None
    temperature_c: int | None = None
    reasons: int | None = None  # clock-event bits
    utilization: int | None = None  # percent


class Nvml(msgspec.Struct, frozen=True, kw_only=True):
    """``nvml.json``: a loop of ``steps`` steps sampled by another process."""

    uuid: str
    driver: str | None
    steps: int
    loop_ns: int
    samples: list[NvmlSample]
    energy_mj: int | None = None  # over the loop
    power_limit_mw: int | None = None
    sm_clock_max_mhz: int | None = None
    violations_ns: dict[str, int] = {}  # growth of cumulative throttle counters over the loop
    tensor_active: float | None = None  # GPM, fraction
    dram_active: float | None = None
    longest_gap_ns: int | None = None
    missing: dict[str, str] = {}  # figure -> why it is not there
