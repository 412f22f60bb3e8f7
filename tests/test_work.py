"""``work_of``: worked examples, convolutions against torch, optimizers, in-place ops, what must stay unknown."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from loraprof.analysis.work import gemm_dims, work_of
from loraprof.model.trace import Shapes

TRACES = Path(__file__).resolve().parents[1].parent / "shared" / "traces"


def shapes(*inputs: tuple[object, ...] | str | None, dtype: str = "float") -> Shapes:
    """Tuples are contiguous tensors of ``dtype``, texts scalars, None an absent argument."""
    dims = tuple(i if isinstance(i, tuple) else () for i in inputs)
    types = tuple(dtype if isinstance(i, tuple) else "Scalar" if i else "" for i in inputs)
    concrete = tuple(i if isinstance(i, str) else "" for i in inputs)
    strides = tuple(tuple(1 for _ in d) for d in dims)
    return Shapes(dims, types, strides, concrete)


def moved(op: str, recorded: Shapes) -> tuple[int, int]:
    work = work_of(op, recorded)
    assert work is not None
    assert work.exact
    return work.read_bytes, work.write_bytes


def test_one_fp32_lora_layer() -> None:
    """y = W(x) + B(A(x)) * 2.0 with T = 2048, k = n = 4096, r = 16."""
    base = moved("aten::mm", shapes((2048, 4096), (4096, 4096)))
    a = moved("aten::mm", shapes((2048, 4096), (4096, 16)))
    b = moved("aten::mm", shapes((2048, 16), (16, 4096)))
    mul = moved("aten::mul", shapes((2048, 4096), "2.0"))
    add = moved("aten::add", shapes((2048, 4096), (2048, 4096), "1"))
    assert base == (100663296, 33554432)
    assert a == (33816576, 131072)
    assert b == (393216, 33554432)
    assert mul == (33554432, 33554432)
    assert add == (67108864, 33554432)
    extra = sum(map(sum, (a, b, mul, add)))
    assert extra == 235667456
    assert (sum(base) + extra) / sum(base) == pytest.approx(2.755859, abs=5e-7)
    assert (sum(mul) + sum(add)) / extra == pytest.approx(0.7119, abs=5e-5)


def test_a_python_number_recorded_as_tensor_moves_nothing() -> None:
    wrapped = Shapes(((), (8, 8)), ("double", "float"), ((), (8, 1)), ("", ""))
    assert moved("aten::mul", wrapped) == (256, 256)
    real = Shapes(((), (8, 8)), ("float", "float"), ((), (8, 1)), ("", ""))
    assert moved("aten::mul", real) == (260, 256)


def test_expanded_dimensions_count_their_storage() -> None:
    grad = Shapes(((4, 8), (8, 16)), ("float", "float"), ((0, 0), (16, 1)), ("", ""))
    assert moved("aten::mm", grad) == (4 + 512, 256)


def test_promotion() -> None:
    mixed = Shapes(((2, 4), (2, 4), ()), ("c10::BFloat16", "float", "Scalar"), ((4, 1), (4, 1), ()), ("", "", "1"))
    assert moved("aten::add", mixed) == (16 + 32, 32)
    assert moved("aten::mul", shapes((3, 1), (1, 5), dtype="c10::BFloat16")) == (16, 30)


@pytest.mark.parametrize(
    ("op", "recorded", "expected"),
    [
        ("aten::add_", shapes((4,), (4,), "1"), (32, 16)),
        ("aten::copy_", Shapes(((4,), (4,)), ("float", "c10::Half"), ((1,), (1,)), ("", "")), (8, 16)),
        ("aten::zero_", shapes((4,)), (0, 16)),
        ("aten::_to_copy", shapes((4,), "15", None), (16, 8)),
        ("aten::native_dropout", shapes((4, 4), "0.1", "True", dtype="c10::BFloat16"), (32, 48)),
        ("aten::sum", shapes((4, 8), "[0]", "True", None), (128, 32)),
        ("aten::sum", shapes((4, 8), None), (128, 4)),
        ("aten::mean", shapes((4, 8), "[-1]", "False", None), (128, 16)),
        ("aten::max", shapes((4, 8), "1", "False"), (128, 16 + 32)),
        ("aten::_softmax", shapes((2, 8), "-1", "True", dtype="c10::Half"), (32, 64)),
        ("aten::gt", shapes((4,), "0"), (16, 4)),
        ("aten::arange", shapes("5", None, None, None, "False"), (0, 40)),
        ("aten::view", shapes((4, 8), "[32]"), (0, 0)),
        ("aten::index_select", Shapes(((10, 4), (), (2,)), ("float", "Scalar", "int"), (), ("", "0", "")), (40, 32)),
        ("aten::constant_pad_nd", shapes((2, 3), "[1, 2]", "0"), (24, 48)),
        ("aten::max_pool2d_with_indices", shapes((1, 2, 8, 8), "[3, 3]", "[2, 2]", "[1, 1]", "[1, 1]", "False"),
         (512, 128 + 256)),
        ("aten::_adaptive_avg_pool2d", shapes((1, 2, 8, 8), "[1, 1]"), (512, 8)),
        ("aten::topk", shapes((3, 10), "2", "-1", "True", "True"), (120, 24 + 48)),
        ("aten::repeat", shapes((2, 3), "[2, 1]"), (24, 48)),
        ("aten::slice_backward", shapes((2, 3), "[4, 3]", "0", "0", "2", "1"), (24, 48)),
        ("aten::mse_loss", shapes((4,), (4,), "1"), (32, 4)),
    ],
)  # fmt: skip
def test_bytes(op: str, recorded: Shapes, expected: tuple[int, int]) -> None:
    assert moved(op, recorded) == expected


def test_lists_need_their_element_type() -> None:
    recorded = Shapes((((2, 3), (2, 5)), ()), ("TensorList", "Scalar"), (((3, 1), (5, 1)), ()), ("", "1"))
    assert work_of("aten::cat", recorded) is None
    work = work_of("aten::cat", recorded, list_dtype="bfloat16")
    assert work is not None
    assert (work.read_bytes, work.write_bytes) == (32, 32)


@pytest.mark.parametrize(
    ("op", "recorded"),
    [
        ("aten::frobnicate", shapes((4,))),
        ("mm", shapes((4,), (4,))),
        ("aten::mm", Shapes((), ())),
        ("aten::mm", Shapes(((2, 2), (2, 2)), ("float", "c10::Weird"))),
        ("aten::cudnn_convolution", Shapes(((1, 3, 8, 8), (4, 3, 3, 3)), ("float", "float"))),
        ("aten::convolution_backward", Shapes(((1, 4, 8, 8), (1, 3, 8, 8), (4, 3, 3, 3)), ("float",) * 3)),
        ("aten::index", shapes((4, 4), None)),
        ("aten::_flash_attention_forward", shapes((64, 4, 16), (64, 4, 16), (64, 4, 16))),
    ],
)
def test_unknown_is_none(op: str, recorded: Shapes) -> None:
    assert work_of(op, recorded) is None


def test_without_scalars_a_reduction_is_a_lower_bound() -> None:
    work = work_of("aten::sum", Shapes(((4, 8), (), (), ()), ("float", "ScalarList", "Scalar", "")))
    assert work is not None
    assert (work.read_bytes, work.write_bytes, work.exact) == (128, 0, False)
    work = work_of("aten::_to_copy", Shapes(((4,), ()), ("float", "Scalar")))
    assert work is not None
    assert not work.exact


@pytest.mark.parametrize(
    ("op", "recorded", "expected"),
    [
        ("aten::mm", shapes((3, 5), (5, 7)), (3, 7, 5)),
        ("aten::addmm", shapes((7,), (3, 5), (5, 7), "1", "1"), (3, 7, 5)),
        ("aten::linear", shapes((2, 3, 5), (7, 5), None), (6, 7, 5)),
        ("aten::bmm", shapes((2, 3, 5), (2, 5, 7)), (6, 7, 5)),
        ("aten::cudnn_convolution", shapes((2, 3, 8, 8), (4, 3, 3, 3), "[1, 1]", "[2, 2]", "[1, 1]", "1"), (32, 4, 27)),
        ("aten::add", shapes((3, 5), (3, 5)), None),
    ],
)
def test_gemm_dims(op: str, recorded: Shapes, expected: tuple[int, int, int] | None) -> None:
    assert gemm_dims(op, recorded) == expected
    if expected is not None:
        work = work_of(op, recorded)
        assert work is not None
        assert work.flops == 2 * expected[0] * expected[1] * expected[2]


def test_causal_attention_may_skip_half() -> None:
    qkv = [(1, 2, 16, 8)] * 3
    causal = work_of("aten::_scaled_dot_product_flash_attention", shapes(*qkv, "0.", "True", "False", None))
    full = work_of("aten::_scaled_dot_product_flash_attention", shapes(*qkv, "0.", "False", "False", None))
    assert causal is not None
    assert full is not None
    assert causal.flops == full.flops == full.least_flops == 2 * 2 * 2 * 16 * 16 * 8
    assert causal.least_flops == 2 * 2 * 2 * 136 * 8
    assert causal.write_bytes == 1024 + 4 * 32


CONVOLUTIONS = [
    ((2, 4, 9, 9), (6, 4, 3, 3), {"stride": 2, "padding": 1}),
    ((2, 4, 9, 9), (6, 2, 1, 1), {"groups": 2}),
    ((2, 4, 9), (6, 4, 3), {"dilation": 2}),
    ((1, 2, 5, 5, 5), (6, 2, 2, 2, 2), {}),
]


@pytest.mark.parametrize(("x", "w", "options"), CONVOLUTIONS)
@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions(x: tuple[int, ...], w: tuple[int, ...], options: dict[str, int], transposed: bool) -> None:
    from dispatch import count, worked
    from torch.utils.flop_counter import FlopCounterMode

    axes = len(x) - 2
    groups = options.get("groups", 1)
    if transposed:
        w = (x[1], 6 // groups, *w[2:])
        run = getattr(torch, f"conv_transpose{axes}d")
    else:
        run = getattr(torch, f"conv{axes}d")
    xs, ws, bias = (
        torch.randn(x, requires_grad=True),
        torch.randn(w, requires_grad=True),
        torch.randn(6).requires_grad_(),
    )
    counter = FlopCounterMode(display=False)
    with counter:
        calls = count(lambda: run(xs, ws, bias, **options).sum().backward())
    calls = [c for c in calls if "convolution" in c.op]
    assert [c.op for c in calls] == ["aten::convolution", "aten::convolution_backward"]
    works = [worked(c) for c in calls]
    if groups == 1:  # torch's counter ignores groups in the gradients
        assert sum(work.flops for work in works) == counter.get_total_flops()
    assert works[1].flops == 2 * works[0].flops
    for call, work in zip(calls, works, strict=True):
        assert (work.read_bytes, work.write_bytes) == (call.read, call.written)
        assert work.least_flops == work.flops // (4 if w[2:] == (3, 3) else 1)


@pytest.mark.parametrize(("dtype", "name"), [("float32", "float"), ("bfloat16", "c10::BFloat16")])
def test_adamw_bytes_per_parameter(dtype: str, name: str) -> None:
    """foreach 40 and 80, fused 14 and 28 B/parameter; the schema of the fused op suggests 16 and 32."""
    from dispatch import count, worked

    size = 1 << 16
    totals = {}
    for flags in ({"foreach": True}, {"fused": True}):
        p = torch.zeros(size, dtype=getattr(torch, dtype), requires_grad=True)
        optimizer = torch.optim.AdamW([p], **flags)  # type: ignore[arg-type]
        p.grad = torch.ones_like(p)
        optimizer.step()
        calls = count(optimizer.step)
        works = [worked(c) for c in calls]
        assert all(works)
        schema = sum(c.read + c.written for c in calls)
        totals[next(iter(flags))] = (sum(w.min_bytes for w in works) / size, schema / size)
    wide = 2 if dtype == "float32" else 1
    assert totals["foreach"] == pytest.approx((40 * wide, 40 * wide), abs=0.01)
    assert totals["fused"] == pytest.approx((14 * wide, 16 * wide), abs=0.01)
    four = ((size,),)
    lists = Shapes((four, four, four, four, (), four), (f"TensorList[{name}]",) * 4 + ("", "TensorList[float]"), ())
    scaled = Shapes((*lists.dims, *[()] * 8), (*lists.types, *["Scalar"] * 7, "float"), ())
    plain, unscaled = work_of("aten::_fused_adamw_", lists), work_of("aten::_fused_adamw_", scaled)
    assert plain is not None
    assert unscaled is not None
    assert unscaled.write_bytes - plain.write_bytes == size * (4 if wide == 2 else 2)


@pytest.mark.parametrize("file", ["mi300_norm_layers_fwdbwd", "mi300_resnet18_train_modules", "h100_bert_small"])
def test_public_traces_are_covered(file: str) -> None:
    path = TRACES / f"{file}.json.gz"
    if not path.exists():
        pytest.skip("public traces are not beside this clone")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    known: Counter[bool] = Counter()
    missing = set()
    for event in events:
        args = event.get("args", {})
        if event.get("cat") == "cpu_op" and event["name"].startswith("aten::") and "Concrete Inputs" in args:
            columns: Any = (args[k] for k in ("Input Dims", "Input type", "Input Strides", "Concrete Inputs"))
            dims, types, strides, concrete = (tuple(tuple(v) if isinstance(v, list) else v for v in c) for c in columns)
            work = work_of(event["name"], Shapes(dims, types, strides, concrete))  # type: ignore[arg-type]
            known[work is not None] += 1
            if work is None:
                missing.add(event["name"])
    assert known[True] > 0.8 * known.total(), sorted(missing)
    assert not missing & {"aten::mm", "aten::addmm", "aten::bmm", "aten::miopen_convolution", "aten::copy_"}
