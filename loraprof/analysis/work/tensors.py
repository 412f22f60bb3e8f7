"""The recorded inputs of an op as tensors: how many bytes does each occupy?

A dimension with stride 0 is an expanded one and occupies nothing, so a tensor's bytes are those of its storage
that are touched: element size times the product of its dimensions whose stride is not 0. Type names are
Kineto's (C++ names), scalar types in "Concrete Inputs" are torch's numbers (c10/core/ScalarType.h).
"""

from math import prod
from typing import Final

from msgspec import Struct

from loraprof.model.trace import Shapes

SIZES: Final = {
    "bool": 1, "uint8": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8,
    "complex64": 8, "complex128": 16,
}  # fmt: skip

KINETO: Final = {
    "float": "float32", "double": "float64", "c10::BFloat16": "bfloat16", "c10::Half": "float16",
    "long int": "int64", "long": "int64", "long long": "int64", "int": "int32", "short int": "int16",
    "short": "int16", "signed char": "int8", "unsigned char": "uint8", "bool": "bool",
    "c10::Float8_e4m3fn": "float8_e4m3fn", "c10::Float8_e5m2": "float8_e5m2",
    "c10::complex<float>": "complex64", "c10::complex<double>": "complex128",
}  # fmt: skip

SCALAR_TYPES: Final = {
    "0": "uint8", "1": "int8", "2": "int16", "3": "int32", "4": "int64", "5": "float16", "6": "float32",
    "7": "float64", "9": "complex64", "10": "complex128", "11": "bool", "15": "bfloat16",
    "23": "float8_e5m2", "24": "float8_e4m3fn",
}  # fmt: skip


# The capitalised names are those of torch 1.8.
NO_TENSOR: Final = ("", "Scalar", "ScalarList", "Int", "Bool", "Double", "IntList", "DoubleList", "None", "Device")


class UnknownInput(Exception):
    """The trace does not say what this rule needs; the op's work is then unknown."""


class Tensor(Struct, frozen=True):
    """A tensor argument. ``stored`` elements are touched when it is read once."""

    dims: tuple[int, ...]
    dtype: str
    stored: int

    @property
    def numel(self) -> int:
        return prod(self.dims)

    @property
    def bytes(self) -> int:
        return self.stored * SIZES[self.dtype]


def dense(dims: tuple[int, ...], dtype: str) -> Tensor:
    """A tensor an op allocates: no stride is 0."""
    return Tensor(dims, dtype, prod(dims))


class Inputs(Struct, frozen=True):
    """Typed access to the arguments of one op call by position."""

    shapes: Shapes
    list_dtype: str | None = None

    def __len__(self) -> int:
        return len(self.shapes.types)

    def optional(self, i: int) -> Tensor | None:
        """Argument ``i``, or ``None`` when it is absent or no tensor. Raises UnknownInput for a strange type."""
        if i >= len(self) or self.shapes.types[i] in NO_TENSOR or self.shapes.types[i][:10] == "TensorList":
            return None
        strides = self.shapes.strides[i] if self.shapes.strides else None
        return _tensor(self.shapes.dims[i], self.shapes.types[i], strides)

    def tensor(self, i: int) -> Tensor:
        """Argument ``i``. Raises UnknownInput when it is no tensor."""
        found = self.optional(i)
        if found is None:
            raise UnknownInput(f"argument {i}")
        return found

    def tensors(self) -> list[Tensor]:
        """All single tensor arguments."""
        return [t for i in range(len(self)) if (t := self.optional(i)) is not None]

    def tensor_list(self, i: int) -> list[Tensor]:
        """The tensors of list ``i``, [] when the argument is no list.

        Kineto does not record the element type of a list. It comes from a type written as "TensorList[float]"
        or from ``list_dtype``. Raises UnknownInput when neither is there and the list is not empty.
        """
        kind = self.shapes.types[i] if i < len(self) else ""
        if not kind.startswith("TensorList") or not self.shapes.dims[i]:
            return []
        element = kind[11:-1] or next((k for k, v in KINETO.items() if v == self.list_dtype), "")
        strides = self.shapes.strides[i] if self.shapes.strides else ()
        known = len(strides) == len(self.shapes.dims[i])
        return [_tensor(d, element, strides[j] if known else None) for j, d in enumerate(self.shapes.dims[i])]

    def text(self, i: int) -> str:
        """Scalar argument ``i`` as recorded, "" for None. Raises UnknownInput when scalars are not recorded."""
        if i >= len(self.shapes.concrete):
            raise UnknownInput(f"scalar {i}")
        return self.shapes.concrete[i]

    def flag(self, i: int) -> bool:
        return self.text(i) in ("True", "1")

    def ints(self, i: int) -> list[int]:
        """A list of integers; a lone integer is a list of one, None is empty."""
        text = self.text(i).strip("[]")
        try:
            return [int(v) for v in text.split(",")] if text else []
        except ValueError as error:
            raise UnknownInput(f"argument {i} = {text}") from error

    def flags(self, i: int) -> list[bool]:
        return [v.strip() in ("True", "1") for v in self.text(i).strip("[]").split(",")]

    def dtype(self, i: int, default: str) -> str:
        """A dtype argument, ``default`` when it is None. Raises UnknownInput when not recorded or not known."""
        text = self.text(i)
        if not text:
            return default
        if text not in SCALAR_TYPES:
            raise UnknownInput(f"dtype {text}")
        return SCALAR_TYPES[text]


def _tensor(dims: object, kind: str, strides: object) -> Tensor:
    if kind not in KINETO or not isinstance(dims, list | tuple):
        raise UnknownInput(f"type {kind}")
    sizes = tuple(d for d in dims if isinstance(d, int))
    if len(sizes) != len(dims):
        raise UnknownInput(f"dims {dims}")
    steps = strides if isinstance(strides, list | tuple) and len(strides) == len(sizes) else (1,) * len(sizes)
    return Tensor(sizes, KINETO[kind], prod(d for d, s in zip(sizes, steps, strict=True) if s != 0 or d == 0))


def category(dtype: str) -> int:
    """0 bool, 1 integer, 2 floating, 3 complex."""
    if dtype == "bool":
        return 0
    return 1 if "int" in dtype else 3 if "complex" in dtype else 2


def promote(tensors: list[Tensor]) -> str:
    """Result dtype of an elementwise op (torch's type promotion for tensors).

    A tensor without dimensions counts only when its category is higher; Python scalars arrive as 0-dim double
    or int64, so such a double promotes integers to float32 only.
    """
    shaped = [t.dtype for t in tensors if t.dims] or [t.dtype for t in tensors]
    best = shaped[0]
    for other in shaped[1:]:
        best = _wider(best, other)
    top = max((t.dtype for t in tensors), key=category)
    if category(top) > category(best):
        return "float32" if top == "float64" else top
    return best


def _wider(a: str, b: str) -> str:
    if category(a) != category(b):
        return a if category(a) > category(b) else b
    if {a, b} in ({"float16", "bfloat16"},):
        return "float32"
    if {a, b} == {"uint8", "int8"}:
        return "int16"
    return a if SIZES[a] >= SIZES[b] else b


def broadcast(tensors: list[Tensor]) -> tuple[int, ...]:
    """The broadcast shape."""
    rank = max((len(t.dims) for t in tensors), default=0)
    padded = [(1,) * (rank - len(t.dims)) + t.dims for t in tensors]
    return tuple(next((d for d in column if d != 1), 1) for column in zip(*padded, strict=True))
