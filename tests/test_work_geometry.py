"""``work_of`` where sizes follow from geometry, over random ones, and what a GPU's ops record that no CPU runs."""

import random
from typing import Any

import pytest
import torch
from dispatch import count, worked

from loraprof.analysis.work import gemm_dims, work_of
from loraprof.analysis.work.tensors import broadcast
from loraprof.model.trace import Shapes

aten = torch.ops.aten


def given(*inputs: object) -> Shapes:
    """(dims, type) is a tensor, a list of them a list; a text a scalar; None an absent argument."""
    rows = list[tuple[Any, str, str]]()
    for one in inputs:
        if isinstance(one, tuple):
            rows.append((*one, ""))
        elif isinstance(one, list):
            rows.append((tuple(shape for shape, _ in one), f"TensorList[{one[0][1]}]", ""))
        else:
            rows.append(((), "Scalar" if one else "", str(one or "")))
    dims, types, concrete = zip(*rows, strict=True)
    return Shapes(dims, types, (), concrete)


def moved(op: str, *inputs: object) -> tuple[int, int]:
    work = work_of(f"aten::{op}", given(*inputs))
    assert work is not None
    return work.read_bytes, work.write_bytes


@pytest.mark.parametrize("seed", range(60))
def test_pooling(seed: int) -> None:
    """Windows that end in the padding are dropped where sizes are rounded up."""
    rng = random.Random(seed)
    kernel, stride = [rng.randint(1, 4) for _ in "xy"], [rng.randint(1, 4) for _ in "xy"]
    pad, dilation, up = [rng.randint(0, k // 2) for k in kernel], [rng.randint(1, 2) for _ in "xy"], rng.random() < 0.7
    if rng.random() < 0.2:
        kernel, stride, pad, dilation = kernel[:1], [], pad[:1], dilation[:1]
    image = torch.rand(*rng.choice(((2,), (3, 2))), rng.randint(7, 13), rng.randint(7, 13))
    if rng.random() < 0.5:
        call = count(lambda: aten.max_pool2d_with_indices(image, kernel, stride, pad, dilation, up))[-1]
    else:
        call = count(lambda: aten.avg_pool2d(image, kernel, stride, pad, up))[-1]
    assert (worked(call).read_bytes, worked(call).write_bytes) == (call.read, call.written)


@pytest.mark.parametrize("seed", range(40))
def test_convolutions(seed: int) -> None:
    """FLOPs: each output is a sum over taps and the channels of its group; transposed, each input has its taps."""
    rng = random.Random(seed)
    axes, groups, transposed = rng.choice((1, 2)), rng.choice((1, 2)), rng.random() < 0.5

    def each(low: int, high: int) -> list[int]:
        return [rng.randint(low, high) for _ in range(axes)]

    taps, stride, pad, dilation = each(1, 3), each(1, 3), each(0, 2), each(1, 2)
    extra = [rng.randrange(max(s, d)) * transposed for s, d in zip(stride, dilation, strict=True)]
    x = torch.rand(3, 2 * groups, *each(7, 11), requires_grad=True)
    w = torch.rand(*((2 * groups, 5) if transposed else (5 * groups, 2)), *taps, requires_grad=True)
    bias = torch.rand(5 * groups, requires_grad=rng.random() < 0.5) if rng.random() < 0.7 else None
    calls = count(
        lambda: aten.convolution(x, w, bias, stride, pad, dilation, transposed, extra, groups).sum().backward()
    )
    forward, backward = [c for c in calls if "convolution" in c.op]
    for call in (forward, backward):
        assert (worked(call).read_bytes, worked(call).write_bytes) == (call.read, call.written)
    outputs = forward.written // 4
    problem = (x.numel() // x.shape[1], w[0].numel(), x.shape[1])
    if not transposed:
        problem = (outputs // (5 * groups), 5 * groups, w[0].numel())
    products = problem[0] * problem[1] * problem[2]
    assert (worked(forward).flops, worked(backward).flops) == (2 * products, 4 * products)
    assert gemm_dims("aten::convolution", forward.shapes) == problem


def test_what_a_convolution_does_not_record_is_its_default() -> None:
    x, w = ((2, 3, 8, 8), "float"), ((4, 3, 3, 3), "float")
    image, weight, out = 4 * 2 * 3 * 64, 4 * 4 * 27, 4 * 2 * 4 * 36
    assert moved("conv2d", x, w, None, "", "", "") == (image + weight, out)
    assert moved("_slow_conv2d_forward", x, w, "[3, 3]", ((4,), "float"), "[1, 1]", "[0, 0]") == (
        image + weight + 16,
        out,
    )
    assert moved("cudnn_convolution", x, w, "[0]", "[1]", "[1]", "1") == (image + weight, out)
    assert work_of("aten::conv2d", given(((2, 3, 8), "float"), w, None, "", "", "")) is None
    assert work_of("aten::conv1d", given(((2, 3), "float"), ((4, 3), "float"), None, "", "", "")) is None


@pytest.mark.parametrize("name", ["_scaled_dot_product_flash_attention", "_flash_attention_forward"])
@pytest.mark.parametrize("masked", [True, False, None])
def test_attention(name: str, masked: bool | None) -> None:
    """Batch 2, 3 heads, 5 queries and 7 keys, then the other way round, widths 11 and 13."""
    for rows, columns in ((5, 7), (7, 5)):
        shapes = [(2, 3, rows, 11), (2, 3, columns, 11), (2, 3, columns, 13)]
        if name == "_flash_attention_forward":
            shapes = [(b, t, h, d) for b, h, t, d in shapes]
        at = 4 if name.startswith("_scaled") else 8
        rest: list[object] = [] if masked is None else [None] * (at - 3) + [str(masked)]
        recorded = given(*((s, "c10::Half") for s in shapes), *rest)
        made = work_of(f"aten::{name}", recorded if masked is not None else Shapes(recorded.dims, recorded.types))
        assert made is not None
        kept = int(torch.ones(rows, columns).tril().sum()) if masked is not False else rows * columns
        assert (made.flops, made.least_flops) == (2 * 6 * 24 * rows * columns, 2 * 6 * 24 * kept)
        assert made.write_bytes == 2 * 6 * rows * 13 + 4 * 6 * rows


HALF, WIDE, DOUBLE, LONG = "c10::Half", "float", "double", "long int"
MOVED: list[tuple[str, tuple[object, ...], tuple[int, int]]] = [
    ("max", (((3, 4), WIDE), ((3, 4), WIDE)), (96, 48)),
    ("min", (((3, 4), HALF), ((3, 4), HALF)), (48, 24)),
    ("sum", (((3, 4), WIDE), "[]", "False", ""), (48, 4)),
    ("sum", (((), WIDE), "[0]", "False", ""), (4, 4)),
    ("amax", (((3, 4), HALF), "[1]", "True"), (24, 6)),
    # x, shape, weight, bias: statistics of each row in four bytes
    ("native_layer_norm", (((3, 8), HALF), "[8]", ((8,), HALF), None), (48 + 16, 48 + 2 * 12)),
    ("native_layer_norm", (((3, 8), HALF), "[8]", None, ((8,), HALF)), (48 + 16, 48 + 2 * 12)),
    ("native_layer_norm", (((3, 1), WIDE), "[1]", None, None), (12, 12 + 2 * 12)),
    ("native_layer_norm", (((3, 8), DOUBLE), "[8]", None, None), (192, 192 + 2 * 24)),
    ("native_layer_norm", (((3, 0), WIDE), "[0]", None, None), (0, 0)),
    ("_fused_rms_norm", (((3, 8), HALF), "[8]", ((8,), HALF), "1e-6"), (48 + 16, 48 + 12)),
    # dY, x, shape, 1/rms, weight, mask
    ("_fused_rms_norm_backward", (((3, 8), HALF), ((3, 8), WIDE), "[8]", ((3, 1), WIDE), ((8,), DOUBLE), "[1, 1]"),
     (48 + 96 + 12 + 64, 96 + 64)),
    ("_fused_rms_norm_backward", (((3, 8), HALF), ((3, 8), WIDE), "[8]", ((3, 1), WIDE), ((8,), DOUBLE), "[1, 0]"),
     (48 + 96 + 12 + 64, 96)),
    # x, dY, weight, running statistics, saved ones, epsilon, reserve: no mask, so all three
    ("cudnn_batch_norm_backward", (*[((2, 3, 5), HALF)] * 2, *[((3,), WIDE)] * 5, "1e-5", ((0,), "unsigned char")),
     (2 * 60 + 5 * 12, 60 + 24)),
    ("miopen_batch_norm_backward", (*[((2, 3, 5), HALF)] * 2, *[((3,), WIDE)] * 5, "1e-5"), (2 * 60 + 5 * 12, 60 + 24)),
    # dY, x, weight, running statistics, saved ones, update, epsilon, mask, reserve
    ("batch_norm_backward",
     (*[((2, 3, 5), HALF)] * 2, *[((3,), WIDE)] * 5, "True", "1e-5", "[True, False, True]", ((0,), "unsigned char")),
     (2 * 60 + 5 * 12, 60 + 12)),
    ("_adaptive_avg_pool2d", (((2, 9, 8), WIDE), "[3, 2]"), (4 * 144, 4 * 12)),
    ("topk", (((5, 3, 10), WIDE), "2", "", "True", "True"), (600, 30 * 12)),
    # Adam squares the gradient: twice the same one is read once
    ("addcmul_", (((6,), WIDE), ((6,), HALF), ((6,), HALF), "1"), (24 + 12, 24)),
    ("addcmul_", (((6,), WIDE), ((6,), HALF), ((3, 2), HALF), "1"), (24 + 24, 24)),
    ("addcmul_", (((6,), HALF), ((6,), HALF), ((1,), WIDE), "1"), (24 + 4, 12)),
    ("where", (((3, 4), "bool"), ((3, 4), WIDE), ((3, 4), HALF)), (12 + 48 + 24, 48)),
    ("where", (((3, 4), "bool"), ((3, 4), HALF), ((3, 4), HALF)), (12 + 48, 24)),
    ("masked_fill", (((3, 4), HALF), ((3, 4), "bool"), ((), WIDE)), (24 + 12 + 4, 24)),
    ("masked_fill", (((3, 4), "bool"), ((3, 4), LONG), "0"), (12 + 96, 12)),
    ("_softmax", (((3, 4), HALF), "1"), (24, 24)),
    ("_softmax_backward_data", (((3, 4), WIDE), ((3, 4), HALF), "1"), (48 + 24, 48)),
    ("_softmax_backward_data", (((3, 4), WIDE), ((3, 4), WIDE), "1", "5"), (96, 24)),
    ("randint_like", (((3, 4), WIDE), "9", "7"), (0, 96)),
    ("arange", ("5", "3", "1", "", "", "", "False"), (0, 0)),
    ("constant_pad_nd", (((2, 3, 5), WIDE), "[1, 2, 0, 4]", "0"), (120, 4 * 2 * 7 * 8)),
    ("mse_loss", (((3, 4), HALF), ((3, 1), WIDE), "0"), (24 + 12, 24)),
    ("mse_loss", (((3, 4), HALF), ((3, 4), WIDE), "1"), (24 + 48, 2)),
    ("binary_cross_entropy_with_logits", (*[((3, 4), HALF)] * 2, ((4,), HALF), ((4,), WIDE), "1"), (48 + 8 + 16, 2)),
    ("linear", (((2, 3, 5), HALF), ((7, 5), HALF), ((7,), WIDE)), (60 + 70 + 28, 2 * 6 * 7)),
    ("linear", (((2, 3, 5), HALF), ((7, 5), HALF), None), (60 + 70, 2 * 6 * 7)),
    ("dot", (((5,), HALF), ((5,), WIDE)), (10 + 20, 2)),
    ("_scaled_mm", (((3, 5), HALF), ((5, 7), HALF), ((1,), WIDE), ((2,), DOUBLE), ((7,), HALF), "", "6"),
     (30 + 70 + 4 + 16 + 14, 84)),
    ("index_select", (((3, 1, 5), WIDE), "1", ((1,), LONG)), (8 + 60, 60)),
    ("index_select", (((3, 2, 5), WIDE), "-2", ((1,), LONG)), (8 + 60, 60)),
    ("scatter_", (((5, 4), WIDE), "0", ((3, 4), LONG), ((6, 4), WIDE)), (96 + 96, 48)),
    ("index_add_", (((5, 4), WIDE), "0", ((3,), LONG), ((3, 4), HALF)), (24 + 24 + 48, 48)),
    ("cat", ([((3,), HALF), ((4,), HALF)], "0"), (14, 14)),
    ("_fused_sgd_", ([((3,), WIDE)], [((3,), HALF)], None), (12 + 6, 12)),
    ("_fused_sgd_", ([((3,), WIDE)], [((3,), HALF)], [((3,), WIDE)]), (12 + 6 + 12, 24)),
    ("_foreach_addcmul_", ([((3,), WIDE)], [((3,), HALF)], [((3,), HALF)], "1"), (12 + 6, 12)),
    ("_foreach_addcmul_", ([((3,), WIDE)], [((3,), HALF)], [((3,), WIDE)], "1"), (12 + 6 + 12, 12)),
    ("_foreach_addcmul_", ([((3,), WIDE)], [((2,), HALF)], [((2,), WIDE)], "1"), (12 + 4 + 8, 12)),
    ("_foreach_sqrt", ([((3,), HALF), ((5,), HALF)],), (16, 16)),
]  # fmt: skip


@pytest.mark.parametrize(("op", "inputs", "expected"), MOVED)
def test_bytes(op: str, inputs: tuple[object, ...], expected: tuple[int, int]) -> None:
    assert moved(op, *inputs) == expected


def test_expanded_targets_are_written_once_per_place() -> None:
    expanded = Shapes(((5, 4), ()), (WIDE, "Scalar"), ((0, 1), ()), ("", "2"))
    in_place, fresh = (work_of(f"aten::{op}", expanded) for op in ("mul_", "mul"))
    assert in_place is not None
    assert fresh is not None
    assert (in_place.write_bytes, fresh.write_bytes) == (16, 80)
    lists = Shapes((((5, 4),), ()), (f"TensorList[{WIDE}]", "Scalar"), (((0, 1),), ()), ("", "2"))
    works = [work_of(f"aten::_foreach_mul{end}", lists) for end in ("_", "")]
    assert [one.write_bytes for one in works if one] == [16, 80]


def test_what_was_not_recorded_makes_a_lower_bound() -> None:
    found = work_of("aten::embedding_dense_backward", Shapes(((3, 4), (3,)), (WIDE, LONG)))
    assert found is not None
    assert (found.min_bytes, found.exact) == (48 + 24, False)


def test_nothing_broadcasts_to_nothing() -> None:
    assert broadcast([]) == ()


def test_kernels_that_a_compiler_counted() -> None:
    product = Shapes((), ("Scalar", HALF, WIDE), moved_bytes=70, flops=30)
    made = work_of("triton_tem_fused_mm_0", product)
    assert made is not None
    assert (made.flops, made.least_flops, made.min_bytes, made.kind, made.dtype) == (30, 30, 70, "gemm", "float16")
    plain = work_of("triton_poi_fused_add_0", Shapes((), (HALF,), moved_bytes=70))
    assert plain is not None
    assert (plain.flops, plain.min_bytes, plain.kind, plain.dtype) == (0, 70, "memory", None)
    assert work_of("triton_tem_fused_mm_0", Shapes((), (HALF,), moved_bytes=70)) is None
    nothing = work_of("triton_poi_fused_0", Shapes((), (), moved_bytes=0))
    assert nothing is not None
    assert nothing.min_bytes == 0
