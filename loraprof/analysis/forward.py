"""Which role has the work a module call issued itself? One decision per distinct (module, op, shapes, context)."""

import numpy as np

from loraprof.analysis.roles import Context, role_of
from loraprof.analysis.tree import Tree
from loraprof.model.recording import ModuleInfo, Recording
from loraprof.model.trace import Bool, Int8, Int32, Int64, Trace
from loraprof.model.vocabulary import ROLE, HostKind


def forward_roles(
    trace: Trace, recording: Recording | None, table: list[ModuleInfo], module: Int32, marker: Int32, tree: Tree
) -> Int8:
    """Roles of rows under a marker, one decision per distinct (module, op, shapes, context)."""
    host = trace.host
    role = np.full(len(host), ROLE["other"], dtype=np.int8)
    rows = np.flatnonzero((module >= 0) & (host.kind != HostKind.MARKER))
    if not len(rows):
        return role
    sites = recording.sites if recording else []
    after = _after_head(trace, recording, table, module, marker)
    core = _before_core(trace, rows, marker)
    rotary = any("Rotary" in m.cls for m in table)
    key = np.stack((module[rows], host.name[rows], host.shapes[rows], after[rows], core), axis=1)
    unique, inverse = np.unique(key, axis=0, return_inverse=True)
    decided = np.zeros(len(unique), dtype=np.int8)
    for i, (m, name, shape, head, before) in enumerate(unique.tolist()):
        info = table[m]
        site = sites[info.site] if info.site is not None and info.site < len(sites) else None
        shapes = trace.shapes[shape] if shape >= 0 else None
        decided[i] = ROLE[role_of(info, site, trace.names[name], shapes, Context(bool(head), bool(before), rotary))]
    role[rows] = decided[inverse.reshape(-1)]
    return role


def _after_head(
    trace: Trace, recording: Recording | None, table: list[ModuleInfo], module: Int32, marker: Int32
) -> Bool:
    """Rows a container issued after its head had run: the loss."""
    host = trace.host
    heads = np.array(
        [(role_of(m, None, "", None, Context()) == "head" and m.site is None) or "lm_head" in m.path for m in table]
        or [False]
    )
    out = np.zeros(len(host), dtype=np.bool_)
    opened = np.flatnonzero((host.kind != HostKind.OP) & (module >= 0) & (marker == np.arange(len(host))))
    ends = np.sort(host.end[opened[heads[module[opened]]]])
    rows = np.flatnonzero((module >= 0) & (marker >= 0))
    if not len(ends) or not len(rows):
        return out
    i = np.searchsorted(ends, host.start[rows], side="right") - 1
    out[rows] = (i >= 0) & (ends[np.maximum(i, 0)] >= host.start[marker[rows]]) & ~heads[module[rows]]
    return out


def _before_core(trace: Trace, rows: Int64, marker: Int32) -> Bool:
    """Rows that precede the first attention op of the module call they belong to."""
    host = trace.host
    core = np.array([any(w in n for w in ("scaled_dot", "softmax", "bmm", "flash")) for n in trace.names])
    first = np.full(len(host), np.iinfo(np.int64).max)
    inside = rows[core[host.name[rows]]]
    np.minimum.at(first, marker[inside], host.start[inside])
    before: Bool = host.start[rows] < first[marker[rows]]
    return before
