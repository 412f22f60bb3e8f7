"""Roofs, bounds and traffic in the reports of traces: from the GPU's data sheet, or not at all, and said why."""

from decimal import Decimal
from typing import Any

import pytest
from builders import Document, copy, json_of, kernel, op, step
from reports import REAL, real, report_of

from loraprof.model.report import Kernel, Report

T, D = 4096, 2048
BF16 = "c10::BFloat16"
OPS = {
    "aten::mm": ([[T, D], [D, D]], [BF16, BF16], [[D, 1], [1, D]], ["", ""]),
    "aten::mul": ([[T, D], []], [BF16, "Scalar"], [[D, 1], []], ["", "2.0"]),
    "aten::add": ([[T, D], [T, D], []], [BF16, BF16, "Scalar"], [[D, 1], [D, 1], []], ["", "", "1"]),
}
TENSOR = 2 * T * D  # bytes
WEIGHT = 2 * D * D
KERNEL_NS = {"mm": 45_000, "mul": 12_000, "add": 18_000}


def document(gpu: str | None, shapes: bool = True, **facts: Any) -> Document:
    """base GEMM, scale, add on one stream, and a copy from the host; 200 blocks each."""
    host = [step(0, 0, 20_000)]
    device, at = [], 30_000
    for i, (name, ns) in enumerate(KERNEL_NS.items()):
        host.append(op(f"aten::{name}", 1000 + 2000 * i, 2900 + 2000 * i))
        device.append(kernel(at, at + ns, (1100 + 2000 * i, 1200 + 2000 * i), f"{name}_kernel"))
        at += ns + 1000
    device.append(copy(at, at + 5000, (15_000, 15_100), bytes=1000))
    made = json_of(host, device)
    made["deviceProperties"] = [] if gpu is None else [{"id": 0, "name": gpu, **facts}]
    for event in made["traceEvents"]:
        if event["cat"] == "kernel":
            event["args"]["grid"] = [200, 1, 1]
        if shapes and event["name"] in OPS:
            keys = ("Input Dims", "Input type", "Input Strides", "Concrete Inputs")
            event["args"] |= dict(zip(keys, OPS[event["name"]], strict=True))
    return made


def by_name(report: Report) -> dict[str, Kernel]:
    return {k.name: k for k in report.kernels}


def notes(report: Report) -> list[str]:
    return [n for n in report.closure.notes if "roof" in n or "FLOPs" in n]


H100: dict[str, Any] = {"numSms": 132, "totalGlobalMem": 85_000_000_000}


def test_a_known_gpu_has_the_roofs_of_its_data_sheet() -> None:
    report = report_of(document("NVIDIA H100 80GB HBM3", **H100))
    assert report.ceilings is not None
    assert report.ceilings.basis == "data sheet of H100 SXM"
    assert (report.ceilings.gemm_flops_per_s, report.ceilings.copy_bytes_per_s) == (989.4e12, 3.35e12)
    assert report.ceilings.launch_floor_ns is None
    mm, mul, add = (by_name(report)[f"{n}_kernel"] for n in KERNEL_NS)
    assert [k.bound for k in (mm, mul, add)] == ["compute", "memory", "memory"]
    assert mm.roof_ns == round(2 * T * D * D / 989.4e12 * 1e9)
    assert mul.roof_ns == round(2 * TENSOR / 3.35e12 * 1e9)
    assert add.roof_ns == round(3 * TENSOR / 3.35e12 * 1e9)
    assert [k.note for k in (mm, mul, add)] == [None] * 3
    assert by_name(report)["Memcpy HtoD"].roof_ns is None
    assert notes(report) == []


def test_traffic_by_role_with_and_without_reuse() -> None:
    """The product moves 42 MB, the scale 34: an L2 of 50 MB holds each, one of 6 MB neither."""
    report = report_of(document("NVIDIA H100 80GB HBM3", **H100))
    assert report.traffic is not None
    assert sum(t.min_bytes for t in report.traffic) == (2 + 2 + 3) * TENSOR + WEIGHT
    assert sum(t.share or 0 for t in report.traffic) == pytest.approx(1)
    kernels = by_name(report)
    assert kernels["mm_kernel"].l2_bytes == TENSOR + WEIGHT  # the scale finds the product in the cache
    assert kernels["mul_kernel"].l2_bytes == 0  # and the add both the product and what was scaled
    assert kernels["add_kernel"].l2_bytes == TENSOR
    small = report_of(document("NVIDIA A10", numSms=72))
    assert all(k.l2_bytes in (None, k.min_bytes) for k in small.kernels)


def test_fewer_blocks_than_sms_and_half_of_a_ceiling() -> None:
    """A kernel that keeps one block per SM has few blocks and may be at its roof all the same."""
    wide = document("NVIDIA H100 80GB HBM3", **H100)
    for event in wide["traceEvents"]:
        if event["cat"] == "kernel":
            event["args"]["grid"] = [11, 12, 1] if event["name"] == "mul_kernel" else [131, 1, 1]
    fed = {name: k.bound for name, k in by_name(report_of(wide)).items()}
    assert fed == {"mm_kernel": "compute", "mul_kernel": "memory", "add_kernel": "memory", "Memcpy HtoD": "unknown"}
    roof_ns = 2 * T * D * D / 989.4e12 * 1e9
    for share, bound in ((0.51, "compute"), (0.49, "latency")):
        for event in wide["traceEvents"]:
            if event["name"] == "mm_kernel":
                event["dur"] = Decimal(round(roof_ns / share)) / 1000
                event["ts"] = Decimal(1000)  # its own stream's only work
                event["tid"] = event["args"]["stream"] = 20
        assert by_name(report_of(wide))["mm_kernel"].bound == bound


def test_a_result_that_another_kernel_filled_is_written_once() -> None:
    """The loss's gradient is zero but at one element per row: a fill writes it, then the op's own kernel those few."""
    rows, classes = 2048, 32000
    host = [step(0, 0, 20_000), op("aten::nll_loss_backward", 1000, 4000)]
    host += [op("aten::zero_", 1500, 2500), op("aten::fill_", 1600, 2400)]
    device = [kernel(30_000, 120_000, (2000, 2100), "fill"), kernel(130_000, 139_000, (3000, 3100), "nll")]
    made = json_of(host, device)
    made["deviceProperties"] = [{"id": 0, "name": "NVIDIA H100 80GB HBM3", **H100}]
    logits, labels = ([rows, classes], "float"), ([rows], "long int")
    scalar: tuple[list[int], str] = ([], "Scalar")
    inputs = {
        "aten::nll_loss_backward": [([], "float"), logits, labels, ([], ""), scalar, scalar, ([], "float")],
        "aten::zero_": [logits],
        "aten::fill_": [logits, scalar],
    }
    for event in made["traceEvents"]:
        if event["name"] in inputs:
            dims, types = zip(*inputs[event["name"]], strict=True)
            event["args"] |= {"Input Dims": list(dims), "Input type": list(types)}
    kernels = by_name(report_of(made))
    assert kernels["fill"].min_bytes == 4 * rows * classes
    assert kernels["nll"].min_bytes == 4 + 8 * rows + 4  # the loss's gradient, the labels, the total weight
    assert [kernels[n].note for n in ("fill", "nll")] == [None, None]


@pytest.mark.parametrize(
    ("gpu", "facts", "said"),
    [
        ("NVIDIA GB200", {}, "no data sheet for a GPU named 'NVIDIA GB200'"),
        ("NVIDIA H100 80GB HBM3", {"numSms": 100}, None),  # a slice: its SMs are known, its bandwidth is not
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", {}, "slice of unknown size"),
        ("NVIDIA H200", {"totalGlobalMem": 40_000_000_000}, "which is not a H200 SXM"),
        ("", {}, "does not name its GPU"),
        (None, {}, "does not name its GPU"),
    ],
)
def test_without_a_data_sheet_there_are_no_roofs(gpu: str | None, facts: dict[str, int], said: str | None) -> None:
    report = report_of(document(gpu, **facts))  # type: ignore[arg-type]
    assert all(k.roof_ns is None and k.bound == "unknown" and k.note is None for k in report.kernels)
    if said is None:
        assert report.ceilings is not None
        assert report.ceilings.copy_bytes_per_s is None
    else:
        assert report.ceilings is None
        (note,) = notes(report)
        assert note.startswith("no roofs: ")
        assert said in note
    assert report.traffic is not None  # bytes need no data sheet
    assert all(t.l2_bytes is None for t in report.traffic)


def test_without_shapes_flops_and_bytes_are_unknown() -> None:
    report = report_of(document("NVIDIA H100 80GB HBM3", shapes=False, **H100))
    assert report.traffic is None
    assert all(k.flops is None and k.min_bytes is None and k.roof_ns is None for k in report.kernels)
    assert notes(report) == ["FLOPs and bytes are unknown: no shapes were recorded (record_shapes=True)"]


def test_what_a_product_of_unknown_size_launches_is_not_nothing() -> None:
    """The bias copy inside a product counts with the product; where that is unknown, so is the copy."""
    host = [step(0, 0, 20_000), op("aten::addmm", 1000, 4000), op("aten::copy_", 1500, 2500)]
    device = [kernel(30_000, 32_000, (2000, 2100), "bias"), kernel(33_000, 60_000, (3000, 3100), "gemm")]
    report = report_of(json_of(host, device))
    assert report.traffic is None
    assert {k.min_bytes for k in report.kernels} == {None}


def test_some_shapes_cover_some_of_the_time() -> None:
    some = document("NVIDIA H100 80GB HBM3", **H100)
    for event in some["traceEvents"]:
        if event["name"] == "aten::mul":
            del event["args"]["Input Dims"]
    report = report_of(some)
    assert by_name(report)["mul_kernel"].min_bytes is None
    assert by_name(report)["add_kernel"].min_bytes == 3 * TENSOR
    assert notes(report) == ["FLOPs and bytes cover 84 % of the computation's time"]  # 63 of 75 us


def test_a_kernel_that_is_too_fast_is_reported() -> None:
    fast = document("NVIDIA H100 80GB HBM3", **H100)
    for event in fast["traceEvents"]:
        if event["cat"] == "kernel":
            event["dur"] /= 4
    kernels = by_name(report_of(fast))
    assert {n: k.note for n, k in kernels.items() if "kernel" in n} == {
        "mm_kernel": "impossible",
        "mul_kernel": "L2-assisted",
        "add_kernel": "L2-assisted",
    }
    said = [n for n in report_of(fast).closure.notes if "impossibly" in n]
    assert said == ["1 record is impossibly fast, mm_kernel at 3.09x its roof: a ceiling, a shape or a time is wrong"]


@pytest.mark.parametrize("name", ["h100_bert_small", "mi300_resnet18_train_modules"])
def test_public_traces_with_shapes(name: str) -> None:
    if not REAL.exists():
        pytest.skip("the public traces are not here")
    report = report_of(real(name).read_bytes())
    assert report.traffic is not None
    assert report.ceilings is not None
    assert report.ceilings.basis.startswith("data sheet of ")
    bounds = {k.bound for k in report.kernels}
    assert {"latency", "memory"} <= bounds
    assert not [k.name for k in report.kernels if k.note == "impossible"]
