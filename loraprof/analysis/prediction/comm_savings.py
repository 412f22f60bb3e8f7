"""How much longer would the step communicate if every parameter were trained?

    total   = bytes that LoRA saves * bus factor / bus bandwidth of this step's large messages
    exposed = max(total - backward, total / pieces)     where the backward pass hides it, in pieces of BUCKET_BYTES
            = total                                     where nothing hides it

The truth lies between the two. On a device the copy engines and a few blocks carry the messages beside the computation,
so the first is the estimate; on a CPU the threads of gloo take the same cores, so the second is, with times scaled to
the unprofiled step as all of a CPU's are. The ends of the interval are ``SPREAD`` further apart.
"""

from typing import Final

from msgspec import Struct

from loraprof import units
from loraprof.analysis.ranks.communication import LARGE_BYTES, Wire
from loraprof.analysis.ranks.messages import bus_factor
from loraprof.model.ranks import Communication

BUCKET_BYTES: Final = 25 << 20  # DistributedDataParallel's bucket_cap_mb
SPREAD: Final = 0.3  # of a rate that other messages reached, in another step


class MoreCommunication(Struct, frozen=True):
    """What full fine-tuning sends besides, ns if nothing else ran."""

    total_ns: float
    pieces: int
    beside: bool  # computation goes on meanwhile

    def exposed_ns(self, backward_ns: float) -> tuple[float, float, float]:
        """Estimate, low and high of what the step gets longer, with that much backward work to hide behind."""

        def hidden(ns: float) -> float:
            return max(ns - backward_ns, ns / self.pieces)

        low, high = (1 - SPREAD) * self.total_ns, (1 + SPREAD) * self.total_ns
        return (hidden(self.total_ns) if self.beside else self.total_ns), hidden(low), high


def more_communication(
    exchanged: Communication | None, wire: Wire | None, on_gpu: bool, scale: float
) -> tuple[MoreCommunication | None, str | None]:
    """None and a note where the step does not say how long the messages would take; no note where none are sent.

    ``scale``: unprofiled over profiled time of the step.
    """
    if exchanged is None:
        return None, None
    if exchanged.strategy is None or exchanged.saved_bytes is None:
        return None, "communication saved: unknown, the step does not show how its gradients are reduced"
    if not exchanged.saved_bytes:
        return MoreCommunication(0.0, 1, on_gpu), None
    if wire is None:
        what = f"{units.nbytes(exchanged.saved_bytes)} of gradients per step that full fine-tuning would also reduce"
        why = f"no message of this step reaches {units.nbytes(LARGE_BYTES)}, so their rate is unknown"
        return None, f"communication saved: {what}; {why}, and predictions leave it out"
    kind = "reduce_scatter" if exchanged.strategy == "sharded" else "all_reduce"
    total_ns = (
        exchanged.saved_bytes * bus_factor(kind, wire.ranks) / wire.bus_bytes_per_s * 1e9 * (1.0 if on_gpu else scale)
    )
    return MoreCommunication(total_ns, max(1, -(-exchanged.saved_bytes // BUCKET_BYTES)), on_gpu), None
