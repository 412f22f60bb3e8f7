"""The best time of every record of the reported step: what the kernel table and the traffic table are made of."""

from dataclasses import dataclass

from loraprof.analysis.limits.reuse import cached_bytes
from loraprof.analysis.limits.roofline import Ceiling, Roof, bound_of, note, roof
from loraprof.analysis.partition.ledger import Ledger
from loraprof.analysis.work.rule import Work
from loraprof.model.report import Bound
from loraprof.model.trace import Int64, Trace
from loraprof.model.vocabulary import DeviceClass


@dataclass(frozen=True, slots=True)
class Limits:
    """Per row of the step's work."""

    roofs: list[Roof | None]
    reused: list[int | None]  # bytes that reach memory with cache reuse
    cache: str
    surplus: str = "higher clock"

    def over(self, members: list[int], total_ns: int) -> tuple[int | None, Bound, str | None, int | None]:
        """(roof_ns, bound, note, l2_bytes) of rows that are reported as one."""
        reused = [self.reused[i] for i in members if self.reused[i] is not None]
        l2_bytes = sum(b for b in reused if b is not None) if reused else None
        roofs = [r for r in (self.roofs[i] for i in members) if r is not None]
        if len(roofs) != len(members):
            return None, "unknown", None, l2_bytes
        said = note(total_ns, roofs, self.cache, self.surplus)
        return round(sum(r.ns for r in roofs)), bound_of(total_ns, roofs), said, l2_bytes


def limits_of(trace: Trace, ledger: Ledger, rows: Int64, works: list[Work | None], ceiling: Ceiling | None) -> Limits:
    """``rows`` -> ledger entries, with their ``works``. Without a ceiling, or a cache size, columns hold ``None``."""
    reused: list[int | None] = [None] * len(works)
    if ceiling is None:
        return Limits([None] * len(works), reused, "L2")
    if ceiling.cache_bytes is not None:
        reused = cached_bytes(works, ceiling.cache_bytes)
    on_device = (ledger.kind[rows] == DeviceClass.COMPUTE).tolist()  # host copies move over PCIe
    columns = zip(works, on_device, ledger.blocks[rows].tolist(), ledger.name[rows].tolist(), reused, strict=True)
    roofs = [roof(w, ceiling, blocks, trace.names[n], b) if here else None for w, here, blocks, n, b in columns]
    return Limits(roofs, reused, ceiling.cache, ceiling.surplus)
