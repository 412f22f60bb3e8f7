"""Reductions, normalisations, pooling: the input read once, the (smaller) result and saved statistics written.

Dimensions of the result need the recorded scalars; without them the result is left out and the work is a lower
bound, which is close, since results are small.
"""

from collections.abc import Mapping
from math import prod

from loraprof.analysis.work.rule import Rule, Work, memory, present
from loraprof.analysis.work.tensors import Inputs, Tensor, UnknownInput, category, dense

# op -> (arguments of the overload over all elements, position of dim, keepdim, dtype or None)
REDUCE: dict[str, tuple[int, int, int, int | None]] = {
    "sum": (2, 1, 2, 3), "mean": (2, 1, 2, 3), "nansum": (0, 1, 2, 3), "prod": (2, 1, 2, 3), "amax": (0, 1, 2, None),
    "amin": (0, 1, 2, None), "logsumexp": (0, 1, 2, None), "linalg_vector_norm": (0, 2, 3, 4), "any": (1, 1, 2, None),
    "all": (1, 1, 2, None), "argmax": (0, 1, 2, None), "argmin": (0, 1, 2, None), "var": (2, 1, 3, None),
    "std": (2, 1, 3, None), "var_mean": (2, 1, 3, None), "max": (1, 1, 2, None), "min": (1, 1, 2, None),
    "norm": (3, 2, 3, 4),
}  # fmt: skip


def reduced(dims: tuple[int, ...], axes: list[int], keep: bool) -> tuple[int, ...]:
    """Shape after reducing ``axes`` (all when empty)."""
    gone = {a % len(dims) for a in axes} if dims and axes else set(range(len(dims)))
    return tuple(1 if i in gone else d for i, d in enumerate(dims) if keep or i not in gone)


def reduction(op: str, inputs: Inputs) -> Work:
    everything, dim, keep, dtype_at = REDUCE[op]
    x = inputs.tensor(0)
    second = inputs.optional(1)
    if op in ("max", "min") and second is not None:  # elementwise overload
        return memory([x, second], [dense(x.dims, x.dtype)])
    dtype = _result_dtype(op, x)
    try:
        at = dtype_at
        if at is not None and len(inputs) <= everything:
            at = everything - 1  # the last one of that overload
        if at is not None and at < len(inputs):
            dtype = inputs.dtype(at, dtype)
        if len(inputs) <= everything:
            return memory([x], [dense((), dtype)])
        dims = reduced(x.dims, inputs.ints(dim), inputs.flag(keep))
    except UnknownInput:
        return memory([x], [], exact=False)
    extra = {"max": ["int64"], "min": ["int64"], "var_mean": [dtype]}.get(op, [])
    return memory([x], [dense(dims, dtype), *(dense(dims, e) for e in extra)])


def _result_dtype(op: str, x: Tensor) -> str:
    if op in ("argmax", "argmin"):
        return "int64"
    if op in ("any", "all"):
        return "bool"
    return "int64" if op in ("sum", "prod", "nansum") and category(x.dtype) < 2 else x.dtype


def layer_norm(op: str, inputs: Inputs) -> Work:
    """native_layer_norm(x, shape, weight, bias) saves mean and 1/std per row, _fused_rms_norm 1/rms, in fp32."""
    x = inputs.tensor(0)
    weight = inputs.optional(2)
    row = weight.numel if weight is not None else prod(inputs.ints(1))
    rows = x.numel // max(row, 1)
    stats = dense((rows,), "float64" if x.dtype == "float64" else "float32")
    saved = [stats, stats] if op == "native_layer_norm" else [stats]
    reads = present(x, weight, inputs.optional(3) if op == "native_layer_norm" else None)
    return memory(reads, [dense(x.dims, x.dtype), *saved])


def layer_norm_backward(op: str, inputs: Inputs) -> Work:
    """dX like the input, dW and db as the mask says; the bias is passed but its values are not needed."""
    rms = op == "_fused_rms_norm_backward"
    dy, x = inputs.tensor(0), inputs.tensor(1)
    stats = present(inputs.optional(3), None if rms else inputs.optional(4))
    weight = inputs.optional(4 if rms else 5)
    mask = inputs.flags(5 if rms else 7)
    writes = [dense(x.dims, x.dtype)] * mask[0]
    writes += [dense(w.dims, w.dtype) for w, on in zip((weight, weight), mask[1:], strict=False) if on and w]
    return memory([dy, x, *stats, *present(weight)], writes)


def batch_norm(op: str, inputs: Inputs) -> Work:
    """Batch and group norm: x and the small tensors read, y and two statistics per channel (or group) written."""
    x = inputs.tensor(0)
    groups = x.dims[0] * int(inputs.text(6)) if op == "native_group_norm" else x.dims[1]
    return memory(inputs.tensors(), [dense(x.dims, x.dtype), *[dense((groups,), "float32")] * 2])


def batch_norm_backward(op: str, inputs: Inputs) -> Work:
    """All tensors read; dX, dW and db written, as the mask says where the op has one and it was recorded."""
    x = inputs.tensor(0)
    channels = dense((x.dims[1],), "float32")
    masked = len(inputs.shapes.concrete) > 9 and inputs.text(9).startswith("[")
    wanted = inputs.flags(9) if masked else [True] * 3
    outputs = (dense(x.dims, x.dtype), channels, channels)
    return memory(inputs.tensors(), [t for t, on in zip(outputs, wanted, strict=True) if on])


def pool(op: str, inputs: Inputs) -> Work:
    """Windows of ``kernel`` every ``stride``; max pooling also writes 8-byte indices."""
    x, kernel = inputs.tensor(0), inputs.ints(1)
    stride, pad = inputs.ints(2) or kernel, inputs.ints(3)
    largest = op == "max_pool2d_with_indices"
    dilation = inputs.ints(4) if largest else [1]
    up = inputs.flag(5 if largest else 4)
    spatial = []
    for i in (0, 1):
        k, s, p, d = (v[i % len(v)] for v in (kernel, stride, pad, dilation))
        span = x.dims[i - 2] + 2 * p - d * (k - 1) - 1
        size = -(-span // s) + 1 if up else span // s + 1
        spatial.append(size - 1 if up and (size - 1) * s >= x.dims[i - 2] + p else size)
    dims = (*x.dims[:-2], *spatial)
    return memory([x], [dense(dims, x.dtype), *[dense(dims, "int64")] * largest])


def pool_backward(op: str, inputs: Inputs) -> Work:
    """The gradient (and indices) read, a tensor like the input written; the input's values are not needed."""
    grad, x = inputs.tensor(0), inputs.tensor(1)
    return memory([grad, *present(inputs.optional(7))], [dense(x.dims, x.dtype)])


def adaptive_pool(op: str, inputs: Inputs) -> Work:
    x = inputs.tensor(0)
    return memory([x], [dense((*x.dims[:-2], *inputs.ints(1)), x.dtype)])


def ordered(op: str, inputs: Inputs) -> Work:
    """sort and topk write values and 8-byte indices."""
    x = inputs.tensor(0)
    if op == "topk":
        axis = (inputs.ints(2) or [-1])[0] % len(x.dims)
        dims = tuple(inputs.ints(1)[0] if i == axis else d for i, d in enumerate(x.dims))
    else:
        dims = x.dims
    return memory([x], [dense(dims, x.dtype), dense(dims, "int64")])


RULES: Mapping[str, Rule] = (
    dict.fromkeys(REDUCE, reduction)
    | dict.fromkeys(("native_layer_norm", "_fused_rms_norm"), layer_norm)
    | dict.fromkeys(("native_layer_norm_backward", "_fused_rms_norm_backward"), layer_norm_backward)
    | dict.fromkeys(
        ("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "_native_batch_norm_legit",
         "_batch_norm_with_update", "native_group_norm"), batch_norm)
    | dict.fromkeys(
        ("native_batch_norm_backward", "native_group_norm_backward", "cudnn_batch_norm_backward",
         "miopen_batch_norm_backward", "batch_norm_backward"), batch_norm_backward)
    | dict.fromkeys(("max_pool2d_with_indices", "avg_pool2d"), pool)
    | dict.fromkeys(
        ("max_pool2d_with_indices_backward", "avg_pool2d_backward", "_adaptive_avg_pool2d_backward"), pool_backward)
    | {"_adaptive_avg_pool2d": adaptive_pool, "sort": ordered, "topk": ordered}
)  # fmt: skip
