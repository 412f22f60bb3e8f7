"""Which module is running? Markers in the trace and sequence numbers per module call, from global hooks.

While installed, every ``nn.Module`` call opens a range ``loraprof::m<id>`` (``_RecordFunctionFast``: 0.2 us, a
Python ``record_function`` costs forty times that) and stores the autograd sequence number before and after the
call. Node s of a thread belongs to the innermost call with ``before <= s < after``. Post-hooks are registered
with ``always_call=True``: non-reentrant checkpointing ends its recompute with an exception.

A compiled region calls no hooks, so the modules inside it leave no markers; the module that enters it does. Dynamo must
neither see the hooks while it compiles (``pause``), for then they become part of the graph, nor take their Python for
code to compile (``never_compiled``).
"""

import threading
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from loraprof.capture.adapters.flow import Flow
from loraprof.capture.compiled.dynamo import is_wrapper, named_modules, never_compiled
from loraprof.capture.modules.paths import paths_of
from loraprof.model.recording import ModuleCall
from loraprof.model.vocabulary import GRADIENT_MARKER, MODULE_MARKER

_Range: Any = torch._C._profiler._RecordFunctionFast
COUNTED = -1  # ``step`` of the counting pass
_sequence_nr: Any = vars(torch.autograd)["_get_sequence_nr"]
_HOOKS_SEEN: Final = r"Using `torch\.compile\(module\)` when there are global hooks"
_Open = tuple[Any, int, int, nn.Module]  # range, module id, autograd number before, module


class Lookup(NamedTuple):
    """Where elements were looked up: within which outermost call, with gradient or without, in a table of what size."""

    outer: nn.Module
    gradient: bool
    width: int
    rows: int


@dataclass(slots=True)
class Called:
    """The first input of a module that owns parameters, as the counted step passed it; ``calls`` without recompute."""

    shape: torch.Size
    dtype: torch.dtype
    autocast: torch.dtype | None
    calls: int = 0


class Markers:
    """Installs and removes the hooks; ``calls`` grows while ``step`` is not None."""

    def __init__(self) -> None:
        self.ids: dict[nn.Module, int] = {}
        self.roots: list[nn.Module] = []
        self.hung: list[tuple[nn.Module, nn.Module]] = []  # called inside another module without being below it
        self.parameters: list[tuple[nn.Module, str, nn.Parameter]] = []
        self.calls: list[ModuleCall] = []
        self.step: int | None = None
        self.called: dict[nn.Module, Called] = {}  # filled while ``step`` is COUNTED
        self.embedded: Counter[Lookup] = Counter()  # elements looked up in forward calls
        self.flow: Flow | None = None  # of the counted step
        self.silent: set[nn.Module] = set()  # roots that ran in it, never with gradient: nobody froze a teacher, say
        self.arrived: set[int] = set()  # parameters whose gradient was accumulated, once it is watched
        self._passing: dict[tuple[nn.Module | None, type], int] = {}
        self._local = threading.local()
        self._hooks: list[RemovableHandle] = []
        self._handles: list[RemovableHandle] = []  # of gradients
        self._installed = False
        self._silenced: Any = None

    def install(self) -> None:
        """From here on module calls leave markers."""
        if self._installed:
            return
        never_compiled(Markers._enter, Markers._leave, Markers._stack, Markers._look_up, Markers._note)
        never_compiled(Markers._meet, Markers._number, Markers.adopt, Lookup.__new__)
        warnings.filterwarnings("ignore", message=_HOOKS_SEEN)  # the hooks are not the user's
        self._silenced = warnings.filters[0]
        self._installed = True
        self.resume()

    def pause(self) -> None:
        """Takes the module hooks off for a while; open ranges stay open."""
        for handle in self._hooks:
            handle.remove()
        self._hooks = []

    def resume(self) -> None:
        """Puts the hooks back where ``install`` had put them."""
        if self._installed and not self._hooks:
            self._hooks = [
                register_module_forward_pre_hook(self._enter),
                register_module_forward_hook(self._leave, always_call=True),
            ]

    def remove(self) -> None:
        """Takes every hook away and closes ranges an exception left open."""
        self._installed = False
        self.pause()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self._silenced in warnings.filters:
            warnings.filters.remove(self._silenced)  # type: ignore[attr-defined]
        for marker, *_ in reversed(self._stack()):
            marker.__exit__(None, None, None)
        self._stack().clear()

    def watch_gradients(self) -> None:
        """Marks when each trainable parameter of the known roots has accumulated its gradient."""
        for number, (_, _, parameter) in enumerate(self.parameters):
            if parameter.requires_grad and parameter.is_leaf:
                hook: Any = parameter.register_post_accumulate_grad_hook
                self._handles.append(hook(_gradient_marker(number, self.arrived)))

    def adopt(self, roots: Iterable[nn.Module]) -> None:
        """Numbers the modules and parameters of root modules, in order of definition."""
        for root in roots:
            self.roots.append(root)
            self._number(root)

    def paths(self) -> dict[str, nn.Module]:
        """Every numbered module by its path; further roots start with their class, hung ones with their caller."""
        return paths_of(self.roots, self.hung)

    def root_of(self) -> dict[nn.Module, int]:
        """Every module's root by its position; of several that hold it, the first."""
        root = {m: i for i, top in reversed([*enumerate(self.roots)]) for m in top.modules()}
        for module, caller in self.hung:
            root |= dict.fromkeys(module.modules(), root.get(caller, 0))
        return root

    def trained(self) -> list[nn.Module]:
        """The roots that hold parameters which are trained; the first where none does."""
        root = self.root_of()
        wanted = {root.get(m, 0) for m, _, p in self.parameters if p.requires_grad}
        return [top for i, top in enumerate(self.roots) if i in wanted and top not in self.silent] or self.roots[:1]

    def _number(self, top: nn.Module) -> None:
        modules = [module for _, module in named_modules(top)]
        for module in modules:
            self.ids.setdefault(module, len(self.ids))
        if self.flow is not None:
            self.flow.adopt(modules)
        seen = {id(p) for _, _, p in self.parameters}
        for module in modules:
            for name, parameter in module._parameters.items():
                if parameter is not None and id(parameter) not in seen:
                    seen.add(id(parameter))
                    self.parameters.append((module, name, parameter))

    def follow(self) -> Flow:
        """From here on what flows through the modules can be told to the flow that this returns."""
        self.flow = Flow(self.frame)
        self.flow.adopt(self.ids)
        return self.flow

    def followed(self) -> None:
        """Ends ``follow``. Parameters of modules that are never called themselves count to the one that used them."""
        has_graph = {c.module: False for c in self.calls} | {c.module: True for c in self.calls if c.after > c.before}
        self.silent = {top for top in self.roots if has_graph.get(self.ids[top]) is False}
        if self.flow is None:
            return
        self.flow.clear()
        self.parameters = [  # a functional call had put other tensors in their place
            (m, name, p if p.is_leaf or (held := m._parameters.get(name)) is None else held)
            for m, name, p in self.parameters
        ]
        known = {id(p) for _, _, p in self.parameters} | {(m, name) for m, name, _ in self.parameters}
        for i, (tensor, module, name) in enumerate(self.flow.leaves):
            if isinstance(tensor, nn.Parameter) and module in self.ids and not {id(tensor), (module, name)} & known:
                self.parameters.append((module, name or f"used_{i}", tensor))

    def used(self) -> set[int] | None:
        """Parameters (by ``id``) that the counted step used; None where that is not known."""
        if self.flow is None or self.flow.failed is not None:
            return None
        own = {id(p) for module in self.called for p in module.parameters(recurse=False)}
        return own | {id(t) for t, _, _ in self.flow.leaves}

    def frame(self) -> _Open | None:
        """The innermost module call."""
        stack = getattr(self._local, "stack", None)
        return stack[-1] if stack else None

    def where(self) -> tuple[int, str, int]:
        """(module id, phase, autograd number) of the code that runs now; -1 where there is none."""
        stack = self._stack()
        if torch._C._current_graph_task_id() < 0:
            return (stack[-1][1], "forward", -1) if stack else (-1, "other", -1)
        if stack:
            return stack[-1][1], "recompute", -1
        node: Any = torch._C._current_autograd_node()
        return -1, "backward", node._sequence_nr() if node is not None else -1

    def owners(self) -> dict[int, int]:
        """Rule (b): the module of the innermost recorded call whose interval holds an autograd number."""
        found: dict[int, int] = {}
        for c in sorted(self.calls, key=lambda c: c.after - c.before):
            for number in range(c.before, c.after):
                found.setdefault(number, c.module)
        return found

    def _stack(self) -> list[_Open]:
        stack: list[_Open] | None = getattr(self._local, "stack", None)
        if stack is None:
            stack = self._local.stack = []
        return stack

    def _enter(self, module: nn.Module, args: Any) -> None:
        if not self._hooks:
            return  # taken off by a hook before this one
        number = self.ids.get(module)
        if number is None:
            if is_wrapper(module):
                return
            number = self._meet(module)
        if isinstance(module, nn.Embedding) and self.step is not None:
            self._look_up(module, args)
        if self.step == COUNTED and module._parameters and torch._C._current_graph_task_id() < 0:
            self._note(module, args)
        marker = _Range(f"{MODULE_MARKER}{number}")
        self._stack().append((marker, number, _sequence_nr(), module))
        marker.__enter__()

    def _meet(self, module: nn.Module) -> int:
        """Number of a module that no root holds. One without parameters may be made anew at every call, as in
        ``nn.Softmax(-1)(x)``: all of a class at one caller share a number."""
        stack = self._stack()
        caller = stack[-1][3] if stack else None
        passing = not module._modules and not module._parameters
        known = self._passing.get((caller, type(module))) if passing else None
        if known is not None:
            return known
        if caller is None:
            self.adopt([module])
        else:
            self.hung.append((module, caller))
            self._number(module)
        number = self.ids[module]
        if passing:
            self._passing[caller, type(module)] = number
        return number

    def _look_up(self, module: nn.Embedding, args: Any) -> None:
        if args and isinstance(args[0], torch.Tensor):
            stack = self._stack()
            outer = stack[0][3] if stack else module
            # Encoder and decoder read the same vocabulary.
            key = Lookup(outer, torch.is_grad_enabled(), module.embedding_dim, module.num_embeddings)
            self.embedded[key] += args[0].numel()

    def _note(self, module: nn.Module, args: Any) -> None:
        if not args or not isinstance(args[0], torch.Tensor):
            return
        x = args[0]
        kind = x.device.type
        autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        seen = self.called.setdefault(module, Called(x.shape, x.dtype, autocast))
        seen.calls += 1

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        stack = self._stack()
        inner = stack[-1][3] if stack else None
        if inner is not module and all(entered is not module for *_, entered in stack):
            return  # it came in unseen: a wrapper, or while the hooks were off
        while stack:
            marker, opened, before, entered = stack.pop()
            marker.__exit__(None, None, None)
            if entered is module:
                if self.step is not None:
                    recompute = torch._C._current_graph_task_id() >= 0
                    after = _sequence_nr() if torch.is_grad_enabled() else before  # nodes that nothing leads to
                    self.calls.append(
                        ModuleCall(opened, threading.get_native_id(), before, after, recompute, self.step)
                    )
                return


def _gradient_marker(number: int, arrived: set[int]) -> Any:
    name = f"{GRADIENT_MARKER}{number}"

    def hook(_: torch.Tensor) -> None:
        with _Range(name):
            arrived.add(number)

    return hook
