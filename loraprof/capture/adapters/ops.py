"""What does an op do to the values that flow through it? By its name, once per op."""

import re
from enum import IntEnum
from functools import cache
from typing import Any, Final, NamedTuple


class Kind(IntEnum):
    VIEW = 0  # shares its input's storage
    MADE = 1  # a new tensor that depends on no other
    PRODUCT = 2
    SUM = 3
    MOVED = 4  # linear in each input: scaled, moved, cast, gathered, put together
    OTHER = 5


_MADE: Final = re.compile(r"^(new_)?(empty|zeros|ones|full|rand|randn|randint|randperm|arange|eye|scalar_tensor)(_|$)")
_PRODUCT: Final = re.compile(
    r"^(mm|bmm|mv|addmm|addmv|baddbmm|linear|matmul|embedding|_?embedding_bag|_?grouped_mm|_int_mm|_scaled\w*_mm)_?$"
    r"|conv(olution|_?(transpose)?\dd)|_mm(_|$)|gemv|gemm|linear|matmul"
)
_SUM: Final = re.compile(r"^(add|sub|rsub|index_add|scatter_add|addcmul|lerp)_?$")
_MOVED: Final = re.compile(
    r"^(_to_copy|clone|copy|mul|div|neg|native_dropout|_unsafe_view|_reshape_copy|cat|stack|sum|mean|index\w*|gather"
    r"|scatter\w*|masked\w*|where|constant_pad_nd|slice_scatter|select_scatter|repeat\w*|roll|flip|tril|triu|view_copy"
    r"|fill|zero|take_along_dim|\w*dequant\w*|_?fused_dropout|detach_copy|permute_copy|t_copy|bernoulli)_?$"
)
_CONVOLUTION: Final = re.compile("conv")


class Op(NamedTuple):
    kind: Kind
    name: str
    foreign: bool  # of another library

    @classmethod
    def of(cls, func: Any) -> "Op":
        """Of an ``OpOverload``; products of other libraries are told by their name."""
        name = func.overloadpacket.__name__
        return cls(_kind(name, func.is_view), name, func.namespace != "aten")


def _kind(name: str, is_view: bool) -> Kind:
    if is_view or name in ("detach", "lift_fresh", "alias"):
        return Kind.VIEW
    for kind, pattern in ((Kind.MADE, _MADE), (Kind.MOVED, _MOVED), (Kind.SUM, _SUM), (Kind.PRODUCT, _PRODUCT)):
        if pattern.search(name):
            return kind
    return Kind.OTHER


@cache
def is_convolution(name: str) -> bool:
    return bool(_CONVOLUTION.search(name))
