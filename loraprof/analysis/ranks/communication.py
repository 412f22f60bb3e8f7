"""What does the step send, how fast, and what of it would full fine-tuning send besides?

Full fine-tuning reduces the gradient of every base parameter where LoRA reduces the adapters': an all-reduce where the
model is replicated, a reduce-scatter where it is sharded. The gathers of sharded weights stay what they are (cost model
section 11: volume 3 against 2). Gradients count in the dtype of their parameters, as often per step as the adapters'
are reduced.
"""

from collections.abc import Callable
from math import prod
from typing import Final, Literal

import numpy as np
from msgspec import Struct

from loraprof.analysis.ranks.collectives import Collectives
from loraprof.analysis.ranks.messages import KINDS, bus_factor
from loraprof.model.ranks import CollectiveRow, Communication, TransferBasis
from loraprof.model.recording import REPLACED, ParameterInfo, Recording
from loraprof.model.trace import NONE, Int64, distinct, numbered

LARGE_BYTES: Final = 1 << 20  # messages that show the wire's rate, not its latency
FLOATS: Final = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}
WHOLE_MODEL: Final = 0.5  # of the frozen weights' bytes, gathered in a step: they are sharded
NEAR: Final = (0.5, 1.5)  # reduced bytes over the gradients' that they are taken for
FSDP: Final = "FullyShardedDataParallel"

Strategy = Literal["replicated", "sharded"]


class Wire(Struct, frozen=True):
    """The rate of the step's large messages: bus bandwidth, in groups of up to ``ranks``."""

    bus_bytes_per_s: float
    ranks: int
    basis: TransferBasis


class ModelBytes(Struct, frozen=True):
    """Parameters of the whole model, in the bytes of their dtypes, whatever part of it is on one rank."""

    adapter: int
    trained: int
    frozen: int
    replaced: int  # of the frozen ones: PEFT trains a copy in their place (modules_to_save)
    floating: bool  # nothing is quantized: every parameter could have a gradient

    @property
    def base(self) -> int | None:
        """Gradients of full fine-tuning."""
        return self.trained + self.frozen - self.replaced - self.adapter if self.floating else None


def communication(
    found: Collectives, transfer: Int64 | None, recording: Recording | None, exposed_ns: int
) -> Communication | None:
    """None where the step holds no collective. ``transfer``: shortest duration of the first ones over the ranks."""
    if not len(found):
        return None
    rows = _rows(found, transfer)
    gathered, reduced = _bytes(found, "all_gather"), _bytes(found, "all_reduce", "reduce_scatter")
    model = model_bytes(recording, ranks_of(found)) if recording else None
    strategy = strategy_of(recording, model, gathered, reduced)
    full = saved = None
    if strategy and model and model.base is not None and reduced is not None:
        full = model.base * _times(model, reduced, recording)
        saved = max(full - reduced, 0)
    return Communication(
        collectives=rows,
        exposed_ns=exposed_ns,
        overlapped_ns=int(found.hidden.sum()),
        strategy=strategy,
        gathered_bytes=gathered,
        reduced_bytes=reduced,
        full_reduced_bytes=full,
        saved_bytes=saved,
    )


def _rows(found: Collectives, transfer: Int64 | None) -> list[CollectiveRow]:
    key = numbered(found.kind, found.group)
    rows = [_row(found, np.flatnonzero(key == one), transfer) for one in distinct(key).tolist()]
    return sorted(rows, key=lambda r: (-r.exposed_ns - r.overlapped_ns, r.name, r.group or ""))


def _row(found: Collectives, at: Int64, transfer: Int64 | None) -> CollectiveRow:
    name, number = KINDS[int(found.kind[at[0]])], int(found.group[at[0]])
    group = found.groups[number] if number != NONE else None
    began = at[found.began[at]]
    sizes = found.nbytes[began]
    known = bool((sizes >= 0).all())
    times, basis = _times_of(found, began, transfer)
    spent = int(times.sum())
    rate = int(sizes.sum()) / spent * 1e9 if known and spent and sizes.any() else None
    ranks = group.size if group else None
    return CollectiveRow(
        name=name,
        group=group.name if group else None,
        group_size=ranks,
        count=len(began),
        bytes=int(sizes.sum()) if known else None,
        median_bytes=int(np.sort(sizes)[(len(began) - 1) // 2]) if known and len(began) else None,
        exposed_ns=int(found.exposed[at].sum()),
        overlapped_ns=int(found.hidden[at].sum()),
        transfer_ns=spent,
        basis=basis,
        algorithm_bytes_per_s=rate,
        bus_bytes_per_s=rate * bus_factor(name, ranks) if rate is not None and ranks and ranks > 1 else None,
    )


def _times_of(found: Collectives, at: Int64, transfer: Int64 | None) -> tuple[Int64, TransferBasis]:
    """Time of each transfer: on the rank that came last to it where all are matched, else here."""
    place = np.cumsum(found.began)[at] - 1  # among those that began in the step, which ``transfer`` is about
    if transfer is not None and len(at) and int(place.max()) < len(transfer) and (transfer[place] >= 0).all():
        return transfer[place], "fastest rank"
    return found.end[at] - found.start[at], "this rank"


def wire_of(found: Collectives, transfer: Int64 | None) -> Wire | None:
    """None where no message of ``LARGE_BYTES`` went through a group of known size."""
    sizes = np.array([group.size or 0 for group in found.groups], np.int64)
    ranks = np.where(found.group != NONE, sizes[found.group], 0) if len(sizes) else np.zeros(len(found), np.int64)
    at = np.flatnonzero(found.began & (found.nbytes >= LARGE_BYTES) & (ranks > 1))
    if not len(at):
        return None
    factors = [bus_factor(KINDS[kind], n) for kind, n in zip(found.kind[at].tolist(), ranks[at].tolist(), strict=True)]
    moved = found.nbytes[at] * np.array(factors)
    spent, basis = _times_of(found, at, transfer)
    whole_ns = int(spent.sum())
    return Wire(float(moved.sum()) / whole_ns * 1e9, int(ranks[at].max()), basis) if whole_ns else None


def model_bytes(recording: Recording, ranks: int | None) -> ModelBytes:
    """``ranks`` counts the shards of FSDP's first version, whose parameters show one rank's part only."""
    shards = ranks or 1 if any(m.cls == FSDP for m in recording.modules) else 1
    paths = {m.id: m.path for m in recording.modules}

    def held(test: Callable[[ParameterInfo], bool]) -> int:
        return sum(_size(p) for p in recording.parameters if test(p)) * shards

    products = sum((s.rank or 0) * (s.in_features + s.out_features) * FLOATS.get(s.dtype, 4) for s in recording.sites)
    return ModelBytes(
        adapter=products + held(lambda p: p.part == "elementwise"),  # DoRA's magnitudes
        trained=held(lambda p: p.trainable),
        frozen=held(lambda p: not p.trainable),
        replaced=held(lambda p: not p.trainable and REPLACED in f"{paths.get(p.module, '')}."),
        floating=all(p.dtype in FLOATS for p in recording.parameters),
    )


def strategy_of(
    recording: Recording | None, model: ModelBytes | None, gathered: int | None, reduced: int | None
) -> Strategy | None:
    """How the model lies on the ranks, from what they say to each other."""
    if recording is None or model is None:
        return None
    sharded = any(p.local_shape is not None and p.local_shape != p.shape for p in recording.parameters)
    if gathered and (sharded or gathered >= WHOLE_MODEL * model.frozen > 0):
        return "sharded"
    most = recording.workload.micro_batches or 1
    candidates = [model.trained * n for n in range(1, most + 1)] + [model.trained + model.frozen]
    if reduced and any(NEAR[0] * n <= reduced <= NEAR[1] * n for n in candidates if n):
        return "replicated"
    return None


def _size(parameter: ParameterInfo) -> int:
    return prod(parameter.shape) * FLOATS.get(parameter.dtype, 1)


def _times(model: ModelBytes, reduced: int, recording: Recording | None) -> int:
    """How often per step gradients are reduced: once, or in every micro-batch."""
    most = (recording.workload.micro_batches if recording else None) or 1
    return min(max(round(reduced / model.trained), 1), most) if model.trained else 1


def _bytes(found: Collectives, *kinds: str) -> int | None:
    """None where a size is unknown."""
    sizes = found.nbytes[found.of(*kinds)]
    return int(sizes.sum()) if (sizes >= 0).all() else None


def ranks_of(found: Collectives) -> int | None:
    return max((group.size for group in found.groups if group.size), default=None)
