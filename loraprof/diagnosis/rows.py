"""Which host rows convert a dtype, or repeat a given piece of work? Flags over the whole trace."""

import numpy as np

from loraprof.analysis.step.records import Record, conversion_of
from loraprof.diagnosis.case import Case
from loraprof.model.trace import Bool, distinct


def like(case: Case, rows: list[Record]) -> Bool:
    """Host rows, of every step, with the op, the inputs and the module of one of these."""
    host, who = case.analysis.trace.host, case.analysis.who
    key = (host.name.astype(np.int64) * (len(case.analysis.trace.shapes) + 1) + host.shapes) * (len(who.paths) + 1)
    key += who.module
    found: Bool = np.isin(key, key[[r.row for r in rows]])
    return found


def conversions(case: Case, weights: bool = True) -> Bool:
    """Host rows of dtype conversions, with the ops and the backward nodes that only wrap them.

    ``weights=False`` leaves out conversions of tensors shaped like an adapter's parameters.
    """
    trace, host = case.analysis.trace, case.analysis.trace.host
    small = {tuple(p.shape) for p in case.recording.parameters if p.trainable} if case.recording else set()
    shaped = [conversion_of(s.types, s.dims) is not None and (weights or s.dims[0] not in small) for s in trace.shapes]
    known = np.array([*shaped, False])
    copies = np.array([n == "aten::copy_" for n in trace.names] or [False])
    flag: Bool = copies[host.name] & known[host.shapes]
    if case.analysis.on_gpu:  # a kernel launched by the conversion itself
        launching = distinct(np.concatenate([x.op[x.busy] for x in case.analysis.ledgers]))
        converts = np.array([n in ("aten::to", "aten::_to_copy") for n in trace.names] or [False])
        launching = launching[launching >= 0]
        flag[launching[converts[host.name[launching]]]] = True
    wraps = np.array([n.endswith(("aten::to", "aten::_to_copy", "ToCopyBackward0")) for n in trace.names] or [False])
    parent = case.analysis.who.tree.parent
    rows = parent[np.flatnonzero(flag)]
    while len(rows):
        rows = distinct(rows[(rows >= 0) & wraps[host.name[np.maximum(rows, 0)]]])
        flag[rows] = True
        rows = parent[rows]
    return flag
