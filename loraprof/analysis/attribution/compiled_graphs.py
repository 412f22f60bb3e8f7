"""Which module and role has each kernel call of a compiled graph? From the ops the compiler said it is made of.

A fused kernel counts as the adapter's only where all of it is the adapter's: without the adapter the rest of it would
still run. Among the model's own roles the one with most ops wins, then the earlier in the vocabulary; its module is
the innermost one that holds every module involved.

Calls are matched to a trace by order: kernel names repeat, and equal kernels of different layers share one name.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import takewhile

from msgspec import Struct

from loraprof.analysis.attribution.roles import Context, Roles
from loraprof.analysis.attribution.weights import PRODUCT
from loraprof.model.compilation import CompiledGraph, FusedOp
from loraprof.model.recording import AdapterOps, Recording
from loraprof.model.trace import NONE
from loraprof.model.vocabulary import ADAPTER_ROLES, LOSS, ROLE, ROLES, Role

_PREFIX = re.compile(r"^graph_\d+_")
_CORE = ("scaled_dot", "softmax", "bmm", "flash")
_FAR = 1 << 62


class Placed(Struct, frozen=True):
    """``module``: its number, -1 none; ``LOSS`` for the loss. ``mixed``: adapter ops in a kernel of another role."""

    module: int | str
    role: int
    mixed: bool


class Scope(Struct, frozen=True):
    """A run of generated code: its compile id, its direction, and the module that was running (-1 none)."""

    region: str
    backward: bool
    inside: int


class Graphs:
    """The compiled graphs of a recording, by compile id and direction."""

    def __init__(self, recording: Recording | None, roles: Roles) -> None:
        compilation = recording.compilation if recording else None
        self._roles, self._table = roles, roles.table
        self._by_path = {m.path: m.id for m in roles.table}
        self._graphs: dict[tuple[str, bool], list[CompiledGraph]] = defaultdict(list)
        for graph in compilation.graphs if compilation else ():
            self._graphs[graph.region, graph.backward].append(graph)
        self._told = _told(roles.adapter_ops, compilation.graphs if compilation else ())
        self._several = {ops.module for ops in roles.adapter_ops if PRODUCT.search(ops.op)}

    def place(self, scope: Scope, calls: Sequence[str]) -> list[Placed | None] | None:
        """What each of ``calls`` (names of a trace) is, None for what is no call of the graph.

        None where no graph has these calls in this order.
        """
        for graph in self._graphs.get((scope.region, scope.backward), ()):
            rows = aligned([call.kernel for call in graph.calls], calls)
            if rows is not None:
                placed = self._all(graph, scope.inside)
                return [None if i is None else placed[i] for i in rows]
        return None

    def place_kernels(self, scope: Scope, kernels: Sequence[str]) -> list[Placed | None]:
        """What each kernel of a captured run of generated code is.

        Fused kernels carry their call's name; what lies between two of them is the operators called between the two,
        one kernel each, or of one owner.
        """
        out: list[Placed | None] = [None] * len(kernels)
        for graph in self._graphs.get((scope.region, scope.backward), ()):
            names = [call.kernel for call in graph.calls]
            fused = [i for i, name in enumerate(names) if not _is_operator(name)]
            seen = [j for j, name in enumerate(kernels) if name in set(names)]
            if [names[i] for i in fused] != [kernels[j] for j in seen]:
                continue
            placed = self._all(graph, scope.inside)
            edges = zip([-1, *fused], [*fused, len(names)], [-1, *seen], [*seen, len(kernels)], strict=True)
            for i, end, j, stop in edges:
                if i >= 0:
                    out[j] = placed[i]
                between = placed[i + 1 : end]
                if len(set(between)) == 1 or len(between) == stop - j - 1:
                    out[j + 1 : stop] = between if len(between) == stop - j - 1 else between[:1] * (stop - j - 1)
            break
        return out

    def _all(self, graph: CompiledGraph, inside: int) -> list[Placed]:
        moved, order = self._moved(graph, inside), self._order(graph)
        return [self._placed(call.ops, moved, order) for call in graph.calls]

    def _moved(self, graph: CompiledGraph, inside: int) -> dict[int, int]:
        """Equal modules share a graph: its modules in the one that was running. Empty: it was made for that one."""
        if inside < 0 or graph.root == NONE:
            return {}
        there, here = self._table[graph.root], self._table[inside]
        if here.cls != there.cls or here.path == there.path:
            return {}
        out = {}
        for m in self._table:
            if m.path == there.path or m.path.startswith(f"{there.path}."):
                out[m.id] = self._by_path.get(here.path + m.path[len(there.path) :], NONE)
        return out

    def _order(self, graph: CompiledGraph) -> "_Order":
        core: dict[int, int] = defaultdict(lambda: _FAR)
        head = _FAR
        for op in (op for call in graph.calls for op in call.ops):
            if op.sequence < 0 or op.module == NONE:
                continue
            if any(word in op.op for word in _CORE):
                core[op.module] = min(core[op.module], op.sequence)
            if op.module in self._roles.heads:
                head = op.sequence if head == _FAR else max(head, op.sequence)
        return _Order(graph.region, core, head)

    def _placed(self, ops: Iterable[FusedOp], moved: dict[int, int], order: "_Order") -> Placed:
        weights: Counter[Role] = Counter()
        modules: set[int] = set()
        for op in ops:
            number = moved.get(op.module, op.module)
            weights[self._role(op, order)] += op.count
            if number != NONE:
                modules.add(number)
        if not weights:
            return Placed(NONE, ROLE["other"], False)
        own = {role: n for role, n in weights.items() if role not in ADAPTER_ROLES} or weights
        known = {role: n for role, n in own.items() if role != "other"} or own
        role = min(known, key=lambda r: (-known[r], ROLES.index(r)))
        mixed = role not in ADAPTER_ROLES and any(r in ADAPTER_ROLES for r in weights)
        return Placed(LOSS if role == "loss" else self._common(modules), ROLE[role], mixed)

    def _role(self, op: FusedOp, order: "_Order") -> Role:
        after = order.head < op.sequence
        if op.module == NONE:
            return "loss" if after else "other"
        told = self._told.get((order.region, op.module, op.op, op.sequence))
        if told is not None:
            return told
        if op.module in self._several and PRODUCT.search(op.op):
            return "other"  # shapes decide
        before = 0 <= op.sequence < order.core.get(op.module, NONE)
        return self._roles.of(op.module, op.op, None, Context(after, before))

    def _common(self, modules: set[int]) -> int:
        """The innermost module around all of these; -1 none."""
        if len(modules) < 2:
            return next(iter(modules), NONE)
        paths = [self._table[m].path.split(".") for m in modules]
        shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
        return self._by_path.get(".".join(parts[0] for parts in shared), NONE)


class _Order(Struct, frozen=True):
    """Autograd numbers at which the forward pass came to things: the attention of a module, the end of the head."""

    region: str
    core: dict[int, int]
    head: int


def _told(adapter_ops: Sequence[AdapterOps], graphs: Iterable[CompiledGraph]) -> dict[tuple[str, int, str, int], Role]:
    """What the counted step saw single ops of a layer do that is base and adapter in one, by region, module, op and
    autograd number: the forward graph has the same ops in the same order, or nothing is known."""
    labels = {(ops.module, ops.op): ops.labels for ops in adapter_ops}
    numbers: dict[tuple[str, int, str], set[int]] = defaultdict(set)
    for graph in graphs:
        for op in (op for call in graph.calls for op in call.ops):
            if not graph.backward and (op.module, op.op) in labels and op.sequence >= 0:
                numbers[graph.region, op.module, op.op].add(op.sequence)
    out: dict[tuple[str, int, str, int], Role] = {}
    for key, seen in numbers.items():
        known = labels[key[1:]]
        for number, label in zip(sorted(seen), known * (len(seen) // len(known)), strict=False):
            if label is not None and len(seen) % len(known) == 0:
                out[*key, number] = label[1]
    return out


def _is_operator(kernel: str) -> bool:
    return kernel.startswith(("extern_kernels.", "torch.ops.", "aten.", "mkldnn."))


def aligned(kernels: Sequence[str], seen: Sequence[str]) -> list[int | None] | None:
    """For each name seen the kernel call it is, by order; None where the two do not agree.

    Calls whose names the trace nowhere shows were not recorded, names that no call has are something else.
    """
    expected, names = [spelled(k) for k in kernels], [spelled(s) for s in seen]
    both = set(expected) & set(names)
    there = [i for i, name in enumerate(expected) if name in both]
    here = [j for j, name in enumerate(names) if name in both]
    if not both or [expected[i] for i in there] != [names[j] for j in here]:
        return None
    found = dict(zip(here, there, strict=True))
    return [found.get(j) for j in range(len(names))]


def spelled(name: str) -> str:
    """ "extern_kernels.mm", "torch.ops.aten.mm.default" and "aten::mm" are "mm"; a fused kernel has no graph number."""
    if name.startswith(("torch.ops.", "aten.")):
        parts = name.removeprefix("torch.ops.").split(".")
        return parts[1] if len(parts) > 1 else parts[0]
    return _PREFIX.sub("", name).rpartition("::")[2].rpartition(".")[2]
