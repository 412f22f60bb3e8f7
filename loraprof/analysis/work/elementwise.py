"""Elementwise ops, copies, casts and fills: every input read once, the broadcast result written once.

The result's dtype follows torch's type promotion; in-place ops ("_" at the end) write their first argument.
"""

from collections.abc import Mapping
from math import ceil, prod

from loraprof.analysis.work.rule import Rule, Work, memory, present, words
from loraprof.analysis.work.tensors import Inputs, Tensor, UnknownInput, broadcast, category, dense, promote

POINTWISE = words("""
abs add mul sub rsub div neg exp exp2 expm1 log log1p log2 sqrt rsqrt reciprocal sin cos tan tanh sigmoid
relu relu6 silu gelu elu leaky_relu hardswish hardsigmoid hardtanh mish softplus erf pow square sign floor
ceil round trunc clamp clamp_min clamp_max maximum minimum fmod remainder addcmul addcdiv lerp atan2
nan_to_num xlogy logit threshold bitwise_and bitwise_or bitwise_xor bitwise_not floor_divide
logcumsumexp tril triu flip roll _softmax softmax _safe_softmax _log_softmax log_softmax masked_softmax
positive frac sgn special_expit threshold_backward tanh_backward sigmoid_backward silu_backward
gelu_backward elu_backward leaky_relu_backward hardswish_backward hardsigmoid_backward hardtanh_backward
softplus_backward mish_backward logit_backward native_dropout_backward _masked_scale log_sigmoid_backward
_softmax_backward_data smooth_l1_loss_backward mse_loss_backward huber_loss_backward bernoulli clone
alias_copy
""")
COMPARE = words("""
eq ne lt le gt ge isnan isinf isfinite logical_and logical_or logical_not logical_xor
""")
FLOATING = {"div", "sqrt", "rsqrt", "reciprocal", "exp", "log", "tanh", "sigmoid", "sin", "cos", "erf"}
FILL = words("zero_ fill_ bernoulli_ uniform_ normal_ random_ exponential_ geometric_ eye_")
PAIR_LOSS = words("mse_loss smooth_l1_loss binary_cross_entropy binary_cross_entropy_with_logits")
LIKE = words("zeros_like ones_like full_like rand_like randn_like randint_like")

NUMBERS = ("float64", "int64")


def _operands(inputs: Inputs) -> list[Tensor]:
    """Tensor arguments; a 0-dim double or int64 beside a shaped tensor is a Python number and moves no bytes."""
    found = inputs.tensors()
    if not found:
        raise UnknownInput("no tensor")
    shaped = any(t.dims for t in found)
    return [Tensor((), t.dtype, 0) if shaped and not t.dims and t.dtype in NUMBERS else t for t in found]


def pointwise(op: str, inputs: Inputs) -> Work:
    operands = _operands(inputs)
    if op == "addcmul_" and operands[1] == operands[2]:
        operands = operands[:2]  # Adam squares the gradient: a trace cannot tell that both are the same
    if op.endswith("_"):
        return memory(operands, [inputs.tensor(0)])
    dtype = promote(operands)
    if op in FLOATING and category(dtype) < 2:
        dtype = "float32"
    if op in ("native_dropout_backward", "_masked_scale"):
        dtype = operands[0].dtype
    return memory(operands, [dense(broadcast(operands), dtype)])


def scan(op: str, inputs: Inputs) -> Work:
    """cumsum(self, dim, dtype): integers are summed as int64."""
    x = inputs.tensor(0)
    dtype = inputs.dtype(2, x.dtype if category(x.dtype) > 1 else "int64")
    return memory([x], [dense(x.dims, dtype)])


def scalar(op: str, inputs: Inputs) -> Work:
    """scalar_tensor(value, dtype)."""
    return memory([], [dense((), inputs.dtype(1, "float32"))])


def compare(op: str, inputs: Inputs) -> Work:
    operands = _operands(inputs)
    return memory(operands, [inputs.tensor(0) if op.endswith("_") else dense(broadcast(operands), "bool")])


def select(op: str, inputs: Inputs) -> Work:
    """where(condition, a, b) and masked_fill(self, mask, value): the flags do not promote the result."""
    operands = _operands(inputs)
    data = operands[1:] if op == "where" else operands[:1]
    if not data:
        raise UnknownInput("where without branches")
    return memory(operands, [inputs.tensor(0) if op.endswith("_") else dense(broadcast(operands), promote(data))])


def softmax_out(op: str, inputs: Inputs) -> Work:
    """_softmax(self, dim, half_to_float) and _log_softmax: may upcast."""
    x = inputs.tensor(0)
    wide = len(inputs.shapes.concrete) > 2 and inputs.flag(2)
    return memory([x], [dense(x.dims, "float32" if wide else x.dtype)])


def softmax_back(op: str, inputs: Inputs) -> Work:
    """(grad, output, dim, input_dtype): the gradient has the input's dtype."""
    grad, out = inputs.tensor(0), inputs.tensor(1)
    dtype = inputs.dtype(3, grad.dtype) if len(inputs.shapes.concrete) > 3 else grad.dtype
    return memory([grad, out], [dense(out.dims, dtype)])


def dropout(op: str, inputs: Inputs) -> Work:
    """native_dropout writes the result and one byte of mask per element."""
    x = inputs.tensor(0)
    return memory([x], [dense(x.dims, x.dtype), dense(x.dims, "bool")])


def copy(op: str, inputs: Inputs) -> Work:
    """copy_(target, source) overwrites its target."""
    return memory([inputs.tensor(1)], [inputs.tensor(0)])


def cast(op: str, inputs: Inputs) -> Work:
    """_to_copy(self, dtype, ...); the result's size is unknown when the dtype was not recorded."""
    x = inputs.tensor(0)
    try:
        return memory([x], [dense(x.dims, inputs.dtype(1, x.dtype))])
    except UnknownInput:
        return memory([x], [], exact=False)


def fill(op: str, inputs: Inputs) -> Work:
    return memory([], [inputs.tensor(0)])


def like(op: str, inputs: Inputs) -> Work:
    x = inputs.tensor(0)
    at = {"full_like": 2, "randint_like": 2}.get(op, 1)
    return memory([], [dense(x.dims, inputs.dtype(at, x.dtype))])


def new(op: str, inputs: Inputs) -> Work:
    """new_zeros(self, size, dtype), new_ones, new_full(self, size, value, dtype): only the size matters."""
    x = inputs.tensor(0)
    dtype = inputs.dtype(3 if op == "new_full" else 2, x.dtype)
    return memory([], [dense(tuple(inputs.ints(1)), dtype)])


def full(op: str, inputs: Inputs) -> Work:
    """zeros(size, dtype), ones, rand, randn, full(size, value, dtype); torch's default dtype is assumed float32."""
    dtype = inputs.dtype(2 if op == "full" else 1, "float32")
    return memory([], [dense(tuple(inputs.ints(0)), dtype)])


def arange(op: str, inputs: Inputs) -> Work:
    """arange(end), (start, end) or (start, end, step): leading scalars, then the dtype (4 more arguments)."""
    numbers = [float(v) for v in inputs.shapes.concrete[: len(inputs) - 4]]
    if not numbers:
        raise UnknownInput("arange bounds")
    start, end, step = {1: [0.0, *numbers, 1.0], 2: [*numbers, 1.0]}.get(len(numbers), numbers)
    whole = all(v == int(v) for v in (start, end, step))
    dtype = inputs.dtype(len(numbers), "int64" if whole else "float32")
    return memory([], [dense((max(ceil((end - start) / step), 0),), dtype)])


def repeat(op: str, inputs: Inputs) -> Work:
    x, times = inputs.tensor(0), inputs.ints(1)
    return memory([x], [dense((prod(times) * x.numel,), x.dtype)])


def pad(op: str, inputs: Inputs) -> Work:
    """constant_pad_nd(self, [last before, last after, ...])."""
    x, widths = inputs.tensor(0), inputs.ints(1)
    dims = list(x.dims)
    for i in range(len(widths) // 2):
        dims[-1 - i] += widths[2 * i] + widths[2 * i + 1]
    return memory([x], [dense(tuple(dims), x.dtype)])


def embed_gradient(op: str, inputs: Inputs) -> Work:
    """slice_backward(grad, size, ...) and its like write a tensor of the forward input's size."""
    grad = inputs.tensor(0)
    return memory([grad], [dense(tuple(inputs.ints(1)), grad.dtype)])


def mask_loss(op: str, inputs: Inputs) -> Work:
    """Losses over pairs: mse, smooth l1, binary cross entropy; reduction 0 keeps every element."""
    operands = present(inputs.optional(0), inputs.optional(1), inputs.optional(2), inputs.optional(3))
    at = {"mse_loss": 2, "smooth_l1_loss": 2, "binary_cross_entropy": 3}.get(op, 4)
    dims = operands[0].dims if inputs.text(at) == "0" else ()
    return memory(operands, [dense(dims, operands[0].dtype)])


RULES: Mapping[str, Rule] = (
    {name + end: pointwise for name in POINTWISE for end in ("", "_")}
    | {name + end: compare for name in COMPARE for end in ("", "_")}
    | dict.fromkeys(("where", "masked_fill", "masked_fill_"), select)
    | dict.fromkeys(("_softmax", "_log_softmax"), softmax_out)
    | dict.fromkeys(("_softmax_backward_data", "_log_softmax_backward_data"), softmax_back)
    | dict.fromkeys(FILL, fill)
    | dict.fromkeys(LIKE, like)
    | dict.fromkeys(("new_zeros", "new_ones", "new_full"), new)
    | dict.fromkeys(("zeros", "ones", "full", "rand", "randn"), full)
    | dict.fromkeys(("slice_backward", "select_backward"), embed_gradient)
    | dict.fromkeys(PAIR_LOSS, mask_loss)
) | {
    "native_dropout": dropout, "copy_": copy, "_to_copy": cast, "arange": arange, "repeat": repeat,
    "constant_pad_nd": pad, "cumsum": scan, "cumprod": scan, "scalar_tensor": scalar,
}  # fmt: skip
