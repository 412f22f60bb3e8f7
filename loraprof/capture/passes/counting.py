"""What does one step compute and move at least? A dispatch mode sees every op with its real tensors (pass C).

FLOPs come from torch's own formulas (``torch.utils.flop_counter``); minimum bytes count each distinct input
storage range once and each output once, views nothing. In-place accumulation becomes out-of-place under a dispatch
mode, so op lists differ slightly from the profiled step; peak memory is never taken from here.
"""

import gc
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from loraprof.capture.adapters.flow import Flow
from loraprof.capture.adapters.ops import Op
from loraprof.capture.modules.shards import first_byte
from loraprof.capture.passes.repeats import Repeats
from loraprof.model.recording import CountedOp

aten: Any = torch.ops.aten
FREE: Final = ("_unsafe_view", "detach", "lift_fresh", "_local_scalar_dense", "empty", "empty_like", "empty_strided",
               "new_empty", "new_empty_strided")  # fmt: skip
OVERWRITING: Final = ("copy_", "zero_", "fill_", "bernoulli_", "normal_", "uniform_", "random_")
_PLAIN: Final = frozenset((int, float, bool, str, type(None)))
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
    number): the module is -1 in the backward pass, where the number says whose node runs. ``flow`` sees the forward
    pass, ``repeats`` all of it."""

    def __init__(
        self, where: Callable[[], tuple[int, str, int]], flow: Flow | None = None, repeats: Repeats | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._where, self._flow, self._repeats = where, flow, repeats
        self.uncounted = 0
        self._collects = False
        self._facts: dict[Any, _Facts] = {}
        self._counts: Counter[tuple[int, str, int, str, tuple[torch.Size, ...], int, int]] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        try:
            self._count(func, args, kwargs or {}, out)
        except Exception:  # an op of a kind of its own: whatever it is, the training goes on
            self.uncounted += 1
        return out

    def _count(self, func: Any, args: tuple[Any, ...], given: dict[str, Any], out: Any) -> None:
        facts = self._facts.get(func)
        if facts is None:
            facts = self._facts[func] = _Facts.of(func)
        flops = 0
        if facts.flops is not None:
            try:
                flops = int(facts.flops(*args, **given, out_val=out))
            except (TypeError, ValueError, AssertionError, RuntimeError):
                flops = 0
        tensors = _tensors(args)
        moved = 0 if facts.free else _moved(facts, tensors, args, given, out)
        where = self._where()
        if self._flow is not None and (
            where[1] == "forward" or (where[1] == "other" and torch.is_grad_enabled())  # not an optimizer's step
        ):
            self._flow.see(facts.flow, args, given, tensors, out)
        if self._repeats is not None:
            self._repeats.see(func, args, given, out, where)
        self._counts[(*where, facts.op, tuple([t.shape for t in tensors[:4]]), flops, moved)] += 1

    def open(self) -> None:
        """Starts counting. The many small objects that are kept would make the collector of garbage run again and
        again, in vain."""
        self._collects = gc.isenabled()
        gc.disable()
        enter: Any = self.__enter__
        enter()

    def close(self, lost: bool = False) -> None:
        """Stops counting. ``lost``: the thread that counted has ended."""
        if not lost:
            leave: Any = self.__exit__
            leave(None, None, None)
        if self._collects:
            gc.enable()

    def counted(self, owners: Mapping[int, int]) -> list[CountedOp]:
        """Everything seen, sorted; ``owners``: module ids by autograd number.

        ``flops`` and ``min_bytes`` are totals over ``count``.
        """
        merged: Counter[tuple[int, str, str, str, int, int]] = Counter()
        for (module, phase, number, op, shapes, flops, moved), n in self._counts.items():
            text = " ".join("x".join(map(str, shape)) for shape in shapes)
            merged[(owners.get(number, -1) if number >= 0 else module, phase, op, text, flops, moved)] += n
        return [
            CountedOp(module=m, phase=p, op=op, shapes=s, count=n, flops=f * n, min_bytes=b * n)
            for (m, p, op, s, f, b), n in sorted(merged.items())
        ]


def _tensors(tree: Any) -> list[torch.Tensor]:
    """In order. ``tree_flatten``, which knows every container, takes a third of the counted step."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    if isinstance(tree, tuple | list):
        return [t for x in tree if x.__class__ not in _PLAIN for t in _tensors(x)]
    return _tensors(list(tree.values())) if isinstance(tree, dict) else []


def _extent(t: torch.Tensor) -> int:
    """Bytes of storage a tensor touches: expanded (stride 0) dimensions count once."""
    n = t.element_size()
    for size, stride in zip(t.shape, t.stride(), strict=True):
        n *= size if stride else 1
    return n if t.numel() else 0


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is asked of every op, found out once."""

    op: str
    flops: Callable[..., Any] | None
    free: bool  # moves nothing
    overwrites: bool
    written: tuple[tuple[int, str], ...]  # arguments
    table: int | None  # position of what a gather reads from
    flow: Op

    @classmethod
    def of(cls, func: Any) -> "_Facts":
        """A fused optimizer's schema lists its gradients as written too, which it only scales."""
        name = func.overloadpacket.__name__
        written = [
            (i, a.name)
            for i, a in enumerate(func._schema.arguments)
            if a.alias_info is not None and a.alias_info.is_write and a.name != "grads"
        ]
        return cls(
            f"aten::{name}",
            FLOPS.get(func.overloadpacket),
            func.is_view or name in FREE,
            name in OVERWRITING,
            tuple(written),
            GATHERS.get(name),
            Op.of(func),
        )


def _unique(tensors: list[torch.Tensor]) -> dict[tuple[Any, ...], int]:
    """Bytes of each distinct tensor of strided layout."""
    strided = [t for t in tensors if t.layout is torch.strided]
    return {(first_byte(t), t.shape, t.stride(), t.dtype): _extent(t) for t in strided}


def _moved(facts: _Facts, tensors: list[torch.Tensor], args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """Unique inputs read once plus outputs written once, bytes.

    What is overwritten is not read; a gather reads of its table what it selects.
    """
    inputs = _unique([*tensors, *_tensors(kwargs)] if kwargs else tensors)
    written: dict[tuple[Any, ...], int] = {}
    for i, name in facts.written:
        written |= _unique(_tensors(args[i] if i < len(args) else kwargs.get(name)))
    outputs = {k: n for k, n in _unique(_tensors(out)).items() if k not in inputs}
    read = sum(n for k, n in inputs.items() if not (facts.overwrites and k in written))
    if facts.table is not None and inputs and outputs:
        table = next(iter(_unique(_tensors(args[facts.table])).values()))
        read -= max(table - sum(outputs.values()), 0)
    return read + sum((written | outputs).values())
