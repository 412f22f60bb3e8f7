"""Who issued each host record: module, phase and role, forward and backward.

Forward: the innermost module marker. Backward: the enclosing ``evaluate_function`` carries the sequence number of
a forward op; rule (a) takes the last forward op with that number, rule (b) the innermost module call whose
recorded interval ``[before, after)`` holds it. (b) decides where it is known, (a) gives the op, and their
disagreements are counted. Work outside every module is placed by what surrounds it in the step.
"""

from dataclasses import dataclass

import numpy as np

from loraprof.analysis.roles import Context, role_of
from loraprof.analysis.sequence import forward_owner, interval_owner
from loraprof.analysis.tree import MODULE_FRAME, Tree, tree_of
from loraprof.model.recording import ModuleInfo, Recording
from loraprof.model.trace import Bool, Int8, Int64, Trace
from loraprof.model.vocabulary import (
    GRAD_CLIP,
    GRADIENT_MARKER,
    LOSS,
    MODULE_MARKER,
    OPTIMIZER,
    PHASE,
    ROLE,
    HostKind,
)

EVALUATE = "autograd::engine::evaluate_function: "


@dataclass(frozen=True, slots=True, eq=False)
class Attribution:
    """Per host row: module (-> ``paths``, -1 none), phase and role; ids of the vocabulary."""

    paths: tuple[str, ...]
    module: Int64
    phase: Int8
    role: Int8
    tree: Tree
    disagreements: int | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Names:
    """Per interned name: what it says about a row."""

    module: Int64  # module id of a marker, -1 otherwise
    gradient: Int64  # parameter id of a gradient marker
    evaluate: Bool
    accumulate: Bool
    optimizer: Bool
    norm: Bool
    backward: Bool


def _names(trace: Trace) -> _Names:
    def number(name: str, prefix: str) -> int:
        rest = name.removeprefix(prefix)
        return int(rest) if rest != name and rest.isdigit() else -1

    names = trace.names or ("",)
    return _Names(
        module=np.array([number(n, MODULE_MARKER) for n in names], dtype=np.int64),
        gradient=np.array([number(n, GRADIENT_MARKER) for n in names], dtype=np.int64),
        evaluate=np.array([n.startswith(EVALUATE) for n in names]),
        accumulate=np.array([n.startswith(EVALUATE) and "AccumulateGrad" in n for n in names]),
        optimizer=np.array([n.startswith("Optimizer.") for n in names]),
        norm=np.array(["norm" in n and "layer_norm" not in n for n in names]),
        backward=np.array([n.startswith("autograd::") or n.endswith(("Backward0", "Backward")) for n in names]),
    )


def modules_of(trace: Trace, recording: Recording | None) -> tuple[list[ModuleInfo], Int64]:
    """The module table and, per interned name, the module a row of that name opens (-1 none)."""
    opens = _names(trace).module
    if recording is not None and recording.modules:
        return recording.modules, np.where(opens < len(recording.modules), opens, -1)
    table: list[ModuleInfo] = []
    out = np.full(len(opens), -1, dtype=np.int64)
    for i, name in enumerate(trace.names):
        if name.startswith(MODULE_FRAME):
            path = name.removeprefix(MODULE_FRAME)
            out[i] = len(table)
            table.append(ModuleInfo(id=len(table), path=path, cls=path.rsplit("_", 1)[0]))
    return table, out


def attribute(trace: Trace, recording: Recording | None = None) -> Attribution:
    """Attributes every host row of a trace; ``recording`` adds module names, sites and rule (b)."""
    host, tree, names = trace.host, tree_of(trace), _names(trace)
    table, opens = modules_of(trace, recording)
    annotation = host.kind == HostKind.ANNOTATION
    marker = tree.nearest(opens[host.name] >= 0)
    evaluate = tree.nearest(names.evaluate[host.name] & (host.kind == HostKind.OP))
    optimizer = tree.nearest(names.optimizer[host.name] & annotation)

    depth = np.append(tree.depth, -1)  # index -1 reads the sentinel
    in_optimizer = optimizer >= 0
    in_backward = (evaluate >= 0) & (depth[evaluate] > depth[marker]) & ~in_optimizer
    recompute = (evaluate >= 0) & (marker >= 0) & ~in_backward & ~in_optimizer
    forward = (evaluate < 0) & (marker >= 0) & ~in_optimizer

    module = np.full(len(host), -1, dtype=np.int64)
    marked = forward | recompute
    module[marked] = opens[host.name[marker[marked]]]
    phase = np.full(len(host), PHASE["other"], dtype=np.int8)
    for flag, name in ((forward, "forward"), (recompute, "recompute"), (in_backward, "backward")):
        phase[flag] = PHASE[name]
    phase[in_optimizer] = PHASE["optimizer"]
    role = _forward_roles(trace, recording, table, module, marker, tree)

    state = _Backward(trace, recording, table, names, tree, evaluate, in_backward)
    disagreements = state.fill(module, role)
    paths = [m.path or "<model>" for m in table]
    special = {name: len(paths) + i for i, name in enumerate((OPTIMIZER, GRAD_CLIP, LOSS))}
    loss = (role == ROLE["loss"]) & (module >= 0)
    module[loss] = special[LOSS]
    module[in_optimizer], role[in_optimizer] = special[OPTIMIZER], ROLE["optimizer"]
    outside = ~(in_optimizer | in_backward | marked) & np.isin(host.kind, (HostKind.OP, HostKind.RUNTIME))
    tops = (forward & (opens[host.name] >= 0), evaluate, optimizer)
    _between(trace, names, outside, tops, special, module, phase, role)
    if state.unplaced_loss is not None:
        module[state.unplaced_loss & (module < 0)] = special[LOSS]
    notes = (f"{tree.crossing} threads hold ranges that cross instead of nesting",) if tree.crossing else ()
    return Attribution((*paths, *special), module, phase, role, tree, disagreements, notes)


def _forward_roles(
    trace: Trace, recording: Recording | None, table: list[ModuleInfo], module: Int64, marker: Int64, tree: Tree
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
    trace: Trace, recording: Recording | None, table: list[ModuleInfo], module: Int64, marker: Int64
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


def _before_core(trace: Trace, rows: Int64, marker: Int64) -> Bool:
    """Rows that precede the first attention op of the module call they belong to."""
    host = trace.host
    core = np.array([any(w in n for w in ("scaled_dot", "softmax", "bmm", "flash")) for n in trace.names])
    first = np.full(len(host), np.iinfo(np.int64).max)
    inside = rows[core[host.name[rows]]]
    np.minimum.at(first, marker[inside], host.start[inside])
    before: Bool = host.start[rows] < first[marker[rows]]
    return before


class _Backward:
    """Fills module and role of rows inside backward nodes, in place."""

    def __init__(
        self,
        trace: Trace,
        recording: Recording | None,
        table: list[ModuleInfo],
        names: _Names,
        tree: Tree,
        evaluate: Int64,
        flag: Bool,
    ) -> None:
        self.trace, self.recording, self.table, self.names = trace, recording, table, names
        self.tree, self.evaluate, self.flag = tree, evaluate, flag
        self.unplaced_loss: Bool | None = None

    def fill(self, module: Int64, role: Int8) -> int | None:
        host = self.trace.host
        nodes = np.flatnonzero(self.names.evaluate[host.name] & (host.kind == HostKind.OP))
        numbered = nodes[host.sequence[nodes] >= 0]
        ops = np.flatnonzero(
            (host.kind == HostKind.OP)
            & (host.sequence >= 0)
            & (host.fwd_thread == 0)
            & ~self.names.backward[host.name]
        )
        source = forward_owner(self.trace, ops, numbered)
        found = source >= 0
        node_module = np.full(len(host), -1, dtype=np.int64)
        node_role = np.full(len(host), ROLE["other"], dtype=np.int8)
        node_module[numbered] = np.where(found, module[source], -1)
        node_role[numbered] = np.where(found, role[source], ROLE["other"])
        lossy = numbered[found & (module[np.maximum(source, 0)] < 0)]
        disagreements = self._rule_b(numbered, source, module, node_module, node_role)
        self._gradients(node_module, node_role)
        rows = np.flatnonzero(self.flag)
        module[rows] = node_module[self.evaluate[rows]]
        role[rows] = node_role[self.evaluate[rows]]
        self._sums(rows, module, role)
        # A node whose forward op ran outside every module is the loss function's.
        outside = np.zeros(len(host), dtype=np.bool_)
        outside[lossy] = True
        self.unplaced_loss = self.flag & outside[np.maximum(self.evaluate, 0)] & (module < 0)
        role[self.unplaced_loss] = ROLE["loss"]
        return disagreements

    def _rule_b(
        self, nodes: Int64, source: Int64, module: Int64, node_module: Int64, node_role: Int8
    ) -> int | None:
        """Overrides rule (a) where a recorded module call holds the number; returns the disagreements."""
        if self.recording is None or not self.recording.calls:
            return None
        owner = interval_owner(self.trace, self.recording.calls, nodes)
        known = owner >= 0
        differs = known & (node_module[nodes] != owner)
        for i in np.flatnonzero(differs).tolist():
            info = self.table[int(owner[i])]
            site = self.recording.sites[info.site] if info.site is not None else None
            row = int(source[i])
            op = self.trace.names[self.trace.host.name[row]] if row >= 0 else ""
            node_module[nodes[i]] = owner[i]
            node_role[nodes[i]] = ROLE[role_of(info, site, op, None, Context())]
        return int((differs & (source >= 0) & (module[np.maximum(source, 0)] >= 0)).sum())

    def _gradients(self, node_module: Int64, node_role: Int8) -> None:
        """AccumulateGrad has no number: the gradient marker inside it names the parameter."""
        host, recording = self.trace.host, self.recording
        if recording is None or not recording.parameters:
            return
        rows = np.flatnonzero((host.kind == HostKind.MARKER) & (self.names.gradient[host.name] >= 0))
        for row in rows.tolist():
            number = int(self.names.gradient[host.name[row]])
            node = int(self.evaluate[row])
            if node < 0 or number >= len(recording.parameters):
                continue
            parameter = recording.parameters[number]
            info = self.table[parameter.module]
            site = recording.sites[info.site] if info.site is not None else None
            node_module[node] = parameter.module
            if info.part == "fused" and site is not None and site.rank in parameter.shape:
                down = parameter.shape[0] == site.rank and site.in_features in parameter.shape
                node_role[node] = ROLE["adapter.down" if down else "adapter.up"]
            else:
                node_role[node] = ROLE[role_of(info, site, "", None, Context())]

    def _sums(self, rows: Int64, module: Int64, role: Int8) -> None:
        """Sums of gradients run inside a node but outside its own function.

        At an adapted layer's base the sum joins the adapter's input gradient (adapter.elementwise); anywhere else
        it joins two branches of the model (residual).
        """
        host, table = self.trace.host, self.table
        add = np.array([n in ("aten::add", "aten::add_") for n in self.trace.names] or [False])
        sums = rows[add[host.name[rows]]]
        sums = sums[(self.tree.parent[sums] == self.evaluate[sums]) & (module[sums] >= 0)]
        adapted = np.array([m.site is not None and m.part in ("base", "fused") for m in table] or [False])
        joins = adapted[np.minimum(module[sums], len(table) - 1)] & (role[sums] == ROLE["base.linear"])
        role[sums] = np.where(joins, ROLE["adapter.elementwise"], ROLE["residual"])


def _between(
    trace: Trace,
    names: _Names,
    outside: Bool,
    marks: tuple[Bool, Int64, Int64],
    special: dict[str, int],
    module: Int64,
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
        np.flatnonzero((evaluate == index) & (evaluate >= 0)),
        np.flatnonzero((optimizer == index) & (optimizer >= 0)),
    ]
    where = np.concatenate(tops)
    if not len(where):
        return
    kind = np.repeat(np.arange(3), [len(t) for t in tops])
    order = np.argsort(host.start[where], kind="stable")
    starts, kind = host.start[where][order], kind[order]
    rows = np.flatnonzero(outside)
    i = np.searchsorted(starts, host.start[rows], side="right")
    before = np.where(i > 0, kind[np.maximum(i - 1, 0)], -1)
    after = np.where(i < len(kind), kind[np.minimum(i, len(kind) - 1)], -1)
    loss = rows[(before == 0) & (after == 1)]
    module[loss], phase[loss], role[loss] = special[LOSS], PHASE["forward"], ROLE["loss"]
    tail = (before == 1) & (after == 2)
    segment = i[tail]
    late = rows[tail]
    first = np.full(len(kind) + 1, np.iinfo(np.int64).max)
    normed = names.norm[host.name[late]]
    np.minimum.at(first, segment[normed], host.start[late][normed])
    clip = late[host.start[late] >= first[segment]]
    module[clip], phase[clip], role[clip] = special[GRAD_CLIP], PHASE["optimizer"], ROLE["grad_clip"]
    scaler = np.array(["_amp_" in n for n in trace.names] or [False])
    scaled = rows[scaler[host.name[rows]]]
    module[scaled], phase[scaled], role[scaled] = special[OPTIMIZER], PHASE["optimizer"], ROLE["optimizer"]
