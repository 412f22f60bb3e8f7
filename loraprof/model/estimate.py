"""What a training step would cost on a GPU nobody has rented yet, schema ``loraprof.estimate/1``.

Times are integer ns of one optimizer step on one GPU, sizes bytes, ratios floats with the interval that the spread
of achieved rates leaves. A step whose rows do not sum to ``step_ns`` cannot be constructed.
"""

from typing import Literal

import msgspec

from loraprof.model.compare import Waterfall
from loraprof.model.finding import Finding
from loraprof.model.vocabulary import Phase

SCHEMA = "loraprof.estimate/1"

Arm = Literal["full", "frozen", "lora"]
Dtype = Literal["bfloat16", "float16", "float32", "float8"]
Kernels = Literal["eager", "fused", "compiled"]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the step is run. ``batch`` sequences of ``seq`` tokens per micro-batch and GPU.

    ``kernels``: "eager" as transformers runs it, "fused" norms, rotary, activation and loss (Liger, Unsloth, Apex),
    "compiled" by torch.compile, the adapters' elementwise work included. ``adapter_kernels``: "compiled" does that work
    alone in as few passes as a compiler needs, with "fused" everything but A rides in GEMM prologues and epilogues.
    ``host_us`` replaces the table's host time per launch.
    """

    batch: int = 4
    seq: int = 1024
    rank: int = 16
    targets: tuple[str, ...] = ()  # suffixes of module names; empty: all linear layers but the head
    dropout: float = 0.0
    dtype: Dtype = "bfloat16"
    adapter_dtype: Literal["float32", "same"] = "float32"
    autocast: Literal["none", "bfloat16", "float16"] = "none"
    checkpointing: bool = False
    optimizer: Literal["adamw", "adamw-fused", "adamw-8bit", "sgd"] = "adamw"
    clip: bool = True
    accumulate: int = 1
    quantized: Literal["none", "nf4"] = "none"
    gpus: int = 1
    parallel: Literal["none", "ddp", "fsdp", "zero3"] = "none"
    kernels: Kernels = "eager"
    adapter_kernels: Literal["eager", "compiled", "fused"] = "eager"
    attention: Literal["flash", "eager"] = "flash"
    loss: Literal["eager", "fused"] = "eager"  # fused too where ``kernels`` are
    host_us: float | None = None

    @property
    def fused_loss(self) -> bool:
        return self.kernels != "eager" or self.loss == "fused"

    @property
    def tokens(self) -> int:
        """Of one micro-batch on one GPU."""
        return self.batch * self.seq


class Rate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is achieved of a peak, with the spread over the sources; ``gpus`` empty: any GPU."""

    shape: str
    gpus: tuple[str, ...] = ()
    value: float
    low: float
    high: float
    source: str


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A ratio or a time with the interval of the rates' spread."""

    value: float
    low: float
    high: float


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Work of one role in one phase; role "host" is time the GPU waits for launches, "comm" exposed transfers."""

    phase: Phase
    role: str
    kernels: int
    flops: float  # may exceed what 64 bits count
    bytes: int
    ns: int


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Peak of one GPU. ``fits`` leaves 6 % to the allocator and the context."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    peak_bytes: int
    fits: bool


class ArmEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """One arm's step. Raises ValueError unless the rows sum to ``step_ns``."""

    step_ns: int
    low_ns: int
    high_ns: int
    forward_ns: int
    backward_ns: int  # recomputation included
    optimizer_ns: int  # clipping and accumulation included
    tokens_per_s: float
    trainable: int
    launches: int
    rows: list[Row]
    memory: Memory

    def __post_init__(self) -> None:
        total = sum(row.ns for row in self.rows)
        if total != self.step_ns:
            raise ValueError(f"rows sum to {total} ns, the step is {self.step_ns} ns")

    def ns(self, role: str) -> int:
        """Time of one role over all phases."""
        return sum(row.ns for row in self.rows if row.role == role)


class GpuEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """All arms on one GPU. ``speedup`` = full / LoRA, ``ideal`` = full / frozen: adapters that cost nothing.

    ``crossover_width``: square layers narrower than this lose in forward plus backward. ``pays``: ranges of tokens
    per micro-batch within which LoRA is faster, an open end is None. It and ``findings`` are None among many GPUs.
    """

    gpu: str
    name: str
    arms: dict[str, ArmEstimate]
    speedup: Span
    ideal: Span
    waterfall: Waterfall
    crossover_width: float | None
    pays: list[tuple[int | None, int | None]] | None
    findings: list[Finding] | None
    rates: list[Rate]


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """One model and setting on one or more GPUs."""

    schema: str = SCHEMA
    model: str
    parameters: int
    adapted: int  # layers
    adapter_parameters: int
    variant: str | None
    images: bool  # a sequence is an image
    settings: Settings
    gpus: list[GpuEstimate]
    notes: list[str] = []
