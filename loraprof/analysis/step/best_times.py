"""The best time of every record of the reported step: what the kernel table and the traffic table are made of.

A calibration tries few shapes, for seconds, on a machine that may be busy then: where calls of a kernel took less than
their roof and no cache explains it, the roof is what they reached.
"""

from collections import defaultdict
from collections.abc import Iterator

from msgspec import Struct

from loraprof.analysis.limits.reuse import cached_bytes
from loraprof.analysis.limits.roofline import TOLERANCE, Ceiling, Reached, Roof, bound_of, lifted, note, roof, unit_of
from loraprof.analysis.partition.ledger import Ledger
from loraprof.analysis.step.busy import Busy
from loraprof.model.report import Bound
from loraprof.model.trace import Trace
from loraprof.model.vocabulary import DeviceClass

ROUNDS = 3  # a kernel that was below a roof may be above a neighbour's, once that is lifted


class Limits(Struct, frozen=True):
    """Per row of the step's work."""

    roofs: list[Roof | None]
    reused: list[int | None]  # bytes that reach memory with cache reuse
    cache: str
    surplus: str = "higher clock"
    ceiling: Ceiling | None = None  # the one the roofs are of

    def over(self, members: list[int], total_ns: int) -> tuple[int | None, Bound, str | None, int | None]:
        """(roof_ns, bound, note, l2_bytes) of rows that are reported as one."""
        reused = [self.reused[i] for i in members if self.reused[i] is not None]
        l2_bytes = sum(b for b in reused if b is not None) if reused else None
        roofs = [r for r in (self.roofs[i] for i in members) if r is not None]
        if len(roofs) != len(members):
            return None, "unknown", None, l2_bytes
        said = note(total_ns, roofs, self.cache, self.surplus)
        return round(sum(r.ns for r in roofs)), bound_of(total_ns, roofs), said, l2_bytes


def limits_of(trace: Trace, ledger: Ledger, busy: Busy, ceiling: Ceiling | None) -> Limits:
    """Of the step's work. Without a ceiling, or a cache size, columns hold ``None``."""
    works = busy.work
    reused: list[int | None] = [None] * len(works)
    if ceiling is None:
        return Limits([None] * len(works), reused, "L2")
    if ceiling.cache_bytes is not None:
        reused = cached_bytes(works, ceiling.cache_bytes)
    rows = busy.rows
    on_device = (ledger.kind[rows] == DeviceClass.COMPUTE).tolist()  # host copies move over PCIe
    blocks, names = ledger.blocks[rows].tolist(), [trace.names[n] for n in ledger.name[rows].tolist()]
    columns = list(zip(works, on_device, blocks, names, reused, strict=True))
    calls = dict.fromkeys(columns)  # layers repeat: a step has few that differ
    groups = _groups(ledger, busy)
    for last in (*[False] * ROUNDS, True):
        best = {(w, here, b, n, r): roof(w, ceiling, b, n, r) if here else None for w, here, b, n, r in calls}
        roofs = [best[call] for call in columns]
        above = [] if last else list(_above(groups, busy, roofs, names, ceiling.cache == "L2"))
        if not above:
            break
        ceiling = lifted(ceiling, above)
    return Limits(roofs, reused, ceiling.cache, ceiling.surplus, ceiling)


def _groups(ledger: Ledger, busy: Busy) -> list[list[int]]:
    """Rows that are reported as one kernel."""
    found: dict[tuple[int, ...], list[int]] = defaultdict(list)
    columns = (ledger.name, ledger.role, ledger.phase, ledger.module)
    for i, key in enumerate(zip(*(c[busy.rows].tolist() for c in columns), strict=True)):
        found[key].append(i)
    return list(found.values())


def _above(
    groups: list[list[int]], busy: Busy, roofs: list[Roof | None], names: list[str], caches: bool
) -> Iterator[Reached]:
    """Calls that took less than their roof, with no cache to explain it where ``caches`` (a CPU's copies of each size
    were calibrated in its caches); nor are they convolutions, which algorithms of fewer FLOPs exist for."""
    took_ns: list[int] = busy.ns.tolist()
    for members in groups:
        total = sum(took_ns[i] for i in members)
        best = sum(r.ns for i in members if (r := roofs[i]) is not None)
        if not total or best <= TOLERANCE * total:
            continue
        known = [(busy.work[i], roofs[i], names[i]) for i in members]
        if any(w is None or r is None or w.kind == "conv" for w, r, _ in known):
            continue
        if caches and sum(r.excused_ns[0] for _, r, _ in known if r is not None) <= TOLERANCE * total:
            continue
        share = total / best
        for w, r, name in known:
            if w is not None and r is not None and r.ns:
                yield Reached(r.ns * share, w.min_bytes, w.least_flops or w.flops, unit_of(w, name), r.limit)
