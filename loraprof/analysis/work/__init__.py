"""How much work is one op call? FLOPs and compulsory bytes from its name and recorded inputs.

``work_of`` answers for leaf ops, those that launch kernels themselves; an op that only calls others is asked
for its children. An unknown op or input is ``None``, never 0. The counting rule is in ``work.rule``.
"""

from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from loraprof.analysis.work import attention, conv, elementwise, fused, gemm, index, optim, reduce
from loraprof.analysis.work.rule import Rule, Work, words
from loraprof.analysis.work.tensors import Inputs, UnknownInput
from loraprof.model.trace import Shapes

T = TypeVar("T")

VIEWS = words("""
view _unsafe_view reshape _reshape_alias as_strided as_strided_ t t_ transpose transpose_ permute movedim
select slice narrow split split_with_sizes chunk unbind expand expand_as broadcast_to broadcast_tensors
squeeze squeeze_ unsqueeze unsqueeze_ flatten unflatten detach detach_ alias diagonal unfold view_as
view_as_real view_as_complex contiguous to type_as resolve_conj resolve_neg conj _conj lift lift_fresh result_type
empty empty_like empty_strided new_empty new_empty_strided resize_ set_ record_stream is_pinned item
_local_scalar_dense is_nonzero _has_compatible_shallow_copy_type can_cast is_same_size _nested_tensor_size
size numel
""")


def view(op: str, inputs: Inputs) -> Work:
    """Nothing is moved: views, allocations, scalar reads."""
    return Work(0, 0, 0, "view")


RULES: Final[Mapping[str, Rule]] = {
    **elementwise.RULES,
    **reduce.RULES,
    **index.RULES,
    **optim.RULES,
    **gemm.RULES,
    **conv.RULES,
    **attention.RULES,
    **dict.fromkeys(VIEWS, view),
}


PRODUCTS: Final = frozenset({**gemm.RULES, **conv.RULES, **attention.RULES})  # what matrix units do


WRAPPERS: Final = frozenset(
    words("""
_to_copy clone zeros zeros_like new_zeros ones ones_like new_ones full full_like new_full rand rand_like randn
randn_like randint_like softmax log_softmax norm square stack index_put_
""")
) | {name for name in RULES if name.startswith("_foreach_")}  # they have one op do it, or one per tensor


def work_of(op: str, shapes: Shapes, list_dtype: str | None = None) -> Work | None:
    """Work of one call of ``op`` ("aten::mm"), ``None`` when the op or an input it needs is unknown.

    A fused kernel's is what its compiler counted. ``list_dtype`` is the element type of tensor lists, which profiler
    traces do not record ("float32").
    """
    if shapes.moved_bytes is not None:
        return fused.work(op, shapes)
    rule = RULES.get(op.removeprefix("aten::"))
    return None if rule is None else _guarded(rule, op, shapes, list_dtype)


def gemm_dims(op: str, shapes: Shapes) -> tuple[int, int, int] | None:
    """``(m, n, k)`` of a product C[m,n] = A[m,k] B[k,n] or of a forward convolution; batches are folded into m."""
    name = op.removeprefix("aten::")
    problem = conv.conv_problem if name in conv.LAYOUTS else gemm.gemm_problem
    found = _guarded(problem, op, shapes, None)
    return None if found is None else (found[0] * found[1], found[2], found[3])


def _guarded(rule: Callable[[str, Inputs], T], op: str, shapes: Shapes, list_dtype: str | None) -> T | None:
    """A malformed record (a missing dimension, a text that is no number) is unknown, like a missing one."""
    try:
        return rule(op.removeprefix("aten::"), Inputs(shapes, list_dtype))
    except (UnknownInput, IndexError, ValueError):
        return None


__all__ = words("Work gemm_dims work_of")
