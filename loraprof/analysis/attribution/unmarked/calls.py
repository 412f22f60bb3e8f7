"""What does an op call say by itself, by its name and the shapes of its inputs? Each distinct pair is read once.

Without modules this and the order of calls are all there is: products have rows, inner and outer widths, the rest has
a sort and the size of its largest input.
"""

import re
from enum import IntEnum
from math import prod
from typing import Any, Final, NamedTuple

import numpy as np
from msgspec import Struct

from loraprof.analysis.attribution.containers import CORE, Behaviour, own_role
from loraprof.analysis.attribution.roles import ROTARY_OPS
from loraprof.analysis.attribution.weights import PRODUCT, tensors_of
from loraprof.model.trace import Bool, Int8, Int64, Shapes, Trace
from loraprof.model.vocabulary import ROLE, Role


class Sort(IntEnum):
    """What a call is for the order of calls."""

    OTHER = 0
    PRODUCT = 1  # with a weight, as far as shapes tell
    FREE = 2  # of two activations, or of batches of matrices
    CORE = 3  # attention in one op
    SOFTMAX = 4
    EMBEDDING = 5
    NORM = 6
    ACTIVATION = 7
    LOSS = 8
    ADD = 9  # of two tensors of equal size


SIZES: Final = ("rows", "inner", "outer", "numel")
_SORTS: Final = (
    (r"embedding", Sort.EMBEDDING),
    (r"layer_norm|rms_norm|batch_norm|group_norm|instance_norm", Sort.NORM),
    (r"(?i)cross_?entropy|nll_loss|_loss|log_softmax|ctc", Sort.LOSS),
    (r"softmax", Sort.SOFTMAX),
    (r"gelu|silu|relu|tanh|sigmoid|softplus|hardswish|mish|[^a-z]elu|glu|::erf", Sort.ACTIVATION),
)
_RULES = tuple((re.compile(pattern), sort) for pattern, sort in _SORTS)
_ADD = re.compile(r"^aten::(add_?|__iadd__|addcmul_?|lerp_?)$")
_CAST = re.compile(r"^aten::(to|_to_copy|type_as|copy_|contiguous|clone)$")
_STATISTIC = re.compile(r"^aten::(pow|square|mul|mean|sum|div|sub)_?$")
_SCALE = re.compile(r"::(mul|add)_?$")
_COMPOSED = re.compile(r"tanh|sigmoid|::erf|softplus")  # of activations that people write as several ops
_BATCHED = re.compile(r"bmm|matmul|einsum")


class Facts(NamedTuple):
    """One row of ``Calls``, of every call with this name and these inputs."""

    sort: int
    rows: int
    inner: int
    outer: int
    numel: int
    adds: bool
    cast: bool
    view: bool
    flat: bool
    composed: bool
    before_norm: bool
    after_norm: bool
    negates: bool
    rotates: bool
    rsqrt: bool
    role: int


class Calls(Struct, frozen=True, eq=False):
    """Columns over calls in order. ``rows``, ``inner``, ``outer``: a product [rows, inner] x [inner, outer]."""

    row: Int64  # -> Trace.host
    run: Int64  # calls of one thread between two backward passes or optimizer steps
    sort: Int8
    rows: Int64
    inner: Int64
    outer: Int64
    numel: Int64  # elements of the largest input
    adds: Bool  # a product that is added to what its first input holds
    cast: Bool
    view: Bool
    flat: Bool  # a product of matrices: a view before it is made for it
    composed: Bool  # an activation that people write as several ops
    before_norm: Bool  # may come before the rsqrt of a norm written as several ops
    after_norm: Bool
    negates: Bool  # half of a rotation
    rotates: Bool  # may be part of a rotation
    rsqrt: Bool
    role: Int8  # by name alone

    def __len__(self) -> int:
        return len(self.row)

    @property
    def viewed(self) -> Bool:
        """Products of matrices right after the view that was made for them."""
        found: Bool = self.flat & np.append(False, self.view)[:-1]
        return found

    def take(self, at: Int64 | Bool) -> "Calls":
        return Calls(*(getattr(self, name)[at] for name in self.__struct_fields__))


def calls_of(trace: Trace, row: Int64, run: Int64) -> Calls:
    """The calls at ``row`` (-> Trace.host), in that order."""
    host = trace.host
    key = host.name[row].astype(np.int64) * (len(trace.shapes) + 1) + host.shapes[row] + 1
    unique, inverse = np.unique(key, return_inverse=True)
    pairs = [divmod(k, len(trace.shapes) + 1) for k in unique.tolist()]
    above = Behaviour(above_attention=any(CORE.search(trace.names[name]) for name, _ in pairs))
    said = [_said(trace.names[name], trace.shapes[shape - 1] if shape else None, above) for name, shape in pairs]
    facts = np.array(said, np.int64).reshape(-1, len(Facts._fields))[inverse]
    types: dict[str, type[np.generic]] = {"sort": np.int8, "role": np.int8} | dict.fromkeys(SIZES, np.int64)
    columns: dict[str, Any] = {
        name: facts[:, i].astype(types.get(name, np.bool_)) for i, name in enumerate(Facts._fields)
    }
    return Calls(row=row, run=run, **columns)


def _said(op: str, shapes: Shapes | None, behaviour: Behaviour) -> Facts:
    tensors = tensors_of(shapes)
    largest = max(tensors, key=prod, default=())
    vector = shapes is not None and any(len(d) == 1 and isinstance(d[0], int) and d[0] > 1 for d in shapes.dims)
    column = any(d[-1] == 1 for d in tensors)
    sort, dims = _sort(op, tensors)
    cast = bool(_CAST.search(op))
    narrow = column or vector
    statistic = bool(_STATISTIC.search(op)) or (op in ("aten::add", "aten::add_") and column and len(tensors) == 1)
    scaled = bool(_SCALE.search(op)) and narrow
    role: Role = "base.linear" if sort in (Sort.PRODUCT, Sort.FREE) else own_role(op, behaviour)
    rows, inner, outer = dims
    return Facts(
        sort=sort,
        rows=rows,
        inner=inner,
        outer=outer,
        numel=prod(largest) if largest else 0,
        adds=sort == Sort.PRODUCT and len(tensors) > 2 and prod(tensors[0]) == rows * outer,
        cast=cast,
        view=op in ("aten::view", "aten::reshape", "aten::flatten"),
        flat=sort == Sort.PRODUCT and len(tensors) > 1 and all(len(d) == 2 for d in tensors) and "linear" not in op,
        composed=sort == Sort.ACTIVATION and bool(_COMPOSED.search(op)),
        before_norm=cast or statistic,
        after_norm=cast or scaled,
        negates=op in ("aten::neg", "aten::neg_", "aten::view_as_complex"),
        rotates=bool(ROTARY_OPS.match(op)) or "complex" in op,
        rsqrt=op in ("aten::rsqrt", "aten::rsqrt_"),
        role=ROLE[role],
    )


def _sort(op: str, tensors: list[tuple[int, ...]]) -> tuple[Sort, tuple[int, int, int]]:
    if CORE.search(op):
        return Sort.CORE, (0, 0, 0)
    if PRODUCT.search(op):
        if len(tensors) >= 2 and _BATCHED.search(op) and (len(tensors[-1]) > 2 or "bmm" in op):
            return Sort.FREE, (0, 0, 0)
        return Sort.PRODUCT, _dims(op, tensors)
    for pattern, sort in _RULES:
        if pattern.search(op):
            weight = tensors[0] if sort == Sort.EMBEDDING and tensors and len(tensors[0]) == 2 else (0, 0)
            return sort, (0, weight[0], weight[1])
    if _ADD.search(op) and len(tensors) >= 2 and prod(tensors[0]) == prod(tensors[1]):
        return Sort.ADD, (0, 0, 0)
    return Sort.OTHER, (0, 0, 0)


def _dims(op: str, tensors: list[tuple[int, ...]]) -> tuple[int, int, int]:
    """Rows, inner and outer width of a product; 0 where shapes were not recorded. Of a convolution rows are its input
    positions, and taps count with the inner width."""
    if len(tensors) < 2 or min(map(len, tensors)) < 2:
        return 0, 0, 0
    x, w = tensors[-2:]
    if "conv" in op:
        inner, outer = (w[0], w[1]) if "transpose" in op else (prod(w[1:]), w[0])
        return prod(x) // max(x[1], 1), inner, outer
    return prod(x[:-1]), x[-1], w[-1] if x[-1] == w[-2] else w[-2]  # linear turns its weight, and einsum may
