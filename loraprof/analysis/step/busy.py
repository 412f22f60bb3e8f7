"""What did the work of the reported step? A row per device record, on a CPU per op, with its FLOPs and bytes.

On a CPU the ops nest: an op whose work has a rule stands for all that it calls (the fill inside a sum, the bias copy
inside a product), so that work is counted once and held against all of its time. Views and wrappers are looked
through. This is what the dispatcher calls an op, and what a count made there sees. On a GPU an op that lets another one
fill its result (a loss's gradient with zeros) writes only what is left: the fill is a record of its own.
"""

from collections import defaultdict

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from loraprof.analysis.analyse import Analysis
from loraprof.analysis.attribution.compiled import CompiledRows
from loraprof.analysis.partition.ledger import Ledger
from loraprof.analysis.trace.call_tree import Tree
from loraprof.analysis.work import PRODUCTS, RULES, VIEWS, WRAPPERS, work_of
from loraprof.analysis.work.rule import Work
from loraprof.model.recording import Recording
from loraprof.model.trace import NONE, Bool, Int32, Int64, Trace, taken
from loraprof.model.vocabulary import ROLE, HostKind

_NOTHING = Work(0, 0, 0, "view")
_UPDATES = (ROLE["optimizer"], ROLE["grad_clip"])
_FILLS = frozenset(("zero_", "fill_"))


class Busy(Struct, frozen=True, eq=False):
    """Work of one step: what the tables aggregate.

    ``work`` is known where the op's inputs were recorded. An op that launched several kernels gives its work to the
    longest.
    """

    rows: Int64  # -> Ledger entries
    ns: Int64  # duration of the record; CPU: time of the op with what it calls, but for ops with rows of their own
    exclusive_ns: Int64  # what of it the step's partition gives to this row
    work: list[Work | None]
    op: list[str | None]


def busy_of(analysis: Analysis, ledger: Ledger) -> Busy:
    rows = np.flatnonzero(ledger.busy)
    tree = _tree(analysis, ledger.op[rows])
    worker = workers(analysis.trace, tree)
    if analysis.on_gpu:
        ns, exclusive = ledger.full_ns[rows], ledger.ns[rows]
    else:
        rows, ns = _folded(analysis.trace, tree, ledger, rows, worker)
        exclusive = ns
    work, ops = _work(analysis, ledger, rows, ns, worker)
    if analysis.on_gpu:
        work = _less_fills(analysis.trace, tree, ledger.op[rows], work)
    return Busy(rows, ns, exclusive, work, ops)


def _tree(analysis: Analysis, ops: Int32) -> Tree:
    """What encloses the step's ops, and what they enclose."""
    host, known = analysis.trace.host, ops[ops != NONE]
    low, high = (int(host.start[known].min()), int(host.end[known].max())) if len(known) else (0, 0)
    return analysis.attribution.tree.during(host, low, high)


def workers(trace: Trace, tree: Tree) -> Int64:
    """Per host row, the op whose work covers it: itself or an enclosing one; -1 none.

    Of nested products the innermost, of other nested ops with a rule the outermost.
    """
    op = trace.host.kind == HostKind.OP
    product = op & _named(trace, PRODUCTS)
    product[_around(tree, product)] = False
    ruled = op & _named(trace, RULES.keys() - PRODUCTS - WRAPPERS - frozenset(VIEWS))
    ruled &= taken(tree.nearest(ruled), tree.parent) == NONE
    products, others = tree.nearest(product), tree.nearest(ruled)
    return np.where(products != NONE, products, others)


def _named(trace: Trace, names: frozenset[str] | set[str]) -> Bool:
    flag = np.array([n.removeprefix("aten::") in names for n in trace.names], dtype=np.bool_)
    named: Bool = flag[trace.host.name]
    return named


def _around(tree: Tree, flag: Bool) -> Int64:
    """Flagged rows that enclose another one."""
    outer = taken(tree.nearest(flag), tree.parent[flag])
    around: Int64 = outer[outer != NONE]
    return around


def _leaves(trace: Trace, tree: Tree) -> Bool:
    """Ops without ops inside, views aside."""
    op: Bool = trace.host.kind == HostKind.OP
    out = op.copy()
    enclosing = taken(tree.nearest(op), tree.parent[op & ~_named(trace, frozenset(VIEWS))])
    out[enclosing[enclosing != NONE]] = False
    return out


def _folded(trace: Trace, tree: Tree, ledger: Ledger, rows: Int64, worker: Int64) -> tuple[Int64, Int64]:
    """Entries of workers, and of leaves that no worker covers, with the time of all that they cover."""
    op = ledger.op[rows]
    owner = np.where(worker[op] != NONE, worker[op], op)
    spent = np.zeros(len(worker), dtype=np.int64)
    np.add.at(spent, owner, ledger.ns[rows])
    leaf = _leaves(trace, tree)
    kept = (owner == op) & ((worker[op] != NONE) | leaf[op])
    return rows[kept], spent[op[kept]]


def _work(
    analysis: Analysis, ledger: Ledger, rows: Int64, ns: Int64, worker: Int64
) -> tuple[list[Work | None], list[str | None]]:
    """Work and op name of each row."""
    trace, trained = analysis.trace, _trained_dtype(analysis.recording)
    product = _named(trace, PRODUCTS)
    known: dict[tuple[int, int, str | None], Work | None] = {}

    def asked(row: int, role: int) -> Work | None:
        name, shape = int(trace.host.name[row]), int(trace.host.shapes[row])
        key = name, shape, trained if role in _UPDATES else None
        if key not in known:
            known[key] = work_of(trace.names[name], trace.shapes[shape], key[2]) if shape != NONE else None
        return known[key]

    given: dict[int, int] = {}
    for i in np.argsort(-ns, kind="stable").tolist():
        given.setdefault(int(ledger.op[rows[i]]), i)
    work: list[Work | None] = []
    ops: list[str | None] = []
    for i, (row, role) in enumerate(zip(ledger.op[rows].tolist(), ledger.role[rows].tolist(), strict=True)):
        if row == NONE:
            work.append(None)
            ops.append(None)
            continue
        ops.append(trace.names[int(trace.host.name[row])])
        around = int(worker[row])
        if around not in (row, -1) and product[around]:  # a kernel that a product launched, which has the work
            work.append(_NOTHING if asked(around, role) is not None else None)
        else:
            work.append(asked(row, role) if given[row] == i else None)
    return work, ops


def _less_fills(trace: Trace, tree: Tree, op: Int32, work: list[Work | None]) -> list[Work | None]:
    """``work`` of ops without the bytes that a fill below them wrote."""
    fills = _named(trace, _FILLS)
    launching = np.zeros(len(fills), dtype=np.bool_)
    launching[op[op != NONE]] = True
    above = tree.nearest(launching & ~fills)
    filled: dict[int, int] = defaultdict(int)
    for row, one in zip(op.tolist(), work, strict=True):
        if one is not None and row != NONE and fills[row] and above[row] != NONE:
            filled[int(above[row])] += one.write_bytes
    if not filled:
        return work
    return [
        replace(one, write_bytes=max(one.write_bytes - filled[row], 0), writes=()) if one and row in filled else one
        for row, one in zip(op.tolist(), work, strict=True)
    ]


def _trained_dtype(recording: Recording | None) -> str | None:
    """Element type of the optimizer's tensor lists, which traces do not record; None where parameters differ."""
    dtypes = {p.dtype for p in recording.parameters if p.trainable} if recording else set()
    return dtypes.pop() if len(dtypes) == 1 else None


def mixed_ns(rows: CompiledRows | None, ledger: Ledger) -> int:
    """Time of a step's kernels that hold adapter ops and count as another role."""
    if rows is None:
        return 0
    at = np.flatnonzero(ledger.busy & (ledger.op != NONE))
    return int(ledger.ns[at][rows.mixed[ledger.op[at]]].sum())
