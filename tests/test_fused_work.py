"""Bytes and FLOPs that inductor writes beside its Triton kernels."""

from pathlib import Path

from builders import Document, json_of, kernel, op, step, write

import loraprof
from loraprof.model.report import Kernel

US = 1000


def trace(name: str, **args: object) -> Document:
    document = json_of(
        [step(0, 0, 100 * US), op(name, 10 * US, 30 * US)],
        [kernel(40 * US, 50 * US, launch=(15 * US, 20 * US), name=name)],
    )
    for event in document["traceEvents"]:
        if event["cat"] == "cpu_op":
            event["args"] |= {"kernel_backend": "triton", "kernel_file": "x.py", "stream": 7, **args}
    return document


def only(tmp_path: Path, document: Document) -> Kernel:
    report = loraprof.diagnose(write(tmp_path / "trace.json", document))
    (found,) = report.kernels
    return found


def test_bytes_of_a_fused_kernel(tmp_path: Path) -> None:
    found = only(tmp_path, trace("triton_poi_fused_add_gelu_0", kernel_num_gb=0.001572864))
    assert (found.min_bytes, found.flops) == (1_572_864, 0)
    assert found.role == "other"
    as_text = only(tmp_path, trace("triton_poi_fused_add_gelu_0", kernel_num_gb="0.001572864"))
    assert as_text.min_bytes == found.min_bytes


def test_flops_of_a_template(tmp_path: Path) -> None:
    args = {"kernel_num_gb": 0.5, "Input Dims": [[8, 8]], "Input type": ["c10::BFloat16"]}
    found = only(tmp_path, trace("triton_tem_fused_mm_1", kernel_flop=1e9, **args))
    assert (found.min_bytes, found.flops) == (500_000_000, 1_000_000_000)
    unknown = only(tmp_path, trace("triton_tem_fused_mm_1", **args))
    assert (unknown.min_bytes, unknown.flops) == (None, None)  # a product whose work nobody told


def test_without_the_count_bytes_stay_unknown(tmp_path: Path) -> None:
    found = only(tmp_path, trace("triton_poi_fused_add_0", **{"Input Dims": [[8, 8]], "Input type": ["float"]}))
    assert (found.min_bytes, found.flops) == (None, None)
    nonsense = only(tmp_path, trace("triton_poi_fused_add_0", kernel_num_gb="many"))
    assert nonsense.min_bytes is None
