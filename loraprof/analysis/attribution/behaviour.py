"""What does each module do itself? From the ops it was seen to issue, its children and its weights."""

from collections import defaultdict

import numpy as np

from loraprof.analysis.attribution.containers import CORE, Behaviour, behaves
from loraprof.analysis.attribution.roles import ATTENTION, REPEATED, Roles
from loraprof.analysis.attribution.weights import free_product
from loraprof.model.trace import NONE, Int32, Int64, Trace, numbered


def behaviour_of(trace: Trace, roles: Roles, module: Int32, tops: Int64) -> dict[int, Behaviour]:
    """Per module; ``tops`` are the ops that modules called themselves, compiled code aside."""
    host = trace.host
    issued: dict[int, set[tuple[str, int]]] = defaultdict(set)
    for number, op in roles.compiled:
        issued[number].add((op, NONE))
    key = numbered(module[tops], host.name[tops], host.shapes[tops])
    for row in tops[np.unique(key, return_index=True)[1]].tolist():
        issued[int(module[row])].add((trace.names[host.name[row]], int(host.shapes[row])))
    free = {
        m
        for m, ops in issued.items()
        if any(free_product(op, trace.shapes[s] if s != NONE else None, roles.weights, m) for op, s in ops)
    }
    attention = {m.id for m in roles.table if ATTENTION.search(m.cls) and m.site is None}
    attention |= free | {m for m, ops in issued.items() if any(CORE.search(op) for op, _ in ops)}
    above = _above(roles, attention)
    parents = {m.path.rpartition(".")[0] for m in roles.table if m.path}
    out = {}
    for m in roles.table:
        widths = [len(shape) for shape, _ in roles.weights.own.get(m.id, [])]
        out[m.id] = behaves(
            {op for op, _ in issued[m.id]},
            m.id in free,
            vectors_only=bool(widths) and max(widths) == 1 and m.path not in parents,
            above=m.id in above,
            whole=m.id in above and not REPEATED.search(m.path),
        )
    return out


def _above(roles: Roles, attention: set[int]) -> set[int]:
    """Modules with an attention module somewhere below them."""
    paths = {m.path: m.id for m in reversed(roles.table)}
    out = set()
    for m in roles.table:
        path = m.path
        while m.id in attention and path:
            path = path.rpartition(".")[0]
            if path in paths:
                out.add(paths[path])
    return out
