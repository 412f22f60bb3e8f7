"""How long does a GEMM of M x K times K x N take, when it may be too small to fill the device?

    tiles = ceil(M/tm) ceil(N/tn)          waves = ceil(tiles split / SM)
    waveQ = waves SM / (tiles split)       t_flop = 2 ceil(M/tm) tm ceil(N/tn) tn K waveQ / (P u)
    t_mem = bytes / min(BW, CTAs b_SM)     t = T0 + max(t_flop, t_mem)

Tile and wave quantisation: NVIDIA, "Matrix Multiplication Background User's Guide". u is the efficiency of a
full wave, b_SM the bandwidth one SM can draw, T0 the fixed cost of a kernel; all three are to be calibrated.
"""

from math import ceil

from msgspec import Struct


class Machine(Struct, frozen=True):
    """What the model needs to know about a GPU."""

    sms: int
    peak_flops_per_s: float  # at the clock it runs
    bytes_per_s: float
    efficiency: float = 0.75
    sm_bytes_per_s: float | None = None  # None: one SM is no limit
    fixed_ns: float = 0.0


class Skinny(Struct, frozen=True):
    """Where the time of one GEMM goes."""

    tiles: int
    waves: int
    quantization: float  # >= 1: idle SMs in the last wave
    flop_ns: float
    memory_ns: float
    ns: float


def skinny_gemm(
    m: int, n: int, k: int, machine: Machine, tile: tuple[int, int] = (128, 128), split: int = 1, width: int = 2
) -> Skinny:
    """``tile`` and ``split`` come from the kernel's name or its grid."""
    rows, columns = ceil(m / tile[0]), ceil(n / tile[1])
    ctas = rows * columns * split
    waves = ceil(ctas / machine.sms)
    quantization = waves * machine.sms / ctas
    padded = 2 * rows * tile[0] * columns * tile[1] * k
    flop_ns = padded * quantization / (machine.peak_flops_per_s * machine.efficiency) * 1e9
    drawn = machine.bytes_per_s
    if machine.sm_bytes_per_s is not None:
        drawn = min(drawn, min(ctas, machine.sms) * machine.sm_bytes_per_s)
    memory_ns = width * (m * k + k * n + m * n) / drawn * 1e9
    ns = machine.fixed_ns + max(flop_ns, memory_ns)
    return Skinny(rows * columns, waves, quantization, flop_ns, memory_ns, ns)
