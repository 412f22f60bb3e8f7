"""Below how many tokens does the host, not the GPU, decide?

Forward of one layer is host-bound when its launches take longer than its GEMMs: n_launch c > 2 P_layer T / F.
c is the host time per launch, everything included; estimate it in every run.
"""

from loraprof.analysis.costmodel.launches import extra_forward_launches, extra_launches
from loraprof.analysis.costmodel.variants import full_size

BASE_KERNELS = 20  # per layer besides the linears: norms, rotary, attention, activation, residuals (an assumption)


def host_bound_tokens(
    linears: int, layer_parameters: int, flops_per_s: float, launch_s: float, variant: str | None = None
) -> float:
    """T below which one layer's forward is host-bound; ``variant`` adapts all its linears, ``None`` none."""
    extra = 0 if variant is None else extra_forward_launches(variant)
    launches = linears + BASE_KERNELS + linears * extra
    return launches * launch_s * flops_per_s / (2 * layer_parameters)


def short_kernel_tokens(slot_s: float, bytes_per_s: float, n: int) -> float:
    """T below which one elementwise kernel of the adapter (4 T n bytes) is shorter than a launch slot."""
    return slot_s * bytes_per_s / (4 * n)


def traffic_equals_launch_tokens(variant: str, slot_s: float, bytes_per_s: float, hidden: int) -> float:
    """T at which a square layer's adapter traffic takes as long as its launches, forward plus backward."""
    c_k, c_n = full_size(variant)
    return extra_launches(variant) * slot_s * bytes_per_s / ((c_k + c_n) * hidden)
