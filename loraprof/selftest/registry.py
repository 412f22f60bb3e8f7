"""All plants, in the order in which they run: one function and one line each."""

from loraprof.capture.device.kinds import KINDS
from loraprof.diagnosis.findings.adapter_form import HOST_SYNC
from loraprof.diagnosis.findings.host import LAUNCH_BOUND
from loraprof.model.vocabulary import Cause
from loraprof.selftest import device, host, lora, rates, read
from loraprof.selftest.plant import Plant, Quantity

BOTH = tuple(KINDS)
QUEUED = tuple(name for name, kind in KINDS.items() if kind.asynchronous)
DIRECT = tuple(name for name in KINDS if name not in QUEUED)
LAUNCHING: tuple[Cause, ...] = ("python", "framework", "launch_api", "launch_latency")
READS = "reads of a device value inside adapted layers"

PLANTS: tuple[Plant, ...] = (
    Plant("sleep", BOTH, host.sleeping, (Quantity("idle, python", "ns", read.idle("python")),)),
    Plant("loader", BOTH, host.loading, (Quantity("idle, data", "ns", read.idle("data")),)),
    Plant("spin", BOTH, host.spinning, (
        Quantity("one op", "ns", read.of_op("total_ns", host.SPIN), kinds=DIRECT),
        Quantity("idle, framework", "ns", read.idle("framework"), kinds=QUEUED),
    )),
    Plant("gemm", BOTH, rates.products, (
        Quantity("FLOPs", "flops", read.of_op("flops", "aten::mm")),
        Quantity("time", "ns", read.of_op("total_ns", "aten::mm")),
        Quantity("roof", "flops/s", read.roof("gemm_flops_per_s"), "at least", QUEUED),
    )),
    Plant("copy", BOTH, rates.copies, (
        Quantity("bytes", "bytes", read.of_op("min_bytes", "aten::copy_")),
        Quantity("time", "ns", read.of_op("total_ns", "aten::copy_")),
        Quantity("roof", "bytes/s", read.roof("copy_bytes_per_s"), "at least", QUEUED),
    )),
    Plant("lora", BOTH, lora.adapting, (
        Quantity("adapted layers", "count", read.adapted),
        Quantity("FLOPs of A and B", "flops", read.flops_of("adapter.down", "adapter.up")),
        Quantity("finding L8", "count", read.found(HOST_SYNC)),
    )),
    Plant("item", BOTH, lora.reading, (
        Quantity("finding L8", "count", read.found(HOST_SYNC)),
        Quantity("values read", "count", read.evidence(HOST_SYNC, READS)),
    )),
    Plant("nulls", QUEUED, device.nulls, (
        Quantity("kernels", "count", read.kernels),
        Quantity("launches", "count", read.launches),
        Quantity("records alone", "count", read.unmatched),
        Quantity("launch floor", "ns", read.launch_floor, "at most"),
        Quantity("finding H1", "count", read.found(LAUNCH_BOUND)),
    )),
    Plant("sync", QUEUED, device.syncing, (Quantity("idle, sync", "ns", read.idle("sync")),)),
    Plant("wait", QUEUED, device.waiting, (Quantity("idle, queued", "ns", read.idle("queued")),)),
    Plant("overlap", QUEUED, device.overlapping, (
        Quantity("copy under compute", "ns", read.overlap("compute", "copy")),
    )),
    Plant("queue", QUEUED, device.queueing, (
        Quantity("launches", "count", read.launches),
        Quantity("longest launch call", "ns", read.longest_launch),
        Quantity("idle, launching", "ns", read.idle(*LAUNCHING)),
        Quantity("finding H1", "count", read.found(LAUNCH_BOUND)),
    )),
    Plant("graph", QUEUED, device.replaying, (
        Quantity("kernels", "count", read.kernels),
        Quantity("launches", "count", read.launches),
        Quantity("records alone", "count", read.unmatched),
        Quantity("time of its module", "ns", read.module_busy("graph")),
    )),
)  # fmt: skip
