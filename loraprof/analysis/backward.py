"""Module and role of work inside backward nodes: rule (a), rule (b), gradient markers, and sums of gradients."""

import numpy as np

from loraprof.analysis.names import Names
from loraprof.analysis.roles import Context, role_of
from loraprof.analysis.sequence import forward_owner, interval_owner
from loraprof.analysis.tree import Tree
from loraprof.model.recording import ModuleInfo, Recording
from loraprof.model.trace import Bool, Int8, Int32, Int64, Trace
from loraprof.model.vocabulary import ROLE, HostKind


class Backward:
    """Fills module and role of rows inside backward nodes, in place."""

    def __init__(
        self,
        trace: Trace,
        recording: Recording | None,
        table: list[ModuleInfo],
        names: Names,
        tree: Tree,
        evaluate: Int32,
        flag: Bool,
    ) -> None:
        self.trace, self.recording, self.table, self.names = trace, recording, table, names
        self.tree, self.evaluate, self.flag = tree, evaluate, flag
        self.unplaced_loss: Bool | None = None

    def fill(self, module: Int32, role: Int8) -> int | None:
        host = self.trace.host
        nodes = np.flatnonzero(self.names.evaluate[host.name] & (host.kind == HostKind.OP))
        numbered = nodes[host.sequence[nodes] >= 0]
        ops = np.flatnonzero(
            (host.kind == HostKind.OP) & (host.sequence >= 0) & (host.fwd_thread == 0) & ~self.names.backward[host.name]
        )
        source = forward_owner(self.trace, ops, numbered)
        found = source >= 0
        node_module = np.full(len(host), -1, dtype=np.int32)
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

    def _rule_b(self, nodes: Int64, source: Int64, module: Int32, node_module: Int32, node_role: Int8) -> int | None:
        """Overrides rule (a) where a recorded call holds the number; returns the disagreements, None without a case."""
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
        both = known & (source >= 0) & (module[np.maximum(source, 0)] >= 0)
        return int((differs & both).sum()) if both.any() else None

    def _gradients(self, node_module: Int32, node_role: Int8) -> None:
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

    def _sums(self, rows: Int64, module: Int32, role: Int8) -> None:
        """Sums of gradients run inside a node but outside its own function.

        At an adapted layer's base the sum joins the adapter's input gradient (adapter.elementwise); anywhere else
        it joins two branches of the model (residual).
        """
        host, table = self.trace.host, self.table
        add = np.array([n in ("aten::add", "aten::add_") for n in self.trace.names] or [False])
        sums = rows[add[host.name[rows]]]
        sums = sums[(self.tree.parent[sums] == self.evaluate[sums]) & (module[sums] >= 0)]
        sites = self.recording.sites if self.recording else []
        active = {i for i, site in enumerate(sites) if site.active}
        adapted = np.array([m.site in active and m.part in ("base", "fused") for m in table] or [False])
        joins = adapted[np.minimum(module[sums], len(table) - 1)] & (role[sums] == ROLE["base.linear"])
        role[sums] = np.where(joins, ROLE["adapter.elementwise"], ROLE["residual"])
