"""Gathers, scatters, embeddings, concatenation, losses over classes.

A gather reads its indices and the elements they select, never the whole table: that is the least it can do, and
what the hardware does. A scatter into a fresh tensor writes all of it.
"""

from collections.abc import Mapping
from math import prod

from loraprof.analysis.work.rule import Rule, Work, memory, present
from loraprof.analysis.work.tensors import Inputs, Tensor, UnknownInput, broadcast, dense


def embedding(op: str, inputs: Inputs) -> Work:
    """embedding(weight, indices): one row per index, at most every row once."""
    table, index = inputs.tensor(0), inputs.tensor(1)
    width = prod(table.dims[1:])
    read = dense((min(index.numel, table.dims[0]), width), table.dtype)
    return memory([index, read], [dense((index.numel, width), table.dtype)])


def embedding_backward(op: str, inputs: Inputs) -> Work:
    """A dense gradient of the whole table is written."""
    grad, index = inputs.tensor(0), inputs.tensor(1)
    try:
        rows = inputs.ints(2)[0]
    except UnknownInput:
        return memory([grad, index], [], exact=False)
    return memory([grad, index], [dense((rows, grad.dims[-1]), grad.dtype)])


def index_select(op: str, inputs: Inputs) -> Work:
    x, index, axis = inputs.tensor(0), inputs.tensor(2), inputs.ints(1)[0]
    others = x.numel // max(x.dims[axis], 1)
    read = dense((min(index.numel, x.dims[axis]), others), x.dtype)
    return memory([index, read], [dense((index.numel, others), x.dtype)])


def gather(op: str, inputs: Inputs) -> Work:
    x, index = inputs.tensor(0), inputs.tensor(2)
    read = dense((min(index.numel, x.stored),), x.dtype)
    return memory([index, read], [dense(index.dims, x.dtype)])


def scatter(op: str, inputs: Inputs) -> Work:
    """scatter(self, dim, index, src) copies self, then writes the selected elements; "_" only the latter."""
    x, index, source = inputs.tensor(0), inputs.tensor(2), inputs.optional(3)
    picked = dense(source.dims if source is not None and op.startswith("index_add") else index.dims, x.dtype)
    adds = [picked] if "add" in op else []
    reads = present(index, source) + adds
    return memory(reads, [picked]) if op.endswith("_") else memory([*reads, x], [dense(x.dims, x.dtype)])


def take(op: str, inputs: Inputs) -> Work:
    """index(self, indices): known only when the indices' shapes were recorded and none is a mask or missing."""
    x, indices = inputs.tensor(0), inputs.tensor_list(1)
    if not indices:
        raise UnknownInput("indices")
    count = prod(broadcast(indices))
    picked = dense((count, prod(x.dims[len(indices) :])), x.dtype)
    return memory([*indices, picked], [picked])


def put(op: str, inputs: Inputs) -> Work:
    """index_put_(self, indices, values, accumulate): the values read, as many elements written."""
    x, values, indices = inputs.tensor(0), inputs.tensor(2), inputs.tensor_list(1)
    count = dense(values.dims, x.dtype)
    adds = [count] if inputs.flag(3) else []
    return memory([values, *indices, *adds], [count], exact=bool(indices))


def cat(op: str, inputs: Inputs) -> Work:
    parts = inputs.tensor_list(0)
    if not parts:
        raise UnknownInput("parts")
    return memory(parts, [dense((sum(p.numel for p in parts),), parts[0].dtype)])


def nll(op: str, inputs: Inputs) -> Work:
    """nll_loss_forward(log_probabilities, target, weight, reduction): one log-probability per target is read."""
    x, target = inputs.tensor(0), inputs.tensor(1)
    picked = dense(target.dims, x.dtype)
    out = target.dims if inputs.text(3) == "0" else ()
    return memory([target, picked, *present(inputs.optional(2))], [dense(out, x.dtype), dense((), x.dtype)])


def nll_backward(op: str, inputs: Inputs) -> Work:
    """The gradient is zero but at the targets; all of it is written."""
    grad, x, target = inputs.tensor(0), inputs.tensor(1), inputs.tensor(2)
    small: list[Tensor] = present(inputs.optional(3), inputs.optional(6))
    return memory([grad, target, *small], [dense(x.dims, x.dtype)])


RULES: Mapping[str, Rule] = (
    dict.fromkeys(("embedding",), embedding)
    | dict.fromkeys(("embedding_dense_backward",), embedding_backward)
    | dict.fromkeys(("scatter", "scatter_", "scatter_add", "scatter_add_", "index_add", "index_add_"), scatter)
    | dict.fromkeys(("index", "_unsafe_index"), take)
    | dict.fromkeys(("index_put_", "_index_put_impl_"), put)
    | dict.fromkeys(("cat", "stack", "_cat"), cat)
    | dict.fromkeys(("nll_loss_forward", "nll_loss2d_forward"), nll)
    | dict.fromkeys(("nll_loss_backward", "nll_loss2d_backward"), nll_backward)
    | {"index_select": index_select, "gather": gather}
)
