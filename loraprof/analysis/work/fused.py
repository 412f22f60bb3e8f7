"""Kernels that inductor made: what each moves (``kernel_num_gb``) and multiplies (``kernel_flop``), as inductor says.

It does so where it was told to benchmark (``benchmark_kernel``, ``profile_bandwidth``). Bytes are those of its buffers,
once each, of slices only what is used, of in-place buffers twice (``estimate_kernel_num_bytes``, torch 2.13); what is
read and what is written is not told apart.
"""

from loraprof.analysis.work.rule import Work
from loraprof.analysis.work.tensors import KINETO
from loraprof.model.trace import Shapes


def work(op: str, shapes: Shapes) -> Work | None:
    """Without ``kernel_flop`` a kernel is elementwise, which counts no FLOPs; one made from a template is a product."""
    if shapes.flops is None and "_tem_" in op:
        return None
    moved, flops = shapes.moved_bytes or 0, shapes.flops or 0
    dtype = next((KINETO[t] for t in shapes.types if t in KINETO), None)
    return Work(flops, moved, 0, "gemm" if flops else "memory", dtype if flops else None, least_flops=flops)
