"""What a report says about many ranks and about what they send each other. Times are integer ns, sizes bytes.

``own`` work is a rank's window less the communication that nothing hides: the rank with the most of it is the one the
others wait for.
"""

from typing import Literal

import msgspec

from loraprof.model.vocabulary import Phase, Role

TransferBasis = Literal["fastest rank", "this rank"]


class RankRow(msgspec.Struct, frozen=True, kw_only=True):
    """One rank's reported step. ``phases_ns`` sums to the window."""

    rank: int
    wall_ns: int
    busy_ns: int
    exposed_comm_ns: int
    overlapped_comm_ns: int
    idle_ns: int
    phases_ns: dict[str, int]
    own_ns: int = 0
    clock_offset_ns: int | None = None  # to the first rank's clock; None where clocks could not be aligned
    last_arrivals: int | None = None  # collectives at which the others waited for this rank


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """One figure over all ranks: quantiles, and whose the extremes are."""

    what: str  # "step", "own", "busy", "exposed_comm", "overlapped_comm", "idle"; or a phase's own work
    min_ns: int
    median_ns: int
    p90_ns: int
    max_ns: int
    min_rank: int
    max_rank: int


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A place in the partition at which the slowest rank spends more than the median rank."""

    kind: Literal["busy", "idle"]
    what: str  # class of busy time or cause of idle time
    phase: Phase
    role: Role
    ns: int
    median_ns: int


class ClockAlignment(msgspec.Struct, frozen=True, kw_only=True):
    """Clocks of the ranks, aligned on the ends of ``collectives`` shared collectives."""

    collectives: int
    residual_ns: int | None
    limit_ns: int
    usable: bool  # times of different ranks are compared
    largest_offset_ns: int | None
    one_machine: bool = False  # one clock: there is nothing to align, whatever the residual


class Straggler(msgspec.Struct, frozen=True, kw_only=True):
    """A rank the others waited for at ``last`` of ``of`` collectives, ``late_ns`` after the median rank in all."""

    rank: int
    last: int
    of: int
    late_ns: int


class RankSummary(msgspec.Struct, frozen=True, kw_only=True):
    """All ranks on one page. ``steps`` differ within a rank by ``step_spread_ns``: less is no difference of ranks."""

    sentence: str
    step: str
    count: int
    world: int | None
    missing: list[int]
    slowest: int
    fastest: int
    even: bool  # the slowest does not stand out
    step_spread_ns: int | None
    spreads: list[Spread]
    phases: list[Spread]  # own work by phase
    differences: list[Difference]
    clocks: ClockAlignment | None
    stragglers: list[Straggler] | None


class CollectiveRow(msgspec.Struct, frozen=True, kw_only=True):
    """Collectives of one kind and process group in the reported step. Bandwidths as nccl-tests defines them.

    ``transfer_ns`` is their time on the rank that was the last to come to each (``fastest rank``), else on this rank,
    waiting included.
    """

    name: str
    group: str | None
    group_size: int | None
    count: int
    bytes: int | None
    median_bytes: int | None
    exposed_ns: int
    overlapped_ns: int
    transfer_ns: int | None
    basis: TransferBasis | None
    algorithm_bytes_per_s: float | None
    bus_bytes_per_s: float | None


class Communication(msgspec.Struct, frozen=True, kw_only=True):
    """What a step sends, and what LoRA saves of it against full fine-tuning. Bytes per rank and step.

    ``strategy``: "replicated" (gradients are all-reduced: DDP, ZeRO-1 and 2), "sharded" (weights are gathered,
    gradients reduce-scattered: FSDP, ZeRO-3), None where the step does not tell.
    """

    collectives: list[CollectiveRow]
    exposed_ns: int
    overlapped_ns: int
    strategy: Literal["replicated", "sharded"] | None = None
    gathered_bytes: int | None = None  # weights: LoRA does not save them
    reduced_bytes: int | None = None  # gradients, in this step
    full_reduced_bytes: int | None = None  # gradients that full fine-tuning would reduce
    saved_bytes: int | None = None
