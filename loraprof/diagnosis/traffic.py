"""How many bytes did the reported step have to move, by role, and how fast did they move?"""

from collections import defaultdict

from loraprof import units
from loraprof.analysis.ledger import Ledger
from loraprof.diagnosis.busy import Busy
from loraprof.diagnosis.limits import Limits
from loraprof.model.report import Traffic
from loraprof.model.vocabulary import ROLES


def traffic(ledger: Ledger, busy: Busy, limits: Limits) -> list[Traffic] | None:
    """A row per role with known bytes, most first; None where no op's inputs were recorded."""
    op, role = ledger.op[busy.rows].tolist(), ledger.role[busy.rows].tolist()
    known_ops = {o for o, w in zip(op, busy.work, strict=True) if w is not None}
    members: dict[int, list[int]] = defaultdict(list)
    for i, (o, r) in enumerate(zip(op, role, strict=True)):
        if o in known_ops:
            members[r].append(i)
    moved = {r: sum(w.min_bytes for i in mine if (w := busy.work[i])) for r, mine in members.items()}
    total = sum(moved.values())
    rows = []
    for r, mine in members.items():
        reused = [limits.reused[i] for i in mine if busy.work[i] is not None]
        took_ns = int(busy.ns[mine].sum())
        rows.append(
            Traffic(
                role=ROLES[r],
                min_bytes=moved[r],
                l2_bytes=None if None in reused else sum(b for b in reused if b is not None),
                busy_ns=int(ledger.ns[ledger.busy & (ledger.role == r)].sum()),
                covered_ns=int(busy.exclusive_ns[mine].sum()),
                bytes_per_s=moved[r] / took_ns * 1e9 if took_ns else None,
                share=moved[r] / total if total else None,
            )
        )
    return sorted(rows, key=lambda t: (-t.min_bytes, t.role)) or None


def uncovered(ledger: Ledger, rows: list[Traffic] | None) -> str | None:
    """What the figures leave out, in words; None where they cover the step."""
    busy_ns = int(ledger.ns[ledger.busy].sum())
    covered = sum(t.covered_ns for t in rows or [])
    if not busy_ns or covered >= 0.99 * busy_ns:
        return None
    if not covered:
        return "FLOPs and bytes are unknown: no shapes were recorded (record_shapes=True)"
    return f"FLOPs and bytes cover {units.percent(covered / busy_ns, 0)} of the busy time"
