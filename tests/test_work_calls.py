"""``work_of`` against what torch read and wrote, one op at a time; and against the schemas of ops that no CPU runs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from dispatch import count, worked
from torch import Tensor

from loraprof.analysis.work import attention, conv, gemm_dims, optim, reduce, work_of
from loraprof.model.trace import Shapes

aten, F = torch.ops.aten, torch.nn.functional


def f(*dims: int) -> Tensor:
    return torch.rand(dims) + 0.5


def i(*dims: int, high: int = 3) -> Tensor:
    return torch.randint(high, dims)


def h(*dims: int) -> Tensor:
    return f(*dims).bfloat16()


CALLS: dict[str, Callable[[], Any]] = {
    "sum": lambda: f(3, 4).sum(),
    "sum of integers": lambda: i(3, 4).int().sum(1),
    "sum as": lambda: h(3, 4).sum(1, dtype=torch.float32),
    "sum of all as": lambda: h(3, 4).sum(dtype=torch.float32),
    "norm of all as": lambda: aten.norm.ScalarOpt_dtype(h(3, 4), 2, dtype=torch.float32),
    "sum of two axes": lambda: f(3, 4, 5).sum((0, 2)),
    "sum kept": lambda: f(3, 4, 5).sum((0, -1), keepdim=True),
    "mean": lambda: f(3, 4).mean(),
    "mean as": lambda: h(3, 4).mean(1, dtype=torch.float32),
    "nansum": lambda: aten.nansum(f(3, 4), [1], False),
    "prod": lambda: f(3, 4).prod(1),
    "prod of all": lambda: i(3, 4).int().prod(),
    "amax": lambda: f(3, 4).amax(1),
    "amin": lambda: f(3, 4).amin(0, keepdim=True),
    "logsumexp": lambda: aten.logsumexp(f(3, 4), [1], True),
    "vector norm": lambda: aten.linalg_vector_norm(f(3, 4), 2, [1], True),
    "vector norm as": lambda: aten.linalg_vector_norm(h(3, 4), 2, [0], False, dtype=torch.float32),
    "any": lambda: (f(3, 4) > 1).any(),
    "any along": lambda: (f(3, 4) > 1).any(1),
    "any kept": lambda: (f(3, 4) > 1).any(1, keepdim=True),
    "all": lambda: (f(3, 4) > 1).all(),
    "all along": lambda: (f(3, 4) > 1).all(1, keepdim=True),
    "argmax": lambda: f(3, 4).argmax(1),
    "argmax kept": lambda: f(3, 4).argmax(1, keepdim=True),
    "argmin": lambda: f(3, 4).argmin(0),
    "argmin kept": lambda: f(3, 4).argmin(0, keepdim=True),
    "var": lambda: f(3, 4).var(1, correction=1, keepdim=True),
    "std": lambda: f(3, 4).std(1, correction=1),
    "var_mean": lambda: torch.var_mean(f(3, 4), 1, correction=0, keepdim=True),
    "max": lambda: f(3, 4).max(),
    "max along": lambda: f(3, 4).max(1),
    "max kept": lambda: f(3, 4).max(1, keepdim=True),
    "min along": lambda: f(3, 4).min(0),
    "larger": lambda: aten.max.other(f(3, 4), f(3, 4)),
    "norm": lambda: aten.norm.ScalarOpt_dim(f(3, 4), 2, [1], True),
    "layer norm": lambda: aten.native_layer_norm(f(3, 4, 8), [8], f(8), f(8), 1e-5),
    "batch norm": lambda: aten.native_batch_norm(f(2, 3, 4, 4), f(3), f(3), None, None, True, 0.1, 1e-5),
    "group norm": lambda: aten.native_group_norm(f(2, 4, 5), f(4), f(4), 2, 4, 5, 2, 1e-5),
    "max pool": lambda: aten.max_pool2d_with_indices(f(1, 2, 9, 8), [3, 2], [2, 2], [1, 1]),
    "max pool up": lambda: aten.max_pool2d_with_indices(f(1, 2, 10, 8), [3, 3], [2, 2], [0, 1], [1, 1], True),
    "max pool dilated": lambda: aten.max_pool2d_with_indices(f(1, 2, 10, 8), [3], [2], [1], [2]),
    "average pool": lambda: aten.avg_pool2d(f(1, 2, 9, 8), [3, 2]),
    "average pool up": lambda: aten.avg_pool2d(f(1, 2, 10, 8), [3, 3], [2, 2], [1, 1], True),
    "adaptive pool": lambda: aten._adaptive_avg_pool2d(f(1, 2, 9, 8), [3, 2]),
    "sort": lambda: f(3, 4).sort(),
    "topk": lambda: f(3, 4).topk(2),
    "topk of rows": lambda: f(3, 4).topk(2, dim=0),
    "mm": lambda: f(3, 4) @ f(4, 5),
    "addmm": lambda: torch.addmm(f(5), f(3, 4), f(4, 5)),
    "bmm": lambda: torch.bmm(h(2, 3, 4), h(2, 4, 5)),
    "baddbmm": lambda: torch.baddbmm(f(2, 3, 5), f(2, 3, 4), f(2, 4, 5)),
    "mv": lambda: torch.mv(f(3, 4), f(4)),
    "dot": lambda: torch.dot(f(4), f(4)),
    "scatter": lambda: torch.scatter(f(5, 4), 0, i(3, 4), f(3, 4)),
    "cat": lambda: torch.cat([f(3, 4), f(2, 4)]),
    "embedding gradient": lambda: aten.embedding_dense_backward(f(6, 4), i(6), 10, -1, False),
    "where": lambda: torch.where(f(3, 4) > 1, h(3, 4), h(3, 1)),
    "masked_fill": lambda: f(3, 4).masked_fill(f(3, 4) > 1, 0.0),
    "comparison": lambda: f(3, 4) > f(4),
    "comparison in place": lambda: f(3, 4).gt_(1.0),
    "masked_fill_": lambda: f(3, 4).masked_fill_(f(3, 4) > 1, 0.0),
    "division of integers": lambda: i(3, 4) / (i(3, 4) + 1),
    "cumsum": lambda: i(3, 4).int().cumsum(1),
    "cumsum of floats": lambda: h(3, 4).cumsum(1),
    "cumsum as": lambda: i(3, 4).cumsum(1, dtype=torch.float32),
    "softmax": lambda: aten._softmax(h(3, 4), 1, False),
    "softmax gradient": lambda: aten._softmax_backward_data(f(3, 4), f(3, 4), 1, torch.float32),
    "dropout": lambda: aten.native_dropout(h(3, 4), 0.5, True),
    "dropout gradient": lambda: aten.native_dropout_backward(f(3, 4), f(3, 4) > 1, 2.0),
    "cast": lambda: aten._to_copy(h(3, 4), dtype=torch.float32),
    "full": lambda: torch.full((3, 4), 1.0, dtype=torch.float64),
    "ones": lambda: torch.ones((3, 4), dtype=torch.bfloat16),
    "arange": lambda: torch.arange(3, 11, 2),
    "arange of floats": lambda: torch.arange(0.0, 1.0, 0.3),
    "arange from": lambda: torch.arange(2, 7),
    "repeat": lambda: f(3, 4).repeat(2, 1, 3),
    "pad": lambda: F.pad(f(3, 4), (1, 2, 0, 3)),
    "select gradient": lambda: aten.select_backward(f(4), [3, 4], 0, 1),
    "binary cross entropy": lambda: F.binary_cross_entropy(f(3, 4).sigmoid(), f(3, 4).sigmoid()),
    "weighted cross entropy": lambda: F.binary_cross_entropy(f(3, 4).sigmoid(), f(3, 4).sigmoid(), f(4)),
    "logits": lambda: F.binary_cross_entropy_with_logits(f(3, 4), f(3, 4), reduction="none"),
    "squared loss": lambda: F.mse_loss(f(3, 4), f(3, 4), reduction="none"),
    "smooth loss": lambda: F.smooth_l1_loss(f(3, 4), f(3, 4), reduction="none"),
    "foreach": lambda: torch._foreach_add_([f(3), f(4)], [f(3), f(4)]),
    "foreach norm": lambda: torch._foreach_norm([f(3), f(4)]),
    "foreach sqrt": lambda: torch._foreach_sqrt([f(3), f(4)]),
    "foreach maximum": lambda: torch._foreach_maximum([f(3), f(4)], [f(3), f(4)]),
    "foreach by a tensor": lambda: torch._foreach_mul_([f(3), f(4)], torch.tensor(2.0)),
}


@pytest.mark.parametrize("name", CALLS)
def test_bytes_are_those_of_the_tensors(name: str) -> None:
    call = count(CALLS[name])[-1]
    work = worked(call)
    assert (work.read_bytes, work.write_bytes) == (call.read, call.written), call.op
    products = {
        "mm": 3 * 5 * 4,
        "addmm": 3 * 5 * 4,
        "bmm": 2 * 3 * 5 * 4,
        "baddbmm": 2 * 3 * 5 * 4,
        "mv": 3 * 4,
        "dot": 4,
    }
    assert work.flops == 2 * products.get(name, 0)


LESS: dict[str, tuple[Callable[[], Any], tuple[int, int]]] = {
    # statistics in fp32, as on a GPU: 12 rows, two each
    "layer norm of half": (lambda: aten.native_layer_norm(h(3, 4, 8), [8], None, None, 1e-5), (192, 192 + 96)),
    # copies all, then reads and writes what the source is added to
    "index_add": (lambda: torch.index_add(f(5, 4), 0, i(3), f(3, 4)), (80 + 24 + 2 * 48, 80)),
    "scatter_add_": (lambda: f(5, 4).scatter_add_(0, i(3, 4), f(3, 4)), (96 + 2 * 48, 48)),
    "scatter_": (lambda: f(5, 4).scatter_(0, i(3, 4), f(3, 4)), (96 + 48, 48)),
    # one log-probability of each row
    "nll": (lambda: aten.nll_loss_forward(f(3, 4), i(3), None, 0, -100), (24 + 12, 12 + 4)),
    "nll, mean": (lambda: aten.nll_loss_forward(f(3, 4), i(3), f(4), 1, -100), (24 + 12 + 16, 4 + 4)),
    "nll gradient": (
        lambda: aten.nll_loss_backward(f(), f(3, 4), i(3), f(4), 1, -100, f()), (4 + 24 + 16 + 4, 48)
    ),
    "gather": (lambda: aten.gather(f(5, 4), 1, i(5, 2)), (80 + 40, 40)),
    "embedding": (lambda: aten.embedding(f(10, 4), i(3)), (24 + 48, 48)),
    "embedding of few rows": (lambda: aten.embedding(f(2, 4), i(3, high=2)), (24 + 32, 48)),
    "index": (lambda: aten.index(f(5, 4, 2), [i(3), i(3)]), (48 + 24, 24)),
    "index_put_": (lambda: aten.index_put_(f(5, 4), [i(3)], f(3, 4), False), (48 + 24, 48)),
    "index_put_ that adds": (lambda: aten.index_put_(f(5, 4), [i(3)], f(3, 4), True), (48 + 24 + 48, 48)),
    "index_select": (lambda: aten.index_select(f(2, 5), 1, i(3)), (24 + 24, 24)),
    # overwritten, not read
    "foreach copy": (lambda: torch._foreach_copy_([f(3), f(4)], [f(3), f(4)]), (28, 28)),
    # the schema says that gradients are written
    "fused SGD": (
        lambda: aten._fused_sgd_(
            [f(3)], [f(3)], [f(3)], weight_decay=0.0, momentum=0.9, lr=0.1, dampening=0.0, nesterov=False,
            maximize=False, is_first_step=False,
        ),
        (36, 24),
    ),
    "zeros like": (lambda: torch.zeros_like(f(3, 4), dtype=torch.float64), (0, 96)),
    "full like": (lambda: torch.full_like(f(3, 4), 1, dtype=torch.float64), (0, 96)),
    "new zeros": (lambda: f(2).new_zeros((3, 4), dtype=torch.float64), (0, 96)),
    "new full": (lambda: f(2).new_full((3, 4), 1, dtype=torch.bfloat16), (0, 24)),
    "layer norm gradient": (
        lambda: aten.native_layer_norm_backward(f(3, 8), f(3, 8), [8], f(3, 1), f(3, 1), f(8), f(8), [True] * 3),
        (2 * 96 + 2 * 12 + 32, 96 + 64),
    ),
    "layer norm gradient of its input": (
        lambda: aten.native_layer_norm_backward(
            f(3, 8), f(3, 8), [8], f(3, 1), f(3, 1), f(8), f(8), [True, False, False]
        ),
        (2 * 96 + 2 * 12 + 32, 96),
    ),
    "batch norm gradient": (
        lambda: aten.native_batch_norm_backward(
            f(2, 3, 4), f(2, 3, 4), f(3), None, None, f(3), f(3), True, 1e-5, [True, True, False]
        ),
        (2 * 96 + 3 * 12, 96 + 12),
    ),
    "average pool gradient": (
        lambda: aten.avg_pool2d_backward(f(1, 2, 4, 4), f(1, 2, 8, 8), [2, 2], [], [0, 0], False, True, None),
        (128, 512),
    ),
    "max pool gradient": (
        lambda: aten.max_pool2d_with_indices_backward(
            f(1, 2, 4, 4), f(1, 2, 8, 8), [2, 2], [2, 2], [0, 0], [1, 1], False, i(1, 2, 4, 4)
        ),
        (128 + 256, 512),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LESS)
def test_bytes_that_are_not_those_of_all_tensors(name: str) -> None:
    run, expected = LESS[name]
    work = worked(count(run)[-1])
    assert (work.read_bytes, work.write_bytes) == expected


def test_an_int8_product_gives_int32() -> None:
    given = Shapes(((32, 16), (16, 24)), ("signed char",) * 2, ((16, 1), (24, 1)), ("", ""))
    work = work_of("aten::_int_mm", given)
    assert work is not None
    assert (work.flops, work.read_bytes, work.write_bytes) == (2 * 32 * 16 * 24, 32 * 16 + 16 * 24, 4 * 32 * 24)


@pytest.mark.parametrize(
    ("op", "at"), [("_int_mm", 0), ("_scaled_mm", 0), ("addmm_", 1), ("_addmm_activation", 1), ("mkldnn_linear", 0)]
)
def test_where_products_keep_their_operands(op: str, at: int) -> None:
    linear = op.endswith("linear")
    operands = ((3, 5), (7, 5) if linear else (5, 7))
    dims = ((3, 7), *operands) if at else (*operands, ())
    assert gemm_dims(f"aten::{op}", Shapes(dims, ("float",) * 3, (), ("",) * 3)) == (3, 7, 5)


@pytest.mark.parametrize("op", ["baddbmm", "baddbmm_"])
def test_a_batch_of_products_that_add(op: str) -> None:
    dims = ((2, 3, 7), (2, 3, 5), (2, 5, 7))
    assert gemm_dims(f"aten::{op}", Shapes(dims, ("float",) * 3, (), ("",) * 3)) == (6, 7, 5)


def test_an_fp8_product_has_scales_and_a_dtype() -> None:
    dims = ((32, 16), (16, 24), (), (), (24,), (), (), ())
    types = ("c10::Float8_e4m3fn",) * 2 + ("float", "float", "c10::BFloat16", "", "Scalar", "Scalar")
    concrete = ("",) * 6 + ("15", "True")
    work = work_of("aten::_scaled_mm", Shapes(dims, types, (), concrete))
    assert work is not None
    assert (work.flops, work.write_bytes) == (2 * 32 * 16 * 24, 2 * 32 * 24)
    assert work.read_bytes == 32 * 16 + 16 * 24 + 4 + 4 + 2 * 24


def names(op: str, overload: str = "default") -> list[str]:
    """Of an op's arguments, as torch declares them."""
    packet = getattr(aten, op)
    return [one.name for one in getattr(packet, overload)._schema.arguments]


@pytest.mark.parametrize("op", attention.LAYOUTS)
def test_where_attention_ops_keep_their_arguments(op: str) -> None:
    at, known = attention.LAYOUTS[op], names(op)
    assert known[at.q : at.q + 3] == ["query", "key", "value"]
    assert known[at.causal] in ("is_causal", "custom_mask_type")
    assert at.gradients == op.endswith("backward")
    assert at.saved == (op != "scaled_dot_product_attention")
    packed = op.startswith(("_flash", "_efficient"))  # tokens before heads, as the kernels' own libraries have it
    assert at.heads_first != packed


CONV_NAMES = {"bias": "bias", "stride": "stride", "padding": "padding", "dilation": "dilation"}
CONV_NAMES |= {"transposed": "transposed", "output_padding": "output_padding"}


@pytest.mark.parametrize("op", conv.LAYOUTS)
def test_where_convolutions_keep_their_arguments(op: str) -> None:
    at, known = conv.LAYOUTS[op]._asdict(), names(op)
    assert at == {ours: known.index(theirs) if theirs in known else None for ours, theirs in CONV_NAMES.items()}


@pytest.mark.parametrize("op", reduce.REDUCE)
def test_where_reductions_keep_their_arguments(op: str) -> None:
    everything, dim, keep, dtype = reduce.REDUCE[op]
    overloads = [names(op, one) for one in getattr(aten, op).overloads()]
    along = max((one for one in overloads if one[dim : dim + 1] == ["dim"] and "out" not in one), key=len)
    assert along[keep] == "keepdim"
    assert along.index("dtype") == dtype if "dtype" in along else dtype is None
    whole = [one for one in overloads if "dim" not in one and "out" not in one and "other" not in one]
    assert everything == max(map(len, whole), default=0)


@pytest.mark.parametrize("op", optim.FUSED)
def test_where_fused_optimizers_keep_their_lists(op: str) -> None:
    written, read, scale = optim.FUSED[op]
    known = names(op)
    assert known[1] == "grads"
    assert known[scale] == "grad_scale"
    state = {"exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs", "momentum_buffer_list", "state_sums", "self"}
    assert {known[n] for n in written} == state & set(known)
    assert {known[n] for n in read} == {"state_steps"} & set(known)


@pytest.mark.parametrize(("gradient", "other"), [("input", (4, 3, 3, 3)), ("weight", (2, 3, 8, 8))])
def test_an_older_convolution_gives_one_gradient_at_a_time(gradient: str, other: tuple[int, ...]) -> None:
    """(size of what is asked for, dY, the other operand): 2 x outputs x taps FLOPs, either way."""
    asked = {"input": "[2, 3, 8, 8]", "weight": "[4, 3, 3, 3]"}[gradient]
    dims = ((), (2, 4, 8, 8), other)
    work = work_of(
        f"aten::cudnn_convolution_backward_{gradient}",
        Shapes(dims, ("ScalarList", "float", "float"), (), (asked, "", "")),
    )
    image, weight, out = 4 * 2 * 3 * 64, 4 * 4 * 27, 4 * 2 * 4 * 64
    assert work is not None
    assert work.flops == 2 * (2 * 4 * 64) * 27
    own, read = (image, weight) if gradient == "input" else (weight, image)
    assert (work.read_bytes, work.write_bytes) == (out + read, own)


def test_a_norms_gradient_reads_what_it_is_given_in_its_own_type() -> None:
    """dY in two bytes, X in four, statistics, the weight; dX like X."""
    types = ("c10::BFloat16", "float", "ScalarList", "float", "float", "float", "float", "ScalarList")
    dims = ((3, 8), (3, 8), (), (3, 1), (3, 1), (8,), (8,), ())
    work = work_of(
        "aten::native_layer_norm_backward",
        Shapes(dims, types, (), ("", "", "[8]", "", "", "", "", "[True, False, False]")),
    )
    assert work is not None
    assert (work.read_bytes, work.write_bytes) == (48 + 96 + 2 * 12 + 32, 96)
