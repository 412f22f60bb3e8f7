"""Work outside every module, node and optimizer: what is it, given what ran before and after it?"""

import numpy as np

from loraprof.analysis.attribution.names import Names
from loraprof.model.trace import NONE, Bool, Int8, Int32, Trace
from loraprof.model.vocabulary import GRAD_CLIP, LOSS, OPTIMIZER, PHASE, ROLE, HostKind


def place_between(
    trace: Trace,
    names: Names,
    outside: Bool,
    marks: tuple[Bool, Int32, Int32],
    special: dict[str, int],
    module: Int32,
    phase: Int8,
    role: Int8,
) -> None:
    """Rows outside modules, nodes and the optimizer, placed by their neighbours in time, in place.

    forward → here → backward is the loss; backward → here → optimizer is clipping once a norm has been taken.
    """
    host = trace.host
    opened, evaluate, optimizer = marks
    index = np.arange(len(host))
    tops = [
        np.flatnonzero(opened & (host.kind != HostKind.RUNTIME)),
        np.flatnonzero((evaluate == index) & (evaluate != NONE)),
        np.flatnonzero((optimizer == index) & (optimizer != NONE)),
    ]
    where = np.concatenate(tops)
    if not len(where):
        return
    kind = np.repeat(np.arange(3), [len(t) for t in tops])
    order = np.argsort(host.start[where], kind="stable")
    starts, kind = host.start[where][order], kind[order]
    rows = np.flatnonzero(outside)
    i = np.searchsorted(starts, host.start[rows], side="right")
    around = np.append(kind, NONE)
    before, after = around[i - 1], around[i]
    loss = rows[(before == 0) & (after == 1)]
    module[loss], phase[loss], role[loss] = special[LOSS], PHASE["forward"], ROLE["loss"]
    tail = (before == 1) & (after == 2) & (module[rows] == NONE)
    segment = i[tail]
    late = rows[tail]
    first = np.full(len(kind) + 1, np.iinfo(np.int64).max)
    normed = names.norm[host.name[late]]
    np.minimum.at(first, segment[normed], host.start[late][normed])
    clip = late[host.start[late] >= first[segment]]
    module[clip], phase[clip], role[clip] = special[GRAD_CLIP], PHASE["optimizer"], ROLE["grad_clip"]
    scaler = np.array(["_amp_" in n for n in trace.names], dtype=np.bool_)
    scaled = rows[scaler[host.name[rows]]]
    module[scaled], phase[scaled], role[scaled] = special[OPTIMIZER], PHASE["optimizer"], ROLE["optimizer"]
