"""Which weight does a product use? The recorded shapes of its inputs against those of the model's parameters.

Inside an adapted layer that holds base and adapter in one module, the weight tells which path an op is on. Elsewhere a
product with a parameter is a linear layer, whoever calls it; a product of activations alone is attention.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct, field

from loraprof.analysis.attribution.containers import Behaviour
from loraprof.model.recording import AdapterSite, ModuleInfo, ParameterInfo
from loraprof.model.trace import Shapes
from loraprof.model.vocabulary import Role

PRODUCT: Final = re.compile(
    r"^(aten::)?(linear|matmul|mm|addmm_?|bmm|baddbmm|einsum|tensordot|mv|dot|ger|outer|_?grouped_mm|_scaled_mm|_int_mm"
    r"|conv\dd|convolution|_convolution|mkldnn_convolution|cudnn_convolution|thnn_conv2d|slow_conv2d_forward"
    r"|conv_transpose\dd|_conv_depthwise2d)$|GroupedMm|grouped_gemm"
)
_BATCHED: Final = re.compile(r"bmm")
_WEIGHTED: Final = re.compile(r"linear|addmm|conv|grouped")
ADAPTER_PARTS: Final[dict[str, Role]] = {"down": "adapter.down", "up": "adapter.up"}
_PARTS: Final[dict[str, Role]] = ADAPTER_PARTS | {"base": "base.linear"}

Dims = tuple[int, ...]


class Weights(Struct, frozen=True):
    """Parameter shapes of each module, and of everything below each."""

    own: dict[int, list[tuple[Dims, str | None]]] = field(default_factory=dict)  # module -> (shape, part)
    below: dict[int, dict[Dims, int]] = field(default_factory=dict)  # module -> shape -> a module that owns one

    @classmethod
    def of(cls, table: list[ModuleInfo], parameters: Iterable[ParameterInfo]) -> "Weights":
        own: dict[int, list[tuple[Dims, str | None]]] = {}
        below: dict[int, dict[Dims, int]] = {}
        ids = {m.path: m.id for m in reversed(table)}
        for p in parameters:
            own.setdefault(p.module, []).append((tuple(p.shape), p.part))
            for above in _enclosing(table[p.module].path):
                if above not in ids or len(p.shape) < 2:
                    continue
                counts = below.setdefault(ids[above], {})
                for shape in (_bare(p.shape), *([tuple(p.shape[1:])] if len(p.shape) == 3 else [])):  # or of one expert
                    counts.setdefault(shape, p.module)
        return cls(own, below)

    def of_site(
        self, info: ModuleInfo, site: AdapterSite, op: str, shapes: Shapes | None, backward: bool = False
    ) -> Role:
        """Base or adapter, where one module issues both: A contracts ``in_features`` into r, B contracts r."""
        operands = tensors_of(shapes)
        known = {shape: part for shape, part in self.own.get(info.id, []) if part in _PARTS and len(shape) > 1}
        if PRODUCT.search(op):
            bare = {_bare(s): part for s, part in known.items()}
            return self._contraction(operands, site, bare, backward) if len(operands) >= 2 else "other"
        for dims in operands:
            if dims in known:
                return _PARTS[known[dims] or "base"]
        return "adapter.elementwise"

    def _contraction(
        self, operands: list[Dims], site: AdapterSite, known: Mapping[Dims, str | None], backward: bool
    ) -> Role:
        """By the weight among the operands, seen from either side; activations may be as large as the base's. Backward,
        B makes the gradient of what is r wide and its own is one of r columns, A takes that gradient."""
        bare = [_bare(d) for d in operands]
        named = {known.get(d) for d in (*bare, *(d[::-1] for d in bare if len(d) == 2))} & ADAPTER_PARTS.keys()
        if len(named) == 1:
            return ADAPTER_PARTS[named.pop() or ""]
        left, right = operands[-2], operands[-1]
        if site.rank in (left[-1], right[-2]):
            return "adapter.down" if backward else "adapter.up"
        if site.rank == right[-1]:
            return "adapter.up" if backward else "adapter.down"
        if site.rank == left[-2]:
            return "adapter.down"
        return "base.linear"


def product_role(
    op: str, shapes: Shapes | None, weights: Weights, module: int, behaviour: Behaviour, heads: frozenset[int]
) -> Role:
    """Role of a product that a module issued itself: by the parameter among its inputs."""
    owners = _owners(shapes, weights, module)
    if owners:
        return "head" if any(owner in heads for owner in owners) else "base.linear"
    if _WEIGHTED.search(op) or not weights.own:
        return "base.linear"
    if shapes is None:  # of compiled code
        return "attention" if _BATCHED.search(op) else "base.linear"
    return "head" if behaviour.whole else "attention"


def free_product(op: str, shapes: Shapes | None, weights: Weights, module: int) -> bool:
    """Whether an op multiplies activations alone: no input of it is a parameter."""
    if not PRODUCT.search(op) or _WEIGHTED.search(op) or not weights.own:
        return False
    return bool(_BATCHED.search(op)) if shapes is None else not _owners(shapes, weights, module)


def _owners(shapes: Shapes | None, weights: Weights, module: int) -> list[int]:
    below = weights.below.get(module, {})
    operands = [_bare(d) for d in tensors_of(shapes)]
    found = [below.get(d, below.get((*d[:-2], *d[:-3:-1]))) for d in operands]
    return [owner for owner in found if owner is not None]


def _enclosing(path: str) -> list[str]:
    parts = path.split(".") if path else []
    return [".".join(parts[:i]) for i in range(len(parts) + 1)]


def tensors_of(shapes: Shapes | None) -> list[Dims]:
    """Tensors of at least two dimensions; those of a list count."""
    out: list[Dims] = []
    for dims in shapes.dims if shapes else ():
        inner = dims if dims and all(isinstance(d, tuple) for d in dims) else (dims,)
        out += [tuple(int(x) for x in d if isinstance(x, int)) for d in inner if isinstance(d, tuple) and len(d) > 1]
    return out


def _bare(dims: Dims) -> Dims:
    """Without dimensions of one: a weight stays itself when a view adds them."""
    return tuple(d for d in dims if d != 1)
