"""How much does the model's forward pass keep for its backward pass? Activations, where no allocator keeps statistics.

While open, tensors that autograd saves inside an outermost module call are summed by distinct storage, the module's own
weights left out. With checkpointing that is what the checkpoints keep, not what a recomputation makes for a moment.
torch.func refuses to differentiate while such hooks are set: what runs under it is not summed.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd import graph
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from loraprof.capture.modules.shards import address, held_bytes

_graph: Any = graph
_disabled: Any = graph.disable_saved_tensors_hooks
_enabled: Any = vars(torch._C._autograd)["_saved_tensors_hooks_is_enabled"]


class SavedForBackward:
    """Counts between ``open`` and ``close``; the hooks of autograd are set only while a module runs."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._per_root: dict[nn.Module, int] = {}
        self._thread = threading.get_ident()
        self._root: nn.Module | None = None
        self._inside: Any = None
        self._weights: set[int] = set()
        self._storages: dict[int, int] = {}

    @property
    def nbytes(self) -> int | None:
        """Bytes of one forward pass, the most of several; None when nothing was saved."""
        return sum(self._per_root.values()) or None

    def open(self) -> None:
        self._handles = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        ]
        _graph.disable_saved_tensors_hooks = self._aside

    def close(self) -> None:
        """Safe to call at any moment, more than once."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if _graph.disable_saved_tensors_hooks == self._aside:
            _graph.disable_saved_tensors_hooks = _disabled
        self._stop()

    def _enter(self, module: nn.Module, args: Any) -> None:
        if threading.get_ident() != self._thread or torch._C._current_graph_task_id() >= 0:
            return
        if self._root is not None:  # FSDP gathers a block's weights as the block begins: they are no activations
            self._weights |= {address(p) for p in module.parameters(recurse=False)}
            return
        self._root = module
        self._weights = {address(t) for t in (*module.parameters(), *module.buffers())}
        self._storages = {}
        if _enabled():
            self._inside = graph.saved_tensors_hooks(self._pack, _unpack)
            self._inside.__enter__()

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if module is not self._root:
            return
        self._stop()
        self._per_root[module] = max(self._per_root.get(module, 0), sum(self._storages.values()))

    def _stop(self) -> None:
        if self._inside is not None:
            self._inside.__exit__(None, None, None)
        self._root = self._inside = None

    @contextmanager
    def _aside(self, message: str) -> Iterator[None]:
        """Stands for torch's function of this place: the hooks are off as long as someone forbids them."""
        own = self._inside if threading.get_ident() == self._thread else None
        if own is not None:
            own.__exit__(None, None, None)
        try:
            with _disabled(message):
                yield
        finally:
            if own is not None:
                own.__enter__()

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        place = address(tensor)
        if place not in self._weights and tensor.layout == torch.strided:
            self._storages[place] = held_bytes(tensor)
        return tensor.detach()  # an output that kept itself would never be freed


def _unpack(tensor: torch.Tensor) -> torch.Tensor:
    return tensor
