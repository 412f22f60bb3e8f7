"""Tensors of a trace against torch's own: sizes of elements, promotion, broadcasting, and how arguments are written."""

from itertools import product

import pytest
import torch

from loraprof.analysis.work.rule import Work, memory
from loraprof.analysis.work.rule import product as multiply
from loraprof.analysis.work.tensors import (
    KINETO,
    SIZES,
    Inputs,
    Tensor,
    UnknownInput,
    _wider,
    broadcast,
    category,
    dense,
    promote,
)
from loraprof.model.trace import Shapes

TYPES = [t for t in SIZES if "float8" not in t]


def test_sizes_and_kinds_of_elements() -> None:
    for name, size in SIZES.items():
        kind: torch.dtype = getattr(torch, name)
        assert size == kind.itemsize
        assert category(name) == (kind.is_complex * 3 or kind.is_floating_point * 2 or (name != "bool") * 1)
    assert set(KINETO.values()) == set(SIZES)


@pytest.mark.parametrize(("one", "two"), product(TYPES, repeat=2))
def test_promotion_is_torchs(one: str, two: str) -> None:
    expected = str(torch.promote_types(getattr(torch, one), getattr(torch, two))).removeprefix("torch.")
    if {category(one), category(two)} == {2, 3}:
        return  # complex64 with float64 is complex128 in torch: not met in training
    assert _wider(one, two) == expected
    assert promote([dense((2,), one), dense((2,), two)]) == expected


def test_a_tensor_without_dimensions_promotes_to_a_higher_kind_only() -> None:
    def seen(shaped: str, scalar: str) -> str:
        return promote([dense((2,), shaped), dense((), scalar)])

    assert seen("bfloat16", "float32") == "bfloat16"
    assert seen("int32", "int64") == "int32"
    assert seen("int32", "float32") == "float32"
    assert seen("int32", "float64") == "float32"  # a Python number
    assert seen("bool", "int64") == "int64"
    assert promote([dense((), "float32"), dense((), "bfloat16")]) == "float32"
    assert promote([dense((), "float64")]) == "float64"


@pytest.mark.parametrize(
    "shapes", [((3, 1), (1, 5)), ((4,), (2, 3, 4)), ((), (2,)), ((1,), (1, 1)), ((2, 3),), ((), ())]
)
def test_broadcasting_is_torchs(shapes: tuple[tuple[int, ...], ...]) -> None:
    assert broadcast([dense(s, "float32") for s in shapes]) == tuple(torch.broadcast_shapes(*shapes))


def test_an_expanded_dimension_occupies_nothing_an_empty_one_is_empty() -> None:
    def stored(dims: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
        return Inputs(Shapes((dims,), ("float",), (strides,))).tensor(0)

    assert (stored((4, 8), (0, 1)).stored, stored((4, 8), (0, 1)).bytes) == (8, 32)
    assert stored((4, 8), (8, 1)).numel == 32
    assert stored((4, 0), (0, 0)).stored == 0
    assert stored((4, 8), (1,)).stored == 32  # strides that do not fit are not known


def test_arguments_by_position() -> None:
    shapes = Shapes(
        ((2, 3), (), ((2,), (3,)), (4,)),
        ("float", "Scalar", "TensorList[float]", "c10::Half"),
        ((3, 1), (), ((1,), (0,)), (1,)),
        ("", "[1, -2]", "", ""),
    )
    given = Inputs(shapes)
    assert len(given) == 4
    assert [t.dims for t in given.tensors()] == [(2, 3), (4,)]
    assert given.optional(1) is given.optional(2) is given.optional(4) is None
    assert [(t.dims, t.stored) for t in given.tensor_list(2)] == [((2,), 2), ((3,), 1)]
    assert given.tensor_list(0) == given.tensor_list(4) == []
    assert given.ints(1) == [1, -2]
    assert given.ints(0) == []
    with pytest.raises(UnknownInput):
        given.text(4)
    with pytest.raises(UnknownInput):
        given.tensor(1)


def test_lists_take_the_type_that_is_known_of_them() -> None:
    lists = Shapes((((2,), (3,)),), ("TensorList",), (((1,),),))
    assert [t.dtype for t in Inputs(lists, "bfloat16").tensor_list(0)] == ["bfloat16"] * 2
    with pytest.raises(UnknownInput):
        Inputs(lists).tensor_list(0)


def test_flags_numbers_and_types() -> None:
    given = Inputs(Shapes(((),) * 7, ("Scalar",) * 7, (), ("True", "1", "0", "[True, False, 1]", "7", "15", "x")))
    assert [given.flag(i) for i in range(3)] == [True, True, False]
    assert given.flags(3) == [True, False, True]
    assert (given.ints(4), given.dtype(5, "float32"), given.dtype(4, "float32")) == ([7], "bfloat16", "float64")
    with pytest.raises(UnknownInput):
        given.ints(6)
    with pytest.raises(UnknownInput):
        given.dtype(6, "float32")
    assert Inputs(Shapes((), (), (), ("",))).dtype(0, "float16") == "float16"


def test_work_adds_up_what_is_read_and_written() -> None:
    one, two = dense((2, 3), "float32"), dense((4,), "bfloat16")
    assert memory([one, two], [one]) == Work(0, 32, 24, reads=(24, 8), writes=(24,))
    made = multiply(100, [one], [two], "gemm", "float32")
    assert (made.flops, made.least_flops, made.min_bytes, made.kind) == (100, 100, 32, "gemm")
    assert multiply(100, [one], [two], "attention", "float32", 40).least_flops == 40
