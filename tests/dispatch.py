"""Counts ops below autograd with a TorchDispatchMode, independently of the rules under test.

Each call becomes (op name, inputs in the form a profiler trace records them, bytes by counting storages). The
bytes: unique (storage, offset, shape, stride) inputs read once, outputs that are no input written once, targets
of in-place ops read and written; stride-0 dimensions count their storage.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from loraprof.analysis.work import work_of
from loraprof.analysis.work.rule import Work
from loraprof.model.trace import Shapes

NAMES = {
    torch.float32: "float", torch.float64: "double", torch.bfloat16: "c10::BFloat16", torch.float16: "c10::Half",
    torch.int64: "long int", torch.int32: "int", torch.bool: "bool", torch.uint8: "unsigned char",
}  # fmt: skip
NUMBERS = {
    torch.uint8: 0, torch.int32: 3, torch.int64: 4, torch.float16: 5, torch.float32: 6, torch.float64: 7,
    torch.bool: 11, torch.bfloat16: 15,
}  # fmt: skip


@dataclass(frozen=True)
class Call:
    op: str
    shapes: Shapes
    read: int
    written: int
    duplicates: int  # bytes of inputs passed more than once: a trace cannot tell them apart


def stored(t: torch.Tensor) -> int:
    steps = zip(t.shape, t.stride(), strict=True)
    return prod(d for d, s in steps if s != 0 or d == 0) * t.element_size()


def tensors(tree: object) -> Iterator[torch.Tensor]:
    return (x for x in tree_leaves(tree) if isinstance(x, torch.Tensor))


def scalar(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, torch.dtype):
        return str(NUMBERS[value])
    if isinstance(value, list | tuple):
        return "[" + ", ".join(scalar(v) for v in value) + "]"
    return str(value)


def recorded(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Shapes:
    """All arguments of the schema, defaults included, as Kineto writes them; lists carry their element type."""
    values = []
    for i, a in enumerate(func._schema.arguments):
        default = a.default_value if a.has_default_value() else None
        values.append(args[i] if i < len(args) else kwargs.get(a.name, default))
    dims: list[tuple[object, ...]] = []
    types: list[str] = []
    strides: list[tuple[object, ...]] = []
    concrete: list[str] = []
    row: tuple[Any, str, Any, str]
    for value in values:
        if isinstance(value, torch.Tensor):
            row = (tuple(value.shape), NAMES[value.dtype], tuple(value.stride()), "")
        elif isinstance(value, list | tuple) and value and all(isinstance(v, torch.Tensor) for v in value):
            kind = f"TensorList[{NAMES[value[0].dtype]}]"
            row = (tuple(tuple(v.shape) for v in value), kind, tuple(tuple(v.stride()) for v in value), "")
        else:
            absent = value is None or (isinstance(value, list | tuple) and None in value)
            kind = "" if absent else "ScalarList" if isinstance(value, list | tuple) else "Scalar"
            row = ((), kind, (), "" if absent else scalar(value))
        for column, cell in zip((dims, types, strides, concrete), row, strict=True):
            column.append(cell)  # type: ignore[attr-defined]
    return Shapes(tuple(dims), tuple(types), tuple(strides), tuple(concrete))


def key(t: torch.Tensor) -> tuple[object, ...]:
    return (t.untyped_storage().data_ptr(), t.storage_offset(), tuple(t.shape), tuple(t.stride()))


class Counter(TorchDispatchMode):
    """Collects every call that is not a view."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        shapes = recorded(func, args, kwargs)
        result = func(*args, **kwargs)
        name = func._schema.name
        if name.startswith("profiler::"):
            return result
        if func.is_view or name in ("aten::detach", "aten::_local_scalar_dense", "aten::lift_fresh") or "empty" in name:
            return result
        everything = list(tensors((args, kwargs)))
        inputs = {key(t): t for t in everything}
        outputs = {key(t): t for t in tensors(result)}
        mutated = self.mutated(func, args, kwargs)
        overwritten = name in ("aten::copy_", "aten::zero_", "aten::fill_", "aten::bernoulli_")
        read = sum(stored(t) for k, t in inputs.items() if not (overwritten and k in mutated))
        written = {**{k: t for k, t in outputs.items() if k not in inputs}, **mutated}
        twice = sum(map(stored, everything)) - sum(map(stored, inputs.values()))
        self.calls.append(Call(name, shapes, read, sum(map(stored, written.values())), twice))
        return result

    @staticmethod
    def mutated(func: Any, args: Any, kwargs: Any) -> dict[tuple[object, ...], torch.Tensor]:
        out: dict[tuple[object, ...], torch.Tensor] = {}
        for i, a in enumerate(func._schema.arguments):
            if a.alias_info is not None and a.alias_info.is_write:
                value = args[i] if i < len(args) else kwargs.get(a.name)
                out |= {key(t): t for t in tensors(value)}
        return out


def count(run: Callable[[], object]) -> list[Call]:
    with Counter() as counter:
        run()
    return counter.calls


def worked(call: Call) -> Work:
    """The work of a call that has a rule."""
    work = work_of(call.op, call.shapes)
    assert work is not None, call.op
    return work
