"""Who issued the work inside compiled regions, where modules leave no markers?

A region is entered under ``Torch-Compiled Region: <compile id>``; inside ``## Call CompiledFxGraph … ##`` (torch before
2.5: ``CompiledFunction``) the generated code calls kernel after kernel. A backward graph runs in the autograd node of
the forward region with the same sequence number. Where the recording says what a graph's calls are made of, they are
matched by order; else names and shapes tell what they can, and the rest is ``other`` in the module that was entered.
"""

import re
from collections import defaultdict

import numpy as np
from msgspec import Struct

from loraprof.analysis.attribution.compiled_graphs import Graphs, Scope
from loraprof.analysis.attribution.kernel_names import role_of_kernel, role_of_product
from loraprof.analysis.attribution.roles import Roles
from loraprof.analysis.attribution.sequence import counted, forward_owner
from loraprof.analysis.trace.call_tree import Tree
from loraprof.model.recording import Recording
from loraprof.model.trace import NONE, Bool, Int8, Int32, Int64, Trace, distinct
from loraprof.model.vocabulary import PHASE, ROLE, HostKind

REGION = re.compile(r"^Torch-Compiled Region(?:: (.+))?$")
_CALL = "## Call CompiledFxGraph"
_FUNCTION, _BACKWARD = "CompiledFunction", "CompiledFunctionBackward"
_PRODUCTS = ("aten::mm", "aten::addmm", "aten::linear", "mkldnn::_linear_pointwise", "mkl::_mkl_linear")
COMPILING = re.compile(r"\(dynamo_timed\)$|^(dynamo|entire_frame_compile|inductor_compile)$")


class CompiledRows(Struct, frozen=True, eq=False):
    """Flags of host rows. ``known``: attributed by what the compiler said the kernel is made of."""

    inside: Bool  # generated code, or what runs in it
    call: Bool  # a kernel call of generated code, or what runs in it
    known: Bool
    mixed: Bool  # adapter ops in a kernel that counts as another role
    scopes: dict[int, Scope]  # host rows in which generated code calls kernel after kernel
    graphs: Graphs


def compile_ranges(trace: Trace, tree: Tree) -> Bool | None:
    """Host rows that are, or lie in, ranges in which the compiler was at work; None where it nowhere was."""
    named = np.array([bool(COMPILING.search(n)) for n in trace.names], dtype=np.bool_)
    if not named.any():
        return None
    flag: Bool = tree.nearest(named[trace.host.name]) != NONE
    return flag


def compilations(trace: Trace, tree: Tree, compiling: Bool | None) -> Int64:
    """The outermost ranges in which the compiler was at work: host rows."""
    if compiling is None:
        return np.zeros(0, dtype=np.int64)
    rows = np.flatnonzero(compiling & (trace.host.kind == HostKind.ANNOTATION))
    above = tree.parent[rows]
    outermost: Int64 = rows[(above == NONE) | ~compiling[above]]
    return outermost


class _Names(Struct, frozen=True, eq=False):
    region: Bool
    call: Bool
    function: Bool
    backward: Bool


def _names(trace: Trace) -> _Names:
    names = trace.names or ("",)
    return _Names(
        region=np.array([bool(REGION.match(n)) for n in names]),
        call=np.array([n.startswith(_CALL) for n in names]),
        function=np.array([n == _FUNCTION for n in names]),
        backward=np.array([n == _BACKWARD for n in names]),
    )


class Compiled:
    """Fills module, phase and role of rows inside compiled regions, in place.

    ``marker`` and ``evaluate``: per row the nearest module marker and backward node.
    """

    def __init__(
        self,
        trace: Trace,
        recording: Recording | None,
        roles: Roles,
        tree: Tree,
        marker: Int32,
        evaluate: Int32,
    ) -> None:
        self.trace, self.tree, self.evaluate = trace, tree, evaluate
        self.sites = roles.sites
        self.graphs = Graphs(recording, roles)
        self.names = names = _names(trace)
        code = tree.nearest((names.function | names.backward | names.call)[trace.host.name])
        depth = np.append(tree.depth, NONE)  # index -1 reads the sentinel
        # A graph may be cut: a module then runs as it is.
        self.inside: Bool = depth[code] > depth[marker]

    def fill(self, loss: int, module: Int32, phase: Int8, role: Int8) -> CompiledRows | None:
        """``loss``: the number of the loss among the owners. None: nothing was compiled, or the trace hides it."""
        names, host, tree, inside = self.names, self.trace.host, self.tree, self.inside
        if not (names.region.any() or names.function.any()):
            return None
        region = tree.nearest(names.region[host.name])
        backward = tree.nearest(names.backward[host.name])
        scopes = np.flatnonzero(names.call[host.name])
        if not len(scopes):
            scopes = np.flatnonzero((names.function | names.backward)[host.name] & (host.kind == HostKind.OP))
        phase[(inside | (region != NONE)) & (phase == PHASE["other"])] = PHASE["forward"]
        role[inside] = ROLE["other"]
        calls = np.full(len(host), NONE, dtype=np.int32)  # per row: the kernel call it is
        known, mixed = (np.zeros(len(host), dtype=np.bool_) for _ in range(2))
        entered = self._scopes(scopes, region, backward, module)
        for row, children in self._children(scopes).items():
            scope = entered[row]
            called = [self.trace.names[i] for i in host.name[children]]
            placed = self.graphs.place(scope, called) or [None] * len(called)
            calls[children] = children
            for child, place in zip(children.tolist(), placed, strict=True):
                known[child] = place is not None
                if place is None:
                    module[child], role[child] = scope.inside, self._guess(child, scope.backward)
                    continue
                module[child] = loss if isinstance(place.module, str) else place.module
                mixed[child] = place.mixed
                unknown = place.role == ROLE["other"]  # a product in a layer that is base and adapter in one
                role[child] = self._guess(child, scope.backward) if unknown else place.role
        call = tree.nearest(calls != NONE)
        call[~inside] = NONE
        rows = np.flatnonzero(call != NONE)
        for column in (module, role, known, mixed):
            column[rows] = column[call[rows]]
        return CompiledRows(inside, call != NONE, known, mixed, entered, self.graphs)

    def _scopes(self, scopes: Int64, region: Int32, backward: Int32, module: Int32) -> dict[int, Scope]:
        host, source = self.trace.host, self._sources(scopes, region, backward)
        out = {}
        for row in scopes.tolist():
            forward = source.get(row, row)
            where = REGION.match(self.trace.names[host.name[region[forward]]]) if region[forward] != NONE else None
            out[row] = Scope((where[1] or "") if where else "", row in source, int(module[forward]))
        return out

    def _sources(self, scopes: Int64, region: Int32, backward: Int32) -> dict[int, int]:
        """Backward scopes, each with the forward row it differentiates (itself where that is not in the trace)."""
        host, depth = self.trace.host, np.append(self.tree.depth, NONE)
        nested = scopes[depth[backward[scopes]] > depth[region[scopes]]]
        nodes = self.evaluate[nested].astype(np.int64)
        functions = np.flatnonzero(self.names.function[host.name] & counted(host))
        numbered = distinct(nodes[nodes != NONE])
        owner = dict(zip(numbered.tolist(), forward_owner(self.trace, functions, numbered).tolist(), strict=True))
        found = ((s, owner.get(n, NONE)) for s, n in zip(nested.tolist(), nodes.tolist(), strict=True))
        return {scope: forward if forward != NONE else scope for scope, forward in found}

    def _children(self, scopes: Int64) -> dict[int, Int64]:
        """The ops that each scope calls itself, in order."""
        host = self.trace.host
        rows = np.flatnonzero((host.kind == HostKind.OP) & np.isin(self.tree.parent, scopes))
        out: dict[int, list[int]] = defaultdict(list)
        for row, scope in zip(rows.tolist(), self.tree.parent[rows].tolist(), strict=True):
            out[scope].append(row)
        return {scope: np.array(nested, dtype=np.int64) for scope, nested in out.items()}

    def _guess(self, row: int, backward: bool) -> int:
        name = self.trace.names[self.trace.host.name[row]]
        if name in _PRODUCTS:
            return ROLE[role_of_product(name, self.trace.shapes_of(row), self.sites, backward)]
        return ROLE[role_of_kernel(name)]
