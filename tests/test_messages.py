"""Names, sizes and bandwidth factors of collectives, against torch's, NCCL's and gloo's spellings and nccl-tests."""

import pytest

from loraprof.analysis.ranks.messages import KINDS, bus_factor, kind_of, size_of, width_of
from loraprof.model.trace import Collective


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("allreduce", "all_reduce"),
        ("gloo:all_reduce", "all_reduce"),
        ("c10d::allreduce_", "all_reduce"),
        ("ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "all_reduce"),
        ("void vllm::cross_device_reduce_2stage<half, 8>(...)", "all_reduce"),
        ("_allgather_base", "all_gather"),
        ("c10d::_allgather_base_", "all_gather"),
        ("allgather_into_tensor_coalesced", "all_gather"),
        ("c10d::_reduce_scatter_base_", "reduce_scatter"),
        ("reduce_scatter_tensor_coalesced", "reduce_scatter"),
        ("ncclDevKernel_ReduceScatter_Sum_f32_RING_LL", "reduce_scatter"),
        ("all_to_allv", "all_to_all"),
        ("alltoall_base", "all_to_all"),
        ("broadcast", "broadcast"),
        ("ncclDevKernel_SendRecv", "send_recv"),
        ("recv", "send_recv"),
        ("barrier", "barrier"),
        ("gather", "gather"),
        ("scatter", "scatter"),
        ("reduce", "reduce"),
        ("ncclDevKernel_Generic", "other"),
    ],
)
def test_kinds(name: str, kind: str) -> None:
    assert KINDS[kind_of(name)] == kind


@pytest.mark.parametrize(
    ("dtype", "width"),
    [("Float", 4), ("BFloat16", 2), ("Half", 2), ("Byte", 1), ("Long", 8), ("float", 4), ("c10::BFloat16", 2),
     ("long int", 8), ("Float8_e4m3fn", 1), ("", None), ("Quaternion", None)],
)  # fmt: skip
def test_widths(dtype: str, width: int | None) -> None:
    assert width_of(dtype) == width


@pytest.mark.parametrize(
    ("given", "got", "size"),
    [(100, 800, 3200), (800, 100, 3200), (100, 100, 400), (None, 50, 200), (None, None, None), (0, 0, None)],
)
def test_the_size_is_the_larger_of_what_is_given_and_got(given: int | None, got: int | None, size: int | None) -> None:
    assert size_of(Collective("x", "Float", given, got, 8, "0", None)) == size


@pytest.mark.parametrize(
    ("kind", "ranks", "factor"),
    [("all_reduce", 2, 1.0), ("all_reduce", 8, 1.75), ("all_gather", 8, 0.875), ("reduce_scatter", 4, 0.75),
     ("all_to_all", 2, 0.5), ("broadcast", 8, 1.0), ("send_recv", 2, 1.0)],
)  # fmt: skip
def test_factors_of_nccl_tests(kind: str, ranks: int, factor: float) -> None:
    assert bus_factor(kind, ranks) == factor
