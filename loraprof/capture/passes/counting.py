"""What does one step compute and move at least? A dispatch mode sees every op with its real tensors (pass C).

FLOPs come from torch's own formulas (``torch.utils.flop_counter``); minimum bytes count each distinct input
storage range once and each output once, views nothing. In-place accumulation becomes out-of-place under a dispatch
mode, so op lists differ slightly from the profiled step; peak memory is never taken from here.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from loraprof.capture.modules.shards import first_byte
from loraprof.capture.passes.repeats import Repeats
from loraprof.model.recording import CountedOp

aten: Any = torch.ops.aten
FREE: Final = ("_unsafe_view", "detach", "lift_fresh", "_local_scalar_dense", "empty", "empty_like", "empty_strided",
               "new_empty", "new_empty_strided")  # fmt: skip
OVERWRITING: Final = ("copy_", "zero_", "fill_", "bernoulli_", "normal_", "uniform_", "random_")
GATHERS: Final = {"embedding": 0, "gather": 0, "index": 0, "index_select": 0}  # op: position of its table


def _cpu_attention(q: Any, k: Any, v: Any, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    return int(sdpa_flop_count(q.shape, k.shape, v.shape))  # type: ignore[no-untyped-call]


def _cpu_attention_backward(grad: Any, q: Any, k: Any, v: Any, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    return int(sdpa_backward_flop_count(grad.shape, q.shape, k.shape, v.shape))  # type: ignore[no-untyped-call]


FLOPS: Final[dict[Any, Callable[..., Any]]] = flop_registry | {  # torch's table leaves out attention on a CPU
    aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _cpu_attention_backward,
}


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts ops between ``__enter__`` and ``__exit__``; ``where()`` gives (module id, phase, autograd
    number): the module is -1 in the backward pass, where the number says whose node runs. ``repeats`` sees them too."""

    def __init__(self, where: Callable[[], tuple[int, str, int]], repeats: Repeats | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._where, self._repeats = where, repeats
        self.uncounted = 0
        self._counts: Counter[tuple[int, str, int, str, str, int, int]] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        try:
            self._count(func, args, kwargs or {}, out)
        except Exception:  # an op of a kind of its own: whatever it is, the training goes on
            self.uncounted += 1
        return out

    def _count(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        packet = func.overloadpacket
        flops = 0
        if packet in FLOPS:
            try:
                flops = int(FLOPS[packet](*args, **kwargs, out_val=out))
            except (TypeError, ValueError, AssertionError, RuntimeError):
                flops = 0
        moved = min_bytes(func, args, kwargs, out)
        shapes = " ".join("x".join(map(str, t.shape)) for t in _tensors(args)[:4])
        where = self._where()
        if self._repeats is not None:
            self._repeats.see(func, args, kwargs, out, where)
        self._counts[(*where, f"aten::{packet.__name__}", shapes, flops, moved)] += 1

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
    for size, stride in zip(t.shape, t.stride(), strict=True):
        n *= size if stride else 1
    return n if t.numel() else 0


def _unique(tree: Any) -> dict[tuple[Any, ...], int]:
    """Bytes of each distinct tensor of strided layout."""
    strided = [t for t in _tensors(tree) if t.layout == torch.strided]
    return {(first_byte(t), tuple(t.shape), t.stride(), t.dtype): _extent(t) for t in strided}


def _mutated(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[tuple[Any, ...], int]:
    """Arguments that the op writes. A fused optimizer's schema lists its gradients too, which it only scales."""
    out: dict[tuple[Any, ...], int] = {}
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write and argument.name != "grads":
            out |= _unique(args[i] if i < len(args) else kwargs.get(argument.name))
    return out


def min_bytes(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """Unique inputs read once plus outputs written once, bytes.

    What is overwritten is not read; a gather reads of its table what it selects.
    """
    name = func.overloadpacket.__name__
    if func.is_view or name in FREE:
        return 0
    inputs, written = _unique((args, kwargs)), _mutated(func, args, kwargs)
    made = {k: n for k, n in _unique(out).items() if k not in inputs}
    read = sum(n for k, n in inputs.items() if not (name in OVERWRITING and k in written))
    if name in GATHERS and inputs and made:
        table = next(iter(_unique(args[GATHERS[name]]).values()))
        read -= max(table - sum(made.values()), 0)
    return read + sum((written | made).values())
