"""D findings: what the devices say to each other, and for whom they wait.

Payloads are the elements Kineto copies to collective kernels (``In msg nelems``, ``Out msg nelems``), on a CPU the
inputs of the ``c10d`` ops, times the width of their dtype. Exposed communication is the time of the step in which
nothing but communication ran; on a CPU, in which it was waited for.
"""

from math import prod

import numpy as np
from msgspec import Struct

from loraprof import units
from loraprof.analysis.ranks.collectives import exposed_ns
from loraprof.analysis.ranks.communication import model_bytes, ranks_of
from loraprof.analysis.ranks.messages import KINDS
from loraprof.diagnosis.case import Case
from loraprof.diagnosis.findings.dtensor import DTENSOR_DISPATCH
from loraprof.diagnosis.remedies import devices as remedies
from loraprof.diagnosis.rule import DEVICES, Rule, Seen, evidence
from loraprof.diagnosis.select import at_most
from loraprof.model.finding import Evidence
from loraprof.model.trace import Int64

EXPOSED_SHARE = 0.10  # D1, D6: of the step
GATHERED = 1.5  # D1: gathered bytes over the frozen weights' bytes; two gathers per step, less what is kept
SMALL_BYTES = 1_000_000  # D2: median message
PER_LAYER = 2  # D2: messages per adapted layer
FLAT = 10  # D3: trained flat parameters over the adapters' own
TWICE = 2  # D5, D6: micro-batches of half the tokens; reductions per token with twice the accumulation
NEEDLESS = 10  # D4: reduced bytes over the adapters'


def gathers(case: Case) -> Seen | None:
    """D1: the frozen weights travel in every step."""
    of_kind = _messages(case, "all_gather")
    moved, exposed = of_kind.bytes, of_kind.exposed_ns
    weights = _frozen_bytes(case)  # 0 too where no recording says what is frozen: then nothing is claimed
    if not weights or moved < GATHERED * weights or exposed < EXPOSED_SHARE * case.wall_ns:
        return None
    return Seen(
        evidence=[
            evidence("bytes gathered per step", moved, "B"),
            evidence("bytes of the frozen weights", weights, "B"),
            evidence("time of the gathers", of_kind.ns, "ns"),
            evidence("of it nothing hides", exposed, "ns"),
            evidence("of the step", exposed / case.wall_ns, "share"),
            *_saved_traffic(case),
        ],
        saved=at_most(case, exposed),
        severity="major",
    )


def small_messages(case: Case) -> Seen | None:
    """D2: every adapter tensor is a message of its own."""
    exchanged = _messages(case)
    count = len(exchanged.sizes)
    median = int(np.sort(exchanged.sizes)[(count - 1) // 2]) if count else 0
    if not case.sites or not count or median >= SMALL_BYTES or count <= PER_LAYER * len(case.sites):
        return None
    small = exchanged.sizes < SMALL_BYTES
    return Seen(
        evidence=[
            evidence("messages per step", count, "messages"),
            evidence("adapted layers", len(case.sites), "layers"),
            evidence("median message", median, "B"),
            evidence("time of the small ones", int(exchanged.times[small].sum()), "ns"),
            evidence("bytes sent in all", exchanged.bytes, "B"),
        ],
        saved=at_most(case, int(exchanged.exposed[small].sum())),
    )


def mixed_units(case: Case) -> Seen | None:
    """D3: one flat parameter holds frozen and trained weights, and gradients of its whole size.

    With ``use_orig_params`` the flat parameter does not show, but all of its gradient is scattered.
    """
    if case.recording is None:
        return None
    flat = [p for p in case.recording.parameters if p.trainable and "flat_param" in p.name]
    size, own = sum(prod(p.shape) for p in flat), _adapter_elements(case)
    hidden = _messages(case, "reduce_scatter").bytes > FLAT * 4 * own * case.micro_batches
    if not own or not (hidden or size > FLAT * own):
        return None
    return Seen(
        evidence=[
            *[evidence("trained elements in flat parameters", size, "parameters")] * bool(flat),
            evidence("elements of the adapters", own, "parameters"),
            evidence("bytes of gradients on this rank", _gradients(case), "B"),
            evidence("bytes reduced per step", _messages(case, "all_reduce", "reduce_scatter").bytes, "B"),
        ],
        severity="major",
        remedies=(remedies.ORIGINAL_PARAMETERS if flat else remedies.FSDP2,),
    )


def needless_reduction(case: Case) -> Seen | None:
    """D4: gradients are reduced that the adapters do not have."""
    of_kind = _messages(case, "all_reduce")
    moved, own = of_kind.bytes, 4 * _adapter_elements(case) * case.micro_batches
    if not own or moved <= NEEDLESS * own:
        return None
    return Seen(
        evidence=[
            evidence("bytes reduced per step", moved, "B"),
            evidence("bytes of the adapters' gradients, at most", own, "B"),
            evidence("time of the reductions", of_kind.ns, "ns"),
            evidence("of it nothing hides", of_kind.exposed_ns, "ns"),
            *_saved_traffic(case),
        ],
        saved=at_most(case, of_kind.exposed_ns * (1 - own / moved)),
        severity="major",
    )


def pipeline_bubble(case: Case) -> Seen | None:
    """D5: stages of a pipeline wait for each other."""
    of_kind = _messages(case, "send_recv")
    micro = case.workload.micro_batches if case.workload else None
    stages = of_kind.ranks
    if not micro or stages < 2:
        return None
    bubble = (stages - 1) / (stages - 1 + micro)
    waited = _exposed(case) + case.step.ns(cause="queued") + case.step.ns(cause="sync")
    if not case.analysis.on_gpu:  # there the exposed communication is a part of the synchronisation
        waited -= _exposed(case)
    if waited < bubble * case.wall_ns:
        return None
    return Seen(
        evidence=[
            evidence("stages", stages, "devices"),
            evidence("micro-batches per step", micro, "count"),
            evidence("bubble that they imply", bubble, "share"),
            evidence("time this rank waited", waited, "ns"),
            evidence("of the step", waited / case.wall_ns, "share"),
        ],
        saved=at_most(case, waited / TWICE),
        severity="major",
    )


def exposed_communication(case: Case) -> Seen | None:
    """D6: time goes to communication alone. Where D1, D2, D4 or D5 says why, this goes (``findings``)."""
    exposed, exchanged = _exposed(case), case.communication
    if exchanged is None or exposed < EXPOSED_SHARE * case.wall_ns:
        return None
    rows = [row for row in exchanged.collectives if row.exposed_ns]
    transfer_known = all(row.basis == "fastest rank" for row in rows)
    gradients = bool(rows) and rows[0].name in ("all_reduce", "reduce_scatter")
    return Seen(
        evidence=[
            evidence("communication that nothing hides", exposed, "ns"),
            evidence("of the step", exposed / case.wall_ns, "share"),
            evidence("most of it in", f"{rows[0].name}, {units.count(rows[0].count)} per step" if rows else None),
            evidence("communication that computation hides", exchanged.overlapped_ns, "ns"),
        ],
        saved=at_most(case, exposed / TWICE),
        spent_ns=exposed,
        values={"apart": transfer_known, "gradients": gradients},
    )


class Messages(Struct, frozen=True, eq=False):
    """Collectives of some kinds in the reported step, those of unknown size left out of ``sizes`` and ``times``."""

    sizes: Int64
    times: Int64  # within the step
    exposed: Int64  # of these
    ranks: int  # of the largest group

    @property
    def bytes(self) -> int:
        return int(self.sizes.sum())

    @property
    def ns(self) -> int:
        return int(self.times.sum())

    @property
    def exposed_ns(self) -> int:
        return int(self.exposed.sum())


def _messages(case: Case, *kinds: str) -> Messages:
    """All kinds where none is named."""
    collectives = case.collectives
    if collectives is None:
        none = np.zeros(0, np.int64)
        return Messages(none, none, none, 0)
    rows = collectives.of(*(kinds or KINDS))
    groups = {size for g in collectives.group[rows].tolist() if g >= 0 and (size := collectives.groups[g].size)}
    rows = rows[collectives.nbytes[rows] > 0]
    exposed, hidden = (
        np.rint(ns[rows] * case.scale).astype(np.int64) for ns in (collectives.exposed, collectives.hidden)
    )
    return Messages(collectives.nbytes[rows], exposed + hidden, exposed, max(groups, default=0))


def _exposed(case: Case) -> int:
    return exposed_ns(case.step, case.analysis.on_gpu)


def _saved_traffic(case: Case) -> list[Evidence]:
    """What of the traffic LoRA saves, where the recording says what full fine-tuning would reduce."""
    exchanged = case.communication
    if exchanged is None or exchanged.saved_bytes is None:
        return []
    return [
        evidence("gradient bytes that full fine-tuning would reduce", exchanged.full_reduced_bytes, "B"),
        evidence("of these LoRA saves", exchanged.saved_bytes, "B"),
    ]


def _frozen_bytes(case: Case) -> int:
    """Of the whole model, whatever part of it is on this rank."""
    if case.recording is None or case.collectives is None:
        return 0
    return model_bytes(case.recording, ranks_of(case.collectives)).frozen


def _adapter_elements(case: Case) -> int:
    return sum((s.rank or 0) * (s.in_features + s.out_features) for s in case.sites)


def _gradients(case: Case) -> int | None:
    memory = case.recording.memory if case.recording else None
    return memory.gradients_bytes if memory else None


GATHERS = Rule(
    "D1", DEVICES, gathers, (remedies.KEEP_WEIGHTS,), thresholds={"gathered": GATHERED, "exposed": EXPOSED_SHARE}
)
SMALL_MESSAGES = Rule(
    "D2", DEVICES, small_messages, (remedies.WHOLE_BLOCKS,), thresholds={"small": SMALL_BYTES, "count": PER_LAYER}
)
NEEDLESS_REDUCTION = Rule("D4", DEVICES, needless_reduction, (remedies.FREEZE_FIRST,), thresholds={"times": NEEDLESS})
PIPELINE_BUBBLE = Rule("D5", DEVICES, pipeline_bubble, (remedies.MORE_MICRO_BATCHES, remedies.SEVERAL_ADAPTERS))
DISTRIBUTED = (
    GATHERS,
    SMALL_MESSAGES,
    Rule("D3", DEVICES, mixed_units, (remedies.ORIGINAL_PARAMETERS, remedies.FSDP2), thresholds={"times": FLAT}),
    NEEDLESS_REDUCTION,
    PIPELINE_BUBBLE,
    Rule(
        "D6",
        DEVICES,
        exposed_communication,
        (remedies.ALL_RANKS, remedies.FEWER_REDUCTIONS, remedies.LARGER_BUCKETS, remedies.MORE_PER_MESSAGE),
        thresholds={"share": EXPOSED_SHARE},
        explained_by=(GATHERS, SMALL_MESSAGES, NEEDLESS_REDUCTION, PIPELINE_BUBBLE),
    ),
    DTENSOR_DISPATCH,
)
