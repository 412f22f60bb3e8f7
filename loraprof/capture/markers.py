"""Which module is running? Markers in the trace and sequence numbers per module call, from global hooks.

While installed, every ``nn.Module`` call opens a range ``loraprof::m<id>`` (``_RecordFunctionFast``: 0.2 us, a
Python ``record_function`` costs forty times that) and stores the autograd sequence number before and after the
call. Node s of a thread belongs to the innermost call with ``before <= s < after``. Post-hooks are registered
with ``always_call=True``: non-reentrant checkpointing ends its recompute with an exception.

A compiled region calls no hooks, so the modules inside it leave no markers; the module that enters it does. Dynamo must
neither see the hooks while it compiles (``pause``), for then they become part of the graph, nor take their Python for
code to compile (``never_compiled``).
"""

import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from loraprof.model.recording import ModuleCall
from loraprof.model.vocabulary import GRADIENT_MARKER, MODULE_MARKER

_Range: Any = torch._C._profiler._RecordFunctionFast
COUNTED = -1  # ``step`` of the counting pass
_sequence_nr: Any = vars(torch.autograd)["_get_sequence_nr"]
_HOOKS_SEEN: Final = r"Using `torch\.compile\(module\)` when there are global hooks"


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
        self.parameters: list[tuple[nn.Module, str, nn.Parameter]] = []
        self.calls: list[ModuleCall] = []
        self.step: int | None = None
        self.called: dict[nn.Module, Called] = {}  # filled while ``step`` is COUNTED
        self.embedded = 0  # elements the largest embedding looked up during recorded forward calls
        self._vocabulary = 0
        self._local = threading.local()
        self._hooks: list[RemovableHandle] = []
        self._handles: list[RemovableHandle] = []  # of gradients
        self._installed = False
        self._silenced: Any = None

    def install(self) -> None:
        """From here on module calls leave markers. Raises RuntimeError when already installed."""
        if self._installed:
            raise RuntimeError("markers are installed")
        never_compiled(
            Markers._enter, Markers._leave, Markers._stack, Markers._look_up, Markers._note, Markers.adopt
        )
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
                self._handles.append(hook(_gradient_marker(number)))

    def adopt(self, roots: Iterable[nn.Module]) -> None:
        """Numbers the modules and parameters of root modules, in order of definition."""
        for root in roots:
            self.roots.append(root)
            modules = [module for _, module in named_modules(root)]
            for module in modules:
                self.ids.setdefault(module, len(self.ids))
            seen = {id(p) for _, _, p in self.parameters}
            for module in modules:
                for name, parameter in module._parameters.items():
                    if parameter is not None and id(parameter) not in seen:
                        seen.add(id(parameter))
                        self.parameters.append((module, name, parameter))

    def where(self) -> tuple[int, str, int]:
        """(module id, phase, autograd number) of the code that runs now; -1 where there is none."""
        stack = self._stack()
        if torch._C._current_graph_task_id() < 0:
            return (stack[-1][1], "forward", -1) if stack else (-1, "other", -1)
        if stack:
            return stack[-1][1], "recompute", -1
        node: Any = torch._C._current_autograd_node()
        return -1, "backward", node._sequence_nr() if node is not None else -1

    def owner(self, number: int) -> int:
        """Rule (b): the innermost recorded call whose interval holds an autograd number, -1 none."""
        holding = [c for c in self.calls if c.before <= number < c.after]
        return min(holding, key=lambda c: c.after - c.before).module if holding else -1

    def _stack(self) -> list[tuple[Any, int, int]]:
        stack: list[tuple[Any, int, int]] | None = getattr(self._local, "stack", None)
        if stack is None:
            stack = self._local.stack = []
        return stack

    def _enter(self, module: nn.Module, args: Any) -> None:
        number = self.ids.get(module)
        if number is None:
            if is_wrapper(module):
                return
            if not self._stack():
                self.adopt([module])
            number = self.ids.setdefault(module, len(self.ids))
        if isinstance(module, nn.Embedding) and self.step is not None:
            self._look_up(module, args)
        if self.step == COUNTED and module._parameters and torch._C._current_graph_task_id() < 0:
            self._note(module, args)
        marker = _Range(f"{MODULE_MARKER}{number}")
        self._stack().append((marker, number, _sequence_nr()))
        marker.__enter__()

    def _look_up(self, module: nn.Embedding, args: Any) -> None:
        if not args or not isinstance(args[0], torch.Tensor) or module.num_embeddings < self._vocabulary:
            return
        if module.num_embeddings > self._vocabulary:
            self._vocabulary, self.embedded = module.num_embeddings, 0
        self.embedded += args[0].numel()

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
        number = self.ids.get(module)
        while stack and number is not None:
            marker, opened, before = stack.pop()
            marker.__exit__(None, None, None)
            if opened == number:
                if self.step is not None:
                    recompute = torch._C._current_graph_task_id() >= 0
                    self.calls.append(
                        ModuleCall(opened, threading.get_native_id(), before, _sequence_nr(), recompute, self.step)
                    )
                return


def named_modules(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """As ``root.named_modules()``, but for the wrappers of ``torch.compile``: neither they nor their names count."""
    for name, module in root.named_modules():
        if not is_wrapper(module):
            yield plain(name), module


def plain(name: str) -> str:
    """The name of a module or parameter without the wrappers of ``torch.compile``."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def is_wrapper(module: nn.Module) -> bool:
    """What ``torch.compile(module)`` returns: it calls the module."""
    return type(module).__name__ == "OptimizedModule" and "_orig_mod" in module._modules


def never_compiled(*functions: Callable[..., Any]) -> None:
    """Dynamo runs these as they are, wherever they are called; what they call is another matter."""
    decorators = sys.modules.get("torch._dynamo.decorators")
    skip: Any = getattr(decorators, "skip_code", None)
    for function in functions if skip is not None else ():
        skip(function.__code__)


def _gradient_marker(number: int) -> Any:
    name = f"{GRADIENT_MARKER}{number}"

    def hook(_: torch.Tensor) -> None:
        with _Range(name):
            pass

    return hook
