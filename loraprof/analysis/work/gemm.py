"""Matrix products: C[m,n] = A[m,k] B[k,n] costs 2mnk FLOPs and reads A, B (and a bias), writes C once."""

from collections.abc import Mapping
from math import prod

from loraprof.analysis.work.rule import Rule, Work, present, product
from loraprof.analysis.work.tensors import Inputs, Tensor, dense

Problem = tuple[int, int, int, int]  # batch, m, n, k


def _product(a: Tensor, b: Tensor, extra: list[Tensor], out: tuple[int, ...], problem: Problem) -> Work:
    return product(2 * prod(problem), [a, b, *extra], [dense(out, a.dtype)], "gemm", a.dtype)


def mm_problem(a: Tensor, b: Tensor) -> Problem:
    return 1, a.dims[0], b.dims[1], a.dims[1]


def bmm_problem(a: Tensor, b: Tensor) -> Problem:
    return a.dims[0], a.dims[1], b.dims[2], a.dims[2]


def linear_problem(x: Tensor, w: Tensor) -> Problem:
    return 1, prod(x.dims[:-1]), w.dims[0], x.dims[-1]


def mm(op: str, inputs: Inputs) -> Work:
    a, b = inputs.tensor(0), inputs.tensor(1)
    p = mm_problem(a, b)
    return _product(a, b, [], (p[1], p[2]), p)


def addmm(op: str, inputs: Inputs) -> Work:
    c, a, b = inputs.tensor(0), inputs.tensor(1), inputs.tensor(2)
    p = mm_problem(a, b)
    return _product(a, b, [c], (p[1], p[2]), p)


def bmm(op: str, inputs: Inputs) -> Work:
    a, b = inputs.tensor(0), inputs.tensor(1)
    p = bmm_problem(a, b)
    return _product(a, b, [], p[:3], p)


def baddbmm(op: str, inputs: Inputs) -> Work:
    c, a, b = inputs.tensor(0), inputs.tensor(1), inputs.tensor(2)
    p = bmm_problem(a, b)
    return _product(a, b, [c], p[:3], p)


def linear(op: str, inputs: Inputs) -> Work:
    x, w = inputs.tensor(0), inputs.tensor(1)
    p = linear_problem(x, w)
    return _product(x, w, present(inputs.optional(2)), (p[1], p[2]), p)


def mv(op: str, inputs: Inputs) -> Work:
    a, x = inputs.tensor(0), inputs.tensor(1)
    return _product(a, x, [], (a.dims[0],), (1, a.dims[0], 1, a.dims[1]))


def dot(op: str, inputs: Inputs) -> Work:
    a, b = inputs.tensor(0), inputs.tensor(1)
    return _product(a, b, [], (), (1, 1, 1, a.numel))


def gemm_problem(op: str, inputs: Inputs) -> Problem | None:
    """``(batch, m, n, k)`` of a matrix product, ``None`` for any other op."""
    if op in ("mm", "_int_mm", "_scaled_mm"):
        return mm_problem(inputs.tensor(0), inputs.tensor(1))
    if op in ("addmm", "addmm_", "_addmm_activation"):
        return mm_problem(inputs.tensor(1), inputs.tensor(2))
    if op == "bmm":
        return bmm_problem(inputs.tensor(0), inputs.tensor(1))
    if op in ("baddbmm", "baddbmm_"):
        return bmm_problem(inputs.tensor(1), inputs.tensor(2))
    if op in ("linear", "mkldnn_linear", "_mkl_linear"):
        return linear_problem(inputs.tensor(0), inputs.tensor(1))
    return None


def scaled_mm(op: str, inputs: Inputs) -> Work:
    """fp8 product; the output has the dtype of argument 6, or of the first operand."""
    a, b = inputs.tensor(0), inputs.tensor(1)
    p = mm_problem(a, b)
    scales = present(*(inputs.optional(i) for i in (2, 3, 4)))
    out = dense((p[1], p[2]), inputs.dtype(6, a.dtype))
    return product(2 * prod(p), [a, b, *scales], [out], "gemm", a.dtype)


def int_mm(op: str, inputs: Inputs) -> Work:
    a, b = inputs.tensor(0), inputs.tensor(1)
    p = mm_problem(a, b)
    return product(2 * prod(p), [a, b], [dense((p[1], p[2]), "int32")], "gemm", a.dtype)


RULES: Mapping[str, Rule] = {
    "mm": mm, "addmm": addmm, "addmm_": addmm, "_addmm_activation": addmm, "bmm": bmm, "baddbmm": baddbmm,
    "baddbmm_": baddbmm, "linear": linear, "mkldnn_linear": linear, "_mkl_linear": linear, "mv": mv, "dot": dot,
    "_scaled_mm": scaled_mm, "_int_mm": int_mm,
}  # fmt: skip
