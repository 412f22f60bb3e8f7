"""Module and role of work inside backward nodes: rule (a), rule (b), gradient markers, and sums of gradients."""

import re

import numpy as np

from loraprof.analysis.attribution.names import Names
from loraprof.analysis.attribution.roles import Roles
from loraprof.analysis.attribution.sequence import counted, forward_owner, interval_owner
from loraprof.analysis.attribution.unmarked.nodes import role_of_node
from loraprof.analysis.attribution.weights import ADAPTER_PARTS, PRODUCT
from loraprof.analysis.trace.call_tree import Tree
from loraprof.model.recording import Recording
from loraprof.model.trace import NONE, Bool, Int8, Int32, Int64, Trace, among
from loraprof.model.vocabulary import ADAPTER_ROLES, ROLE, HostKind

FUNCTION = re.compile(r"Backward$")  # of a class in Python; nodes of torch's own ops end in a number
_ADAPTER = [ROLE[r] for r in ADAPTER_ROLES]
_ACTIVATION_SPACE = ("lora", "conv-lora", "embedding-lora", "handwritten")  # others add up matrices inside, too
_PASSES_NOTHING = [ROLE[r] for r in ("activation", "position", "pooling", "dropout", "loss", "head")]


class Backward:
    """Fills module and role of rows inside backward nodes, in place."""

    def __init__(
        self,
        trace: Trace,
        recording: Recording | None,
        roles: Roles,
        names: Names,
        tree: Tree,
        evaluate: Int32,
        flag: Bool,
        unmarked: bool,
    ) -> None:
        """``unmarked``: modules are adapted layers only, and most forward work has none."""
        self.unmarked = unmarked
        self.trace, self.recording, self.roles, self.names = trace, recording, roles, names
        self.tree, self.evaluate, self.flag = tree, evaluate, flag
        self.unplaced_loss: Bool = np.zeros(len(flag), dtype=np.bool_)

    def fill(self, module: Int32, role: Int8) -> int | None:
        host = self.trace.host
        nodes = np.flatnonzero(self.names.evaluate[host.name] & (host.kind == HostKind.OP))
        numbered = nodes[host.sequence[nodes] >= 0]
        ops = np.flatnonzero(counted(host) & ~self.names.backward[host.name])
        source = forward_owner(self.trace, ops, numbered)
        found = source != NONE
        node_module = np.full(len(host), NONE, dtype=np.int32)
        node_role = np.full(len(host), ROLE["other"], dtype=np.int8)
        node_module[numbered] = np.where(found, module[source], NONE)
        if self.unmarked:
            said = np.array([ROLE[role_of_node(n)] for n in self.trace.names], dtype=np.int8)
            node_role[nodes] = said[host.name[nodes]]
        node_role[numbered] = np.where(found, role[source], node_role[numbered])
        lossy = numbered[found & (module[source] == NONE)]
        disagreements = self._rule_b(numbered, source, module, node_module, node_role)
        self._gradients(node_module, node_role)
        self._follow(nodes, node_module, node_role)
        rows = np.flatnonzero(self.flag)
        module[rows] = node_module[self.evaluate[rows]]
        role[rows] = node_role[self.evaluate[rows]]
        self._functions(rows, module, role)
        self._sums(rows, module, role)
        if (
            not self.unmarked and (module[ops] != NONE).any()
        ):  # beside modules that are known, what ran outside them is the loss function's
            outside = np.zeros(len(host), dtype=np.bool_)
            outside[lossy] = True
            self.unplaced_loss = self.flag & outside[self.evaluate] & (module == NONE)
            role[self.unplaced_loss] = ROLE["loss"]
        return disagreements

    def _rule_b(self, nodes: Int64, source: Int64, module: Int32, node_module: Int32, node_role: Int8) -> int | None:
        """Overrides rule (a) where a recorded call holds the number; returns the disagreements, None without a case."""
        if self.recording is None or not self.recording.calls:
            return None
        owner = interval_owner(self.trace, self.recording.calls, nodes)
        known = owner != NONE
        differs = known & (node_module[nodes] != owner)
        for i in np.flatnonzero(differs).tolist():
            row = int(source[i])
            op = self.trace.names[self.trace.host.name[row]] if row != NONE else ""
            node_module[nodes[i]] = owner[i]
            node_role[nodes[i]] = ROLE[self.roles.of(int(owner[i]), op)]
        both = known & (source != NONE) & (module[source] != NONE)
        return int((differs & both).sum()) if both.any() else None

    def _gradients(self, node_module: Int32, node_role: Int8) -> None:
        """AccumulateGrad has no number: the gradient marker inside it names the parameter."""
        host, recording = self.trace.host, self.recording
        if recording is None or not recording.parameters:
            return
        rows = np.flatnonzero((host.kind == HostKind.MARKER) & (self.names.gradient[host.name] != NONE))
        for row in rows.tolist():
            number = int(self.names.gradient[host.name[row]])
            node = int(self.evaluate[row])
            if node == NONE or number >= len(recording.parameters):
                continue
            parameter = recording.parameters[number]
            node_module[node] = parameter.module
            node_role[node] = ROLE[self.roles.of_parameter(parameter)]

    def _follow(self, nodes: Int64, node_module: Int32, node_role: Int8) -> None:
        """A gradient is accumulated right after the node that made it."""
        if not self.unmarked:
            return
        made = nodes[~self.names.accumulate[self.trace.host.name[nodes]]]
        summing = nodes[self.names.accumulate[self.trace.host.name[nodes]]]
        before = np.searchsorted(made, summing) - 1  # rows are in the order of thread and start
        thread = self.trace.host.thread
        known = np.append(thread[made], NONE)[before] == thread[summing]  # index -1 reads the sentinel
        node_module[summing[known]] = node_module[made[before[known]]]
        node_role[summing[known]] = node_role[made[before[known]]]

    def _functions(self, rows: Int64, module: Int32, role: Int8) -> None:
        """A script's own autograd function multiplies with several weights in one node: each product by its shapes."""
        trace, table = self.trace, self.roles.table
        mixed = [m.site is not None and m.part not in (*ADAPTER_PARTS, "base") for m in table]
        own, product = (
            np.array([bool(pattern.search(n)) for n in trace.names], dtype=np.bool_)[trace.host.name[at]]
            for pattern, at in ((FUNCTION, self.evaluate[rows]), (PRODUCT, rows))
        )
        for row in rows[own & product & np.array([*mixed, False])[module[rows]]].tolist():
            name = trace.names[trace.host.name[row]]
            role[row] = ROLE[self.roles.of_gradient(int(module[row]), name, trace.shapes_of(row))]

    def _sums(self, rows: Int64, module: Int32, role: Int8) -> None:
        """Sums of gradients run inside a node but outside its own function.

        An adapted layer's input has two readers more than an adapter-free one has: the sum at the reader that came
        first in forward, and so runs last backward, is the adapter's. Inside a module that passes nothing by, a sum
        is its own. Any other joins two branches of the model.
        """
        host, table = self.trace.host, self.roles.table
        add = np.array([n in ("aten::add", "aten::add_") for n in self.trace.names], dtype=np.bool_)
        sums = rows[add[host.name[rows]]]
        sums = sums[(self.tree.parent[sums] == self.evaluate[sums]) & ((module[sums] != NONE) | self.unmarked)]
        active = {i for i, site in enumerate(self.roles.sites) if site.active}
        site = np.array([m.site if m.site in active else NONE for m in table], dtype=np.int64)
        site = np.append(site, [NONE, NONE, NONE])[module[sums]]
        now = role[sums]
        of_adapter = np.isin(now, _ADAPTER)
        dense = among(site, [i for i, s in enumerate(self.roles.sites) if s.kind not in _ACTIVATION_SPACE])
        joins = (site != NONE) & ((of_adapter != self._base_first(module, role)[site]) | (of_adapter & dense))
        own = np.isin(now, _PASSES_NOTHING)
        role[sums] = np.where(joins, ROLE["adapter.elementwise"], np.where(own, now, ROLE["residual"]))

    def _base_first(self, module: Int32, role: Int8) -> Bool:
        """Per site: the base reads the input before A does."""
        rows = np.flatnonzero((self.evaluate == NONE) & (module != NONE) & (module < len(self.roles.table)))
        site = np.array([-1 if m.site is None else m.site for m in self.roles.table], dtype=np.int64)
        rows = rows[site[module[rows]] != NONE]
        of_adapter = np.isin(role[rows], _ADAPTER)
        first = np.full((2, max(len(self.roles.sites), 1)), np.iinfo(np.int64).max)
        for side, chosen in enumerate((rows[~of_adapter], rows[of_adapter])):
            np.minimum.at(first[side], site[module[chosen]], self.trace.host.start[chosen])
        before: Bool = first[0] <= first[1]
        return before
