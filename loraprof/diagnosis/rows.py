"""Which host rows convert a dtype, or repeat a given piece of work? Flags over the whole trace."""

import re
from math import prod
from typing import Final

import numpy as np

from loraprof.analysis.step.records import Record, conversion_of
from loraprof.diagnosis.case import Case
from loraprof.model.trace import Bool, among, distinct, named, numbered

WAITS: Final = re.compile(r"Synchronize|^(cuda|hip)Memcpy(?!.*Async)")  # calls in which the host waits for the device


def in_step(case: Case) -> Bool:
    """Host rows that began in the reported step."""
    start, window = case.analysis.trace.host.start, case.ledger.window
    found: Bool = (start >= window.noted_start) & (start < window.end)
    return found


def like(case: Case, rows: list[Record]) -> Bool:
    """Host rows, of every step, with the op, the inputs and the module of one of these."""
    host, attribution = case.analysis.trace.host, case.analysis.attribution
    key = numbered(host.name, host.shapes, attribution.module)
    return among(key, key[[r.row for r in rows]])


def element_bytes(dtype: str) -> int:
    """Of a floating-point type, by its name."""
    return {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}.get(dtype, 1)


def kineto_bytes(kind: str) -> int:
    """Of a tensor's element, by the name that Kineto gives it; 0 for anything else."""
    return {"double": 8, "float": 4, "c10::BFloat16": 2, "c10::Half": 2}.get(kind, 0)


def rows_of(record: Record) -> int:
    """Rows of a product's left operand, over all matrices of a batch; 0 unknown."""
    left = record.dims[0 if record.op in ("aten::mm", "aten::bmm") else 1] if len(record.dims) > 1 else ()
    return prod(d for d in left[:-1] if isinstance(d, int)) if isinstance(left, tuple) and len(left) > 1 else 0


def conversions(case: Case, weights: bool = True) -> Bool:
    """Host rows of dtype conversions, with the ops and the backward nodes that only wrap them.

    ``weights=False`` leaves out conversions of tensors shaped like an adapter's parameters.
    """
    trace, host = case.analysis.trace, case.analysis.trace.host
    small = {tuple(p.shape) for p in case.recording.parameters if p.trainable} if case.recording else set()
    shaped = [conversion_of(s.types, s.dims) is not None and (weights or s.dims[0] not in small) for s in trace.shapes]
    known = np.array([*shaped, False])
    flag: Bool = named(trace.names, lambda n: n == "aten::copy_")[host.name] & known[host.shapes]
    if case.analysis.on_gpu:  # a kernel launched by the conversion itself
        launching = distinct(np.concatenate([x.op[x.busy] for x in case.analysis.ledgers]))
        converts = named(trace.names, lambda n: n in ("aten::to", "aten::_to_copy"))
        launching = launching[launching >= 0]
        flag[launching[converts[host.name[launching]]]] = True
    wraps = named(trace.names, lambda n: n.endswith(("aten::to", "aten::_to_copy", "ToCopyBackward0")))
    parent = case.analysis.attribution.tree.parent
    rows = parent[np.flatnonzero(flag)]
    while len(rows):
        rows = distinct(rows[(rows >= 0) & wraps[host.name[np.maximum(rows, 0)]]])
        flag[rows] = True
        rows = parent[rows]
    return flag
