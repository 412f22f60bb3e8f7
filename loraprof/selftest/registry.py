"""All plants, in the order in which they run: one function and one line each."""

from loraprof.selftest import host, read
from loraprof.selftest.plant import Plant, Quantity

CPU, CUDA, BOTH = ("cpu",), ("cuda",), ("cpu", "cuda")

PLANTS: tuple[Plant, ...] = (
    Plant("sleep", BOTH, host.sleep, (Quantity("idle, python", "ns", read.idle("python")),)),
    Plant("loader", BOTH, host.loader, (Quantity("idle, data", "ns", read.idle("data")),)),
    Plant("spin", CPU, host.spin, (Quantity("one op", "ns", read.of_op("total_ns", host.SPIN)),)),
    Plant("gemm", BOTH, host.gemm, (
        Quantity("FLOPs", "flops", read.of_op("flops", "aten::mm")),
        Quantity("time", "ns", read.of_op("total_ns", "aten::mm")),
        Quantity("roof", "flops/s", read.roof("gemm_flops_per_s"), at_least=True, kinds=CUDA),
    )),
    Plant("copy", BOTH, host.copy, (
        Quantity("bytes", "bytes", read.of_op("min_bytes", "aten::copy_")),
        Quantity("time", "ns", read.of_op("total_ns", "aten::copy_")),
        Quantity("roof", "bytes/s", read.roof("copy_bytes_per_s"), at_least=True, kinds=CUDA),
    )),
)  # fmt: skip
