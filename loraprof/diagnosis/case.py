"""Everything a finding may look at, gathered once: one frozen case per report."""

from collections.abc import Iterable
from functools import cached_property

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from loraprof.analysis.analyse import Analysis
from loraprof.analysis.limits.precision import compute_dtype
from loraprof.analysis.limits.rates import Rates
from loraprof.analysis.partition.ledger import Ledger
from loraprof.analysis.prediction.counterfactual import Counterfactual
from loraprof.analysis.prediction.replayed import StepReplay
from loraprof.analysis.ranks.collectives import Collectives
from loraprof.analysis.step.best_times import Limits
from loraprof.analysis.step.busy import Busy
from loraprof.analysis.step.records import Record, records_of
from loraprof.analysis.step.unprofiled import Floats, unprofiled_ns
from loraprof.diagnosis.worth import Worth, gained
from loraprof.model.finding import Gain
from loraprof.model.ranks import Communication
from loraprof.model.recording import AdapterSite, Nvml, Recording, Workload
from loraprof.model.report import Adapter, Kernel, Step, TimingReport, Unprofiled
from loraprof.model.trace import Int64
from loraprof.model.vocabulary import ADAPTER_ROLES, PHASES, ROLES, HostKind

NOTHING = 0.005  # of the step: less is no claim, whatever the steps' own spread
MAJOR = 0.05  # share of the step from which a gain is major
ERROR = 0.3  # of an estimated saving: what covers the remedies measured on a GPU (benchmarks/coverage.py)


class TimedLedger(Struct, frozen=True, eq=False):
    """A step's ledger, the unprofiled ns of its entries, and which of them share (module, phase, role)."""

    ledger: Ledger
    ns: Floats
    group: Int64
    entries: Floats  # busy entries per group


def timed_ledger(ledger: Ledger, ns: Floats) -> TimedLedger:
    sizes = (int(ledger.module.max(initial=-1)) + 2, len(PHASES), len(ROLES))
    key = np.ravel_multi_index((ledger.module + 1, ledger.phase, ledger.role), sizes)
    _, group = np.unique(key, return_inverse=True)
    return TimedLedger(ledger, ns, group, np.bincount(group, ledger.busy).astype(np.float64))


class Case(Struct, frozen=True, eq=False, dict=True):
    """The reported step of one rank. ``recording`` is None for foreign traces: a rule that needs it stays silent.

    ``step`` is the one without the profiler where that is known, and so is what rules say of times and shares; what is
    read off the trace itself (``ledger``, ``busy``, ``kernels``, host rows) is profiled, and scaled before it is said.
    """

    analysis: Analysis
    ledger: Ledger
    step: Step
    busy: Busy
    limits: Limits
    kernels: list[Kernel]
    adapter: Adapter | None
    timing: TimingReport
    recording: Recording | None
    nvml: Nvml | None
    counterfactual: Counterfactual | None = None
    replay: StepReplay | None = None
    collectives: Collectives | None = None
    communication: Communication | None = None
    unprofiled: Ledger | None = None  # the reported step's entries without the profiler

    @property
    def workload(self) -> Workload | None:
        return self.recording.workload if self.recording else None

    @property
    def micro_batches(self) -> int:
        """Per optimizer step; one where that is not known."""
        return (self.workload.micro_batches if self.workload else None) or 1

    @property
    def compiled(self) -> bool:
        """Whether ``torch.compile`` is at work already."""
        return self.analysis.attribution.compiled is not None or (
            self.workload is not None and bool(self.workload.compiled)
        )

    @property
    def sites(self) -> list[AdapterSite]:
        """Active adapted layers."""
        return [site for _, site in self.numbered_sites]

    @property
    def numbered_sites(self) -> list[tuple[int, AdapterSite]]:
        """The adapted layers whose adapter runs, by their number in the recording."""
        sites = self.recording.sites if self.recording else []
        return [(i, s) for i, s in enumerate(sites) if s.active]

    @property
    def peft(self) -> bool:
        """Whether PEFT made the adapters: then its options change them."""
        return any(site.kind != "handwritten" for site in self.sites)

    @property
    def wall_ns(self) -> int:
        return self.step.wall_ns

    @property
    def busy_ns(self) -> int:
        return self.step.ns(kind="busy")

    @property
    def adapter_ns(self) -> int:
        """Exclusive busy time of the adapter path."""
        return sum(self.step.ns(kind="busy", role=r) for r in ADAPTER_ROLES)

    @property
    def reported(self) -> Ledger:
        """The entries of ``step``."""
        return self.ledger if self.unprofiled is None else self.unprofiled

    @property
    def scale(self) -> float:
        """Unprofiled over profiled time of the step; 1 where the unprofiled time is unknown."""
        unprofiled, profiled_ns = self.timing.unprofiled, int(self.ledger.ns.sum())
        return unprofiled.median_ns / profiled_ns if unprofiled and profiled_ns else 1.0

    def spent_ns(self, records: Iterable[Record]) -> int:
        """Time of records without the profiler: a device's take as long under it, ops of a CPU do not."""
        profiled_ns = sum(r.ns for r in records)
        if self.analysis.on_gpu or self.unprofiled is None:
            return profiled_ns
        return round(profiled_ns * self.busy_ns / max(int(self.ledger.ns[self.ledger.busy].sum()), 1))

    @cached_property
    def records(self) -> list[Record]:
        """The reported step's work with the inputs of the ops behind it."""
        return records_of(self.analysis, self.ledger, self.busy)

    @cached_property
    def timed(self) -> list[TimedLedger]:
        """Every recorded step with the unprofiled time of its entries; empty without an unprofiled time."""
        unprofiled, recording = self.timing.unprofiled, self.recording
        if unprofiled is None or recording is None or not unprofiled.median_ns:
            return []
        return [
            timed_ledger(self.unprofiled, self.unprofiled.ns.astype(np.float64))
            if self.unprofiled is not None and ledger is self.ledger
            else timed_ledger(ledger, unprofiled_ns(self.analysis, ledger, recording, unprofiled.median_ns))
            for ledger in self.analysis.ledgers
            if ledger.ns.sum()
        ]

    @cached_property
    def rates(self) -> Rates | None:
        """What this device reached in its calibration."""
        calibration = self.recording.calibration if self.recording else None
        return Rates(calibration) if calibration else None

    @property
    def gemm_flops_per_s(self) -> float | None:
        """Best GEMM rate in the dtype the base computes in, of calibration and what the step reached itself."""
        if self.recording is None or self.rates is None:
            return None
        dtype = compute_dtype(self.recording)
        ceiling = self.limits.ceiling
        reached = ceiling.flops_per_s.get(dtype) if ceiling else None
        return max((r for r in (self.rates.gemm_flops_per_s(dtype), reached) if r), default=None)

    @cached_property
    def op_names(self) -> frozenset[str]:
        """Names of ops anywhere in the trace."""
        host = self.analysis.trace.host
        rows = host.kind == HostKind.OP
        return frozenset(self.analysis.trace.names[i] for i in set(host.name[rows].tolist()))


def spread_ns(unprofiled: Unprofiled) -> float:
    """To either side of the timed steps' median."""
    return max(NOTHING * unprofiled.median_ns, (unprofiled.high_ns - unprofiled.low_ns) / 2)


def tellable_ns(unprofiled: Unprofiled) -> float:
    """The least saving that is a claim: what is below it, and below the spread of the steps themselves, cannot be told
    from nothing. A gain that would be major is said, with its interval, however much the steps spread."""
    return min(spread_ns(unprofiled), MAJOR * unprofiled.median_ns)


def gain(case: Case, saved: Worth, error: float = ERROR) -> Gain | None:
    """What saving ``saved`` of the step gives; the interval bounds the speed-up. ``error`` is that of an estimate that
    was not measured, whatever its inputs' own spread; its interval is never narrower than that of the timed steps.

    None without an unprofiled time or where what is saved cannot be told from nothing.
    """
    unprofiled = case.timing.unprofiled
    if unprofiled is None or saved.ns < tellable_ns(unprofiled):
        return None
    if saved.basis != "measured":
        spread = spread_ns(unprofiled)
        saved = saved.give_or_take(spread if saved.bounded else max(spread, error * saved.ns))
    return gained(unprofiled.median_ns, replace(saved, low=max(saved.low, 0.0), high=max(saved.high, 0.0)))


LONG_NS = 200_000  # a host range without a launch; a launch call that takes longer on an idle device loads code
