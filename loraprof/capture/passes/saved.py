"""How much does the model's forward pass keep for its backward pass? Activations, where no allocator keeps statistics.

While open, tensors that autograd saves inside an outermost module call are summed by distinct storage, the module's own
weights left out. With checkpointing that is what the checkpoints keep, not what a recomputation makes for a moment.
"""

import threading
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from loraprof.capture.modules.shards import address, held_bytes


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

    def close(self) -> None:
        """Safe to call at any moment, more than once."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
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
        self._inside = saved_tensors_hooks(self._pack, _unpack)
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

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        place = address(tensor)
        if place not in self._weights and tensor.layout == torch.strided:
            self._storages[place] = held_bytes(tensor)
        return tensor.detach()  # an output that kept itself would never be freed


def _unpack(tensor: torch.Tensor) -> torch.Tensor:
    return tensor
