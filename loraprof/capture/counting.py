"""What does one step compute and move at least? A dispatch mode sees every op with its real tensors (pass C).

FLOPs come from torch's own formulas (``torch.utils.flop_counter``); minimum bytes count each distinct input
storage range once and each output once, views nothing. In-place accumulation becomes out-of-place under a dispatch
mode, so op lists differ slightly from the profiled step; peak memory is never taken from here.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import flop_registry

from loraprof.model.recording import CountedOp


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts ops between ``__enter__`` and ``__exit__``; ``where()`` gives (module id, phase, autograd
    number): the module is -1 in the backward pass, where the number says whose node runs."""

    def __init__(self, where: Callable[[], tuple[int, str, int]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._where = where
        self._counts: Counter[tuple[int, str, int, str, str, int, int]] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        view = bool(getattr(func, "is_view", False))
        flops = 0
        if packet in flop_registry:
            try:
                flops = int(flop_registry[packet](*args, **(kwargs or {}), out_val=out))
            except (TypeError, ValueError, AssertionError, RuntimeError):
                flops = 0
        moved = 0 if view else min_bytes((args, kwargs), out)
        shapes = " ".join("x".join(map(str, t.shape)) for t in _tensors(args)[:4])
        self._counts[(*self._where(), f"aten::{packet.__name__}", shapes, flops, moved)] += 1
        return out

    def open(self) -> None:
        """Starts counting."""
        enter: Any = self.__enter__
        enter()

    def close(self) -> None:
        """Stops counting."""
        leave: Any = self.__exit__
        leave(None, None, None)

    def counted(self, owner: Callable[[int], int]) -> list[CountedOp]:
        """Everything seen, sorted; ``owner`` maps an autograd number to a module id (-1 none).

        ``flops`` and ``min_bytes`` are totals over ``count``.
        """
        merged: Counter[tuple[int, str, str, str, int, int]] = Counter()
        for (module, phase, number, op, shapes, flops, moved), n in self._counts.items():
            merged[(owner(number) if number >= 0 else module, phase, op, shapes, flops, moved)] += n
        return [
            CountedOp(module=m, phase=p, op=op, shapes=s, count=n, flops=f * n, min_bytes=b * n)
            for (m, p, op, s, f, b), n in sorted(merged.items())
        ]


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [t for t in tree_flatten(tree)[0] if isinstance(t, torch.Tensor)]


def _extent(t: torch.Tensor) -> int:
    """Bytes of storage a tensor touches: expanded (stride 0) dimensions count once."""
    n = t.element_size()
    for size, stride in zip(t.shape, t.stride(), strict=True) if t.layout == torch.strided else ():
        n *= size if stride else 1
    return n if t.numel() else 0


def min_bytes(inputs: Any, outputs: Any) -> int:
    """Unique inputs read once plus outputs written once, bytes."""

    def unique(tree: Any) -> int:
        seen = {}
        for t in _tensors(tree):
            if t.layout == torch.strided:
                seen[(t.data_ptr(), tuple(t.shape), t.stride(), t.dtype)] = _extent(t)
        return sum(seen.values())

    return unique(inputs) + unique(outputs)
