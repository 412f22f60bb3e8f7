"""The report, schema ``loraprof.report/1``: names here are the JSON's names.

Times are integer ns, sizes bytes, ratios floats; ``None`` is unknown. A step whose partition does not sum to
its window cannot be constructed.
"""

from operator import attrgetter
from typing import Literal

import msgspec

from loraprof.model.compilation import CompiledReport
from loraprof.model.finding import Finding
from loraprof.model.ranks import Communication, RankRow, RankSummary
from loraprof.model.recording import How
from loraprof.model.vocabulary import Cause, Class, Kind, Phase, Role

SCHEMA = "loraprof.report/1"

Basis = Literal["measured", "predicted"]
FIELDS = ("kind", "class_", "cause", "phase", "role")  # of a row
NAMELESS = 0.05  # of the busy time: from here on a trace's work of unknown role is said, and how to record it
Bound = Literal["compute", "memory", "latency", "unknown"]


class Source(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    kind: Literal["recording", "trace"]
    device: Literal["cuda", "cpu"] | None  # None: an accelerator whose records cannot be read
    device_name: str | None
    torch: str | None
    ranks: int
    workload: str | None = None
    target: str | None = None  # what was profiled, as it is typed after ``loraprof profile``


class Proven(msgspec.Struct, frozen=True, kw_only=True):
    """The best of what ``loraprof fix`` measured on the recorded program: a speed-up with its interval."""

    arms: list[str]
    speedup: float
    low: float
    high: float


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    sentence: str
    speedup_vs_full: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    basis: Basis | None = None
    ideal_speedup: float | None = None
    limiting_cause: str | None = None
    unclear: str | None = None  # causes the data do not separate, and which measurement would
    proven: Proven | None = None


class Unprofiled(msgspec.Struct, frozen=True, kw_only=True):
    median_ns: int
    low_ns: int
    high_ns: int
    steps: int


class TimingReport(msgspec.Struct, frozen=True, kw_only=True):
    """``cores``: processor time of the process over the time of the unprofiled steps; ``crowded``: on a CPU, less than
    the work of the step needs, so that other processes have slowed it. None: not known."""

    unprofiled: Unprofiled | None
    profiled_ns: int | None
    inflation: float | None
    tokens_per_step: int | None
    idle_unprofiled_ns: int | None = None  # GPU: what is left of the unprofiled step beside the reported step's work
    cores: float | None = None
    crowded: bool | None = None
    real_tokens_per_step: int | None = None  # without padding, where that was seen


class Part(msgspec.Struct, frozen=True, kw_only=True, rename={"class_": "class"}):
    """One row of a partition: the time of a class (busy) or cause (idle) in a phase and role."""

    kind: Kind
    class_: Class | None
    cause: Cause | None
    phase: Phase
    role: Role
    ns: int
    events: int
    network: str | None = None  # the root module it ran in, None outside of every one


class Overlap(msgspec.Struct, frozen=True, kw_only=True):
    over: str
    under: str
    ns: int


class Launches(msgspec.Struct, frozen=True, kw_only=True):
    count: int
    api_median_ns: int | None
    latency_floor_ns: int | None
    turnaround_median_ns: int | None


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step's window and its exact partition.

    Raises ValueError when the rows do not sum to ``wall_ns`` or one is negative.
    """

    name: str
    wall_ns: int
    partition: list[Part]
    overlap: list[Overlap]
    launches: Launches | None

    def __post_init__(self) -> None:
        total = sum(p.ns for p in self.partition)
        if total != self.wall_ns or any(p.ns < 0 for p in self.partition):
            raise ValueError(f"partition of {self.name} sums to {total} ns, its window is {self.wall_ns} ns")

    def ns(
        self,
        *,
        kind: Kind | None = None,
        class_: Class | None = None,
        cause: Cause | None = None,
        phase: Phase | None = None,
        role: Role | None = None,
    ) -> int:
        """Sum of the rows that have what is named, e.g. ``step.ns(kind="busy", role="norm")``."""
        wanted = zip(FIELDS, (kind, class_, cause, phase, role), strict=True)
        asked = {field: value for field, value in wanted if value is not None}
        if not asked:
            return self.wall_ns
        has, values = attrgetter(*asked), tuple(asked.values())
        value = values if len(values) > 1 else values[0]
        return sum(p.ns for p in self.partition if has(p) == value)

    @property
    def held_ns(self) -> int:
        """Launch latency above its floor: launched, and then held back by something else than the host."""
        floor = self.launches.latency_floor_ns if self.launches else None
        rows = [p for p in self.partition if p.cause == "launch_latency"]
        return max(0, sum(p.ns for p in rows) - (floor or 0) * sum(p.events for p in rows))


class UnprofiledStep(msgspec.Struct, frozen=True, kw_only=True):
    """The reported step as it runs without the profiler: ``wall_ns`` is the median of the timed steps.

    ``basis``: the launches were replayed and the partition made anew (a GPU; ``gate_error`` says by how much the
    replay misses the profiled step), or the profiler's cost was taken out of each row (a CPU). Raises ValueError when
    the rows do not sum to ``wall_ns`` or one is negative.
    """

    wall_ns: int
    partition: list[Part]
    basis: Literal["replayed", "scaled"]
    gate_error: float | None = None

    def __post_init__(self) -> None:
        total = sum(p.ns for p in self.partition)
        if total != self.wall_ns or any(p.ns < 0 for p in self.partition):
            raise ValueError(f"the unprofiled partition sums to {total} ns, the step takes {self.wall_ns} ns")

    def like(self, step: Step) -> Step:
        """It as a step with what else is known of the profiled one."""
        return msgspec.structs.replace(step, wall_ns=self.wall_ns, partition=self.partition)


class Kernel(msgspec.Struct, frozen=True, kw_only=True):
    """Kernels (CPU: leaf ops) of one name, role, phase and module; figures are totals over ``count``."""

    name: str
    role: Role
    phase: Phase
    module: str | None
    count: int
    total_ns: int
    flops: int | None = None
    min_bytes: int | None = None
    roof_ns: int | None = None
    bound: Bound = "unknown"
    note: str | None = None  # what explains a time above the roof, e.g. "L2-assisted"; "impossible": nothing does
    l2_bytes: int | None = None  # minimum bytes if producers hand over in L2
    op: str | None = None  # the ATen op that launched it


class ModuleRow(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    role: Role
    busy_ns: int
    idle_ns: int
    launches: int


class Savings(msgspec.Struct, frozen=True, kw_only=True):
    """What full fine-tuning does beyond the frozen step, ns of work: for all the parameters that it would train."""

    wgrad_ns: int | None = None
    optimizer_ns: int | None = None
    grad_clip_ns: int | None = None
    comm_ns: int | None = None


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    low: int
    high: int


class AdapterLayer(msgspec.Struct, frozen=True, kw_only=True):
    """One adapted layer; ``how`` it is known. None: recorded by a version that did not say."""

    path: str
    kind: str
    rank: int | None
    how: How | None


class Adapter(msgspec.Struct, frozen=True, kw_only=True):
    modules: int
    rank: int | None
    dtype: str | None
    busy_ns: int
    idle_ns: int
    launches: int
    min_bytes: int | None
    flops: int | None
    savings: Savings
    predicted_full_ns: int | None
    predicted_frozen_ns: int | None
    predicted_full_interval: Interval | None = None
    predicted_frozen_interval: Interval | None = None
    ranks: dict[str, int] | None = None
    added_ns: int | None = None  # the unprofiled step minus the frozen one: the adapter path and its training
    sites: list[AdapterLayer] = []
    variant: str | None = None  # implementation variant of the cost model: V1 .. V6, V3b
    base_dtype: str | None = None  # of the frozen weights they adapt; None where they differ, or are not known


class NetworkRow(msgspec.Struct, frozen=True, kw_only=True):
    """What a root module's calls take of the reported step. ``trained``: it holds trained parameters; ``adapters``:
    active adapted layers; ``calls``: in that phase, None where they were not recorded."""

    name: str
    trained: bool
    adapters: int
    busy_ns: int
    idle_ns: int
    share: float
    phase: Phase
    calls: int | None


class Ceilings(msgspec.Struct, frozen=True, kw_only=True):
    gemm_flops_per_s: float | None
    copy_bytes_per_s: float | None
    launch_floor_ns: int | None  # until the host knows that a null kernel has ended: not a step's latency_floor_ns
    turnaround_ns: int | None
    basis: str
    flops_per_s: dict[str, float] | None = None  # matrix products by dtype, of those in the step


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    gate_error: float
    host_factor: float | None
    accepted: bool


class Probes(msgspec.Struct, frozen=True, kw_only=True):
    enqueue_ns: int | None = None
    doubled_tokens_ns: int | None = None
    delay_slope: float | None = None


class MemoryReport(msgspec.Struct, frozen=True, kw_only=True):
    peak_bytes: int | None = None
    reserved_bytes: int | None = None
    allocator_retries: int | None = None
    weights_bytes: int | None = None
    gradients_bytes: int | None = None
    optimizer_bytes: int | None = None
    activations_bytes: int | None = None


class NvmlReport(msgspec.Struct, frozen=True, kw_only=True):
    samples: int
    energy_j_per_step: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    sm_clock_mhz: float | None = None
    sm_clock_max_mhz: int | None = None
    utilization: float | None = None
    throttle: list[str] | None = None
    tensor_active: float | None = None
    dram_active: float | None = None
    sampled_step_ns: int | None = None  # a step of the loop that was sampled; energy is scaled to the timed step


class Closure(msgspec.Struct, frozen=True, kw_only=True):
    ok: bool
    launches_without_kernel: int = 0
    kernels_without_launch: int = 0
    negative_latency: int = 0
    zero_timestamps: int = 0
    unattributed_ns: int = 0
    attribution_disagreements: int | None = None
    notes: list[str] = []


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """Minimum bytes of one role and what moved them: the step's memory traffic."""

    role: Role
    min_bytes: int
    l2_bytes: int | None
    busy_ns: int
    covered_ns: int  # busy time whose bytes are known
    bytes_per_s: float | None
    share: float | None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    schema: str = SCHEMA
    source: Source
    verdict: Verdict
    timing: TimingReport
    reported_step: str | None
    steps: list[Step]
    kernels: list[Kernel]
    modules: list[ModuleRow]
    adapter: Adapter | None
    ceilings: Ceilings | None
    replay: Replay | None
    probes: Probes | None
    memory: MemoryReport | None
    nvml: NvmlReport | None
    findings: list[Finding]
    closure: Closure
    traffic: list[Traffic] | None = None
    devices: dict[str, list[Step]] | None = None  # further devices of one process
    ranks: list[RankRow] | None = None
    compiled: CompiledReport | None = None  # None: no compiled region is in the trace
    rank_summary: RankSummary | None = None
    communication: Communication | None = None
    unprofiled: UnprofiledStep | None = None  # None: no timing, or the replay was refused
    networks: list[NetworkRow] = []

    def step(self) -> Step | None:
        """The reported step, or ``None`` when the input has none."""
        return next((s for s in self.steps if s.name == self.reported_step), None)

    def plain_step(self) -> Step | None:
        """The reported step as it runs without the profiler; ``None`` where that is not known."""
        step = self.step()
        return None if step is None or self.unprofiled is None else self.unprofiled.like(step)
