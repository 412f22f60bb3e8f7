"""Which modules and ops is each kernel of a compiled graph made of? Listens to inductor while it writes its code.

Inductor names the FX nodes behind a kernel call as it generates the call (``set_kernel_post_grad_provenance_tracing``);
a node of the forward graph carries the modules it was traced in (``nn_module_stack``), one of the backward graph those
of the forward op that it differentiates (``fwd_nn_module_stack``). Inductor's own record of this
(``provenance_tracking_level``) keeps neither the modules nor anything of backward graphs, torch 2.13.

Private API: where a version of torch lacks it nothing is heard, and the analysis falls back on names and shapes.
"""

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any, Final, NamedTuple

from torch import nn

from loraprof.analysis.attribution.compiled_graphs import spelled
from loraprof.model.compilation import CompiledCall, CompiledGraph, FusedOp
from loraprof.model.recording import ModuleInfo

_FUNCTION: Final = "set_kernel_post_grad_provenance_tracing"
_PRODUCTS: Final = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
_MOVES: Final = ("aten::reshape", "aten::_unsafe_view", "aten::clone")  # views, or what a fused kernel reads anyway
_ENTRY: Final = re.compile(r"(?:\.__dict__\['_modules'\]|\._modules)\['([^']+)'\]|\[(\d+)\]")
_GETATTR: Final = re.compile(r"getattr\((.+), '([^']+)'\)")
_VARIABLE: Final = re.compile(r"^[LG]\['[^']+'\]")


class Origin(NamedTuple):
    """Where an op was traced. ``path`` is below the variable that held the outermost module; ``None``: not known."""

    key: str  # id of the module, as text; older torch: its path
    path: tuple[str, ...] | None
    cls: str
    within: bool  # the outermost module's forward is what was compiled, not a function that calls it


Ops = dict[tuple[Origin, str], tuple[int, int]]  # per place and op: the least autograd number, how many nodes

NOWHERE: Final = Origin("", None, "", False)
FRAME: Final = Origin("", (), "", True)  # directly in the compiled forward or function


class Provenance:
    """``listen`` and ``stop`` may be called at any time, more than once; ``graphs`` when compilation is over."""

    def __init__(self) -> None:
        self._graphs: dict[tuple[str, bool, int], list[tuple[str, Ops]]] = {}
        self._held: list[Any] = []  # keeps the graphs alive whose ids are keys
        self._undo: list[Callable[[], None]] = []
        self.failed = False

    def listen(self) -> None:
        """Puts a listener before inductor's function wherever it is bound. Imports inductor: call it when needed."""
        if self._undo or self.failed:
            return
        try:
            home = import_module("torch._inductor.debug")
            original: Callable[..., Any] = vars(home)[_FUNCTION]
        except (ImportError, KeyError):
            return

        def told_us(node_schedule: Any, kernel_name: str, is_extern: bool = False, *more: Any, **named: Any) -> Any:
            try:
                self._hear(node_schedule, kernel_name, is_extern)
            except Exception:  # private structures: whatever they are, the user's compilation goes on
                self._graphs.clear()
                self.failed = True
                self.stop()
            return original(node_schedule, kernel_name, is_extern, *more, **named)

        for module in [m for name, m in sys.modules.items() if name.startswith("torch._inductor")]:
            if vars(module).get(_FUNCTION) is original:
                setattr(module, _FUNCTION, told_us)
        self._undo.append(lambda: _rebind(told_us, original))

    def stop(self) -> None:
        for undo in self._undo:
            undo()
        self._undo.clear()

    def _hear(self, node_schedule: Any, kernel: str, is_extern: bool) -> None:
        from torch._guards import CompileContext
        from torch._inductor.virtualized import V

        graph: Any = V.graph
        region = str(CompileContext.current_compile_id())
        key = region, bool(graph.is_backward), id(graph)
        if key not in self._graphs:
            self._held.append(graph)
        ops: Ops = {}
        for node in _nodes(node_schedule, kernel, is_extern):
            op, number = _op_of(node), node.meta.get("seq_nr", -1)
            if op is not None:
                least, count = ops.get((_origin(node.meta), op), (number, 0))
                ops[_origin(node.meta), op] = min(least, number), count + 1
        self._graphs.setdefault(key, []).append((kernel, ops))

    def graphs(self, ids: Mapping[nn.Module, int], table: list[ModuleInfo]) -> list[CompiledGraph]:
        """What was heard, modules by their number in ``table``."""
        places = Places(ids, table)
        out = []
        for (region, backward, _), heard in self._graphs.items():
            root = places.root(origin for _, ops in heard for origin, _ in ops)
            calls = [CompiledCall(kernel, _fused(ops, root, places)) for kernel, ops in heard]
            out.append(CompiledGraph(region=region, backward=backward, root=root, calls=calls))
        return out


class Places:
    """From what the compiler knows of a module to its number."""

    def __init__(self, ids: Mapping[nn.Module, int], table: list[ModuleInfo]) -> None:
        self._table = table
        self._by_id = {str(id(module)): number for module, number in ids.items() if number < len(table)}
        self._by_path = {m.path: m.id for m in table}

    def number(self, origin: Origin) -> int:
        """-1 where the module is none that was numbered, or more than one may be meant."""
        found = self._by_id.get(origin.key, -1)
        if found >= 0 and self._table[found].cls == origin.cls:
            return found
        if not origin.path:
            return -1
        tail = ".".join(origin.path)
        alike = [m.id for m in self._table if m.cls == origin.cls and (m.path == tail or m.path.endswith(f".{tail}"))]
        return alike[0] if len(alike) == 1 else -1

    def root(self, origins: Iterable[Origin]) -> int:
        """The module whose forward was compiled; -1 a function, or not known."""
        found = set()
        for origin in set(origins):
            number = self.number(origin) if origin.within and origin.path else -1
            if number < 0 or origin.path is None:
                continue
            parts = self._table[number].path.split(".")
            if tuple(parts[-len(origin.path) :]) == origin.path:
                found.add(".".join(parts[: -len(origin.path)]))
        return self._by_path.get(found.pop(), -1) if len(found) == 1 else -1


def _fused(ops: Ops, root: int, places: Places) -> list[FusedOp]:
    out: dict[tuple[int, str], FusedOp] = {}
    for (origin, op), (least, count) in ops.items():
        module = root if origin == FRAME else places.number(origin)
        before = out.get((module, op), FusedOp(module, op, least, 0))
        out[module, op] = FusedOp(module, op, min(before.sequence, least), before.count + count)
    return sorted(out.values(), key=lambda f: (f.sequence, f.module, f.op))


def _rebind(before: Any, after: Any) -> None:
    for module in [m for name, m in sys.modules.items() if name.startswith("torch._inductor")]:
        if vars(module).get(_FUNCTION) is before:
            setattr(module, _FUNCTION, after)


def _nodes(node_schedule: Any, kernel: str, is_extern: bool) -> list[Any]:
    """The distinct FX nodes behind a kernel call. An operator that stayed one is its own node, not what feeds it."""
    if is_extern and node_schedule.origin_node is not None:
        return [node_schedule.origin_node]
    if is_extern:
        origins = list(node_schedule.origins)
        return [n for n in origins if spelled(_qualified(n.target) or "") == spelled(kernel)] or origins
    buffers = (getattr(scheduled, "node", None) for scheduled in node_schedule)
    return list(dict.fromkeys(origin for buffer in buffers if buffer is not None for origin in buffer.origins))


def _op_of(node: Any) -> str | None:
    """The ATen op a node came from, before decomposition; None for views and for what is no op."""
    name = _qualified(node.target) if node.op == "call_function" else None
    if name is None or name in _MOVES or getattr(node.target, "is_view", False):
        return None
    return name if name in _PRODUCTS else _qualified(node.meta.get("original_aten")) or name


def _qualified(op: Any) -> str | None:
    schema = getattr(op, "_schema", None)
    if schema is not None:
        return str(schema.name)
    name = getattr(op, "_qualified_op_name", None)
    return str(name) if name else None


def _origin(meta: Mapping[str, Any]) -> Origin:
    stack = meta.get("nn_module_stack") or meta.get("fwd_nn_module_stack")
    if not stack:
        traced = meta.get("source_fn_stack") or meta.get("fwd_source_fn_stack")
        return FRAME if traced else NOWHERE
    (_, (outer, _)), (key, (path, cls)) = next(iter(stack.items())), list(stack.items())[-1]
    name = cls if isinstance(cls, str) else cls.__name__
    return Origin(str(key), parts_of(str(path)), name.rsplit(".", 1)[-1], bool(parts_of(str(outer))))


def parts_of(path: str) -> tuple[str, ...]:
    """``L['self']._modules['blocks'][0].up`` is ("blocks", "0", "up"): dynamo's name without the variable.

    The wrapper that ``torch.compile`` puts around a module counts as the module.
    """
    while found := _GETATTR.search(path):
        path = path[: found.start()] + f"{found[1]}.{found[2]}" + path[found.end() :]
    plain = _ENTRY.sub(lambda m: f".{m[1] or m[2]}", _VARIABLE.sub("", path))
    return tuple(part for part in plain.split(".") if part and part != "_orig_mod")
