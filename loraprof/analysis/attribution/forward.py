"""Which role has the work a module call issued itself? One decision per distinct (module, op, shapes, context)."""

import numpy as np

from loraprof.analysis.attribution.behaviour import behaviour_of
from loraprof.analysis.attribution.observed import place_observed
from loraprof.analysis.attribution.roles import HEAD, Context, Roles
from loraprof.analysis.trace.call_tree import Tree
from loraprof.model.trace import NONE, Bool, Int8, Int32, Int64, Shapes, Trace, numbered, taken
from loraprof.model.vocabulary import ROLE, HostKind


def forward_roles(trace: Trace, roles: Roles, module: Int32, marker: Int32, tree: Tree) -> Int8:
    """Roles of rows under a marker; fills ``roles.behaviour`` from what the modules were seen to do."""
    host = trace.host
    role = np.full(len(host), ROLE["other"], dtype=np.int8)
    rows = np.flatnonzero((module != NONE) & (host.kind != HostKind.MARKER))
    top = _tops(trace, tree)[rows]
    roles.behaviour = behaviour_of(trace, roles, module, rows[top == rows])
    if not len(rows):
        return role
    core = _before_core(trace, rows, marker)
    opened = np.flatnonzero((module != NONE) & (marker == np.arange(len(host))))
    heads = np.array([m.id in roles.heads or bool(HEAD.search(m.path)) for m in roles.table], dtype=np.bool_)
    ends = host.end[opened[heads[module[opened]]]]
    late = _after(trace, marker, rows, ends, heads[module[rows]])
    role[rows] = _decided(trace, roles, module, rows, top, late, core)
    called = rows[(role[rows] == ROLE["head"]) & ~heads[module[rows]]]  # products with the head's weight elsewhere
    if len(called):
        ends = np.concatenate((ends, host.end[called]))
        late = _after(trace, marker, rows, ends, heads[module[rows]] | (role[rows] == ROLE["head"]))
        role[rows] = _decided(trace, roles, module, rows, top, late, core)
    place_observed(trace, roles.adapter_ops, module, marker, tree, role)
    return role


def _decided(trace: Trace, roles: Roles, module: Int32, rows: Int64, top: Int32, late: Bool, core: Bool) -> Int8:
    host = trace.host
    above = np.where(top == rows, NONE, top)
    asked = numbered(module[rows], host.name[rows], host.shapes[rows], late, core)
    called = numbered(taken(host.name, above), taken(host.shapes, above))
    both = numbered(*(np.unique(key, return_inverse=True)[1] for key in (asked, called)))
    _, first, inverse = np.unique(both, return_index=True, return_inverse=True)
    decided = np.zeros(len(first), dtype=np.int8)
    for i, at in enumerate(first.tolist()):
        row, over = int(rows[at]), int(above[at])
        name, shapes = _call(trace, over) if over != NONE else ("", None)
        op, given = _call(trace, row)
        decided[i] = ROLE[roles.of(int(module[row]), op, given, Context(bool(late[at]), bool(core[at]), name, shapes))]
    out: Int8 = decided[inverse]
    return out


def _call(trace: Trace, row: int) -> tuple[str, Shapes | None]:
    return trace.names[trace.host.name[row]], trace.shapes_of(row)


def _tops(trace: Trace, tree: Tree) -> Int32:
    """Per row, the outermost op of the call it belongs to: the one that a module (or the script) called itself."""
    op = trace.host.kind == HostKind.OP
    below = np.append(op, False)[tree.parent]
    return tree.nearest(op & ~below)


def _after(trace: Trace, marker: Int32, rows: Int64, ends: Int64, excepted: Bool) -> Bool:
    """Rows that a container issued after something in its call had ended."""
    host = trace.host
    ends = np.sort(ends)
    if not len(ends):
        return np.zeros(len(rows), dtype=np.bool_)
    i = np.searchsorted(ends, host.start[rows], side="right") - 1
    begin = np.where(marker[rows] != NONE, host.start[marker[rows]], np.iinfo(np.int64).max)
    late: Bool = (i >= 0) & (ends[i] >= begin) & ~excepted
    return late


def _before_core(trace: Trace, rows: Int64, marker: Int32) -> Bool:
    """Rows that precede the first attention op of the module call they belong to."""
    host = trace.host
    core = np.array(
        [any(w in n for w in ("scaled_dot", "softmax", "bmm", "flash")) for n in trace.names], dtype=np.bool_
    )
    first = np.full(len(host), np.iinfo(np.int64).max)
    inside = rows[core[host.name[rows]]]
    np.minimum.at(first, marker[inside], host.start[inside])
    before: Bool = host.start[rows] < first[marker[rows]]
    return before
