"""Roles that the counted step gave to single ops of a module, found again in the trace by their order in a call.

What such an op calls has its role, and so has what wraps it: a linear's own time is that of its product.
"""

from collections import defaultdict

import numpy as np

from loraprof.analysis.attribution.weights import PRODUCT
from loraprof.analysis.trace.call_tree import Tree
from loraprof.model.recording import AdapterOps
from loraprof.model.trace import NONE, Bool, Int8, Int32, Trace, among
from loraprof.model.vocabulary import ROLE, HostKind, Role

Label = tuple[int, Role]


def observed(
    trace: Trace, ops: list[AdapterOps], module: Int32, marker: Int32, tree: Tree
) -> tuple[Bool, dict[int, Label]]:
    """Which rows are ops that the counted step saw, of the kinds in ``ops``, and the labels of those that have one."""
    host, width = trace.host, len(trace.names)
    number = {name: i for i, name in enumerate(trace.names)}
    labels = {o.module * width + number[o.op]: o.labels for o in ops if o.op in number}
    key = module.astype(np.int64) * width + host.name
    issued: Bool = among(key, list(labels)) & (module != NONE) & (host.kind == HostKind.OP)
    above = np.append(tree.nearest(issued), NONE)[tree.parent]
    issued &= ~((above != NONE) & (np.append(module, NONE)[above] == module))  # what the op itself calls has its name
    seen: dict[tuple[int, int], int] = defaultdict(int)
    found: dict[int, Label] = {}
    for row in np.flatnonzero(issued).tolist():
        call = int(marker[row]), int(key[row])
        known = labels[call[1]]
        label = known[seen[call] % len(known)]
        seen[call] += 1
        if label is not None:
            found[row] = label
    return issued, found


def place_observed(trace: Trace, ops: list[AdapterOps], module: Int32, marker: Int32, tree: Tree, role: Int8) -> None:
    """Overwrites ``role`` of the rows whose module is in ``ops``."""
    if not ops:
        return
    issued, found = observed(trace, ops, module, marker, tree)
    placed = np.full(len(trace.host), NONE, dtype=np.int8)
    for row, label in found.items():
        placed[row] = ROLE[label[1]]
        _wrap(trace, tree, module, row, placed)
    nearest = tree.nearest((placed != NONE) | issued)
    rows = np.flatnonzero((nearest != NONE) & (module != NONE))
    rows = rows[(placed[nearest[rows]] != NONE) & (module[nearest[rows]] == module[rows])]
    role[rows] = placed[nearest[rows]]


def _wrap(trace: Trace, tree: Tree, module: Int32, row: int, placed: Int8) -> None:
    """Gives a row's role to the ops around it that its module called, a product's before any other."""
    host, product = trace.host, bool(PRODUCT.search(trace.names[trace.host.name[row]]))
    above = int(tree.parent[row])
    while above != NONE and host.kind[above] == HostKind.OP and module[above] == module[row]:
        if placed[above] == NONE or product:
            placed[above] = placed[row]
        above = int(tree.parent[above])
