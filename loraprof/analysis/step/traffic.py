"""How many bytes did the reported step have to move, by role, and how fast did they move?"""

from collections import defaultdict

import numpy as np

from loraprof import units
from loraprof.analysis.partition.ledger import Ledger
from loraprof.analysis.step.best_times import Limits
from loraprof.analysis.step.busy import Busy
from loraprof.model.report import Kernel, Traffic
from loraprof.model.trace import Bool, among
from loraprof.model.vocabulary import ROLES, DeviceClass


def traffic(ledger: Ledger, busy: Busy, limits: Limits) -> list[Traffic] | None:
    """A row per role with known bytes, most first; None where no op's inputs were recorded."""
    role = ledger.role[busy.rows].tolist()
    members: dict[int, list[int]] = defaultdict(list)
    for i in np.flatnonzero(_known(ledger, busy)).tolist():
        members[role[i]].append(i)
    moved = {r: sum(w.min_bytes for i in kernels if (w := busy.work[i])) for r, kernels in members.items()}
    total = sum(moved.values())
    rows = []
    for r, kernels in members.items():
        reused = [limits.reused[i] for i in kernels if busy.work[i] is not None]
        took_ns = int(busy.ns[kernels].sum())
        rows.append(
            Traffic(
                role=ROLES[r],
                min_bytes=moved[r],
                l2_bytes=None if None in reused else sum(b for b in reused if b is not None),
                busy_ns=int(ledger.ns[ledger.busy & (ledger.role == r)].sum()),
                covered_ns=int(busy.exclusive_ns[kernels].sum()),
                bytes_per_s=moved[r] / took_ns * 1e9 if took_ns else None,
                share=moved[r] / total if total else None,
            )
        )
    return sorted(rows, key=lambda t: (-t.min_bytes, t.role)) or None


def uncovered(ledger: Ledger, busy: Busy, rows: list[Traffic] | None) -> str | None:
    """What the figures leave out, in words; None where they cover the step's computation."""
    computing = ledger.kind[busy.rows] == DeviceClass.COMPUTE
    compute_ns = int(busy.exclusive_ns[computing].sum())
    if rows is None:
        return "FLOPs and bytes are unknown: no shapes were recorded (record_shapes=True)" if compute_ns else None
    covered_ns = int(busy.exclusive_ns[computing & _known(ledger, busy)].sum())
    if covered_ns >= 0.99 * compute_ns:
        return None
    return f"FLOPs and bytes cover {units.percent(covered_ns / compute_ns, 0)} of the computation's time"


def impossible(table: list[Kernel]) -> str | None:
    """Kernels that ran faster than the device can, in words: the measurement is wrong, not the kernel."""
    wrong = [k for k in table if k.note == "impossible" and k.roof_ns is not None]
    if not wrong:
        return None
    worst = max(wrong, key=lambda k: (k.roof_ns or 0) / max(k.total_ns, 1))
    times = units.ratio((worst.roof_ns or 0) / max(worst.total_ns, 1))
    count = sum(k.count for k in wrong)
    records = "1 record is" if count == 1 else f"{units.count(count)} records are"
    return f"{records} impossibly fast, {worst.name} at {times} its roof: a ceiling, a shape or a time is wrong"


def _known(ledger: Ledger, busy: Busy) -> Bool:
    """Rows of ops whose work is known, whichever of their kernels it was given to."""
    op = ledger.op[busy.rows]
    has = np.array([w is not None for w in busy.work], dtype=np.bool_)
    return among(op, op[has])
