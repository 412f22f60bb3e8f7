"""Which kernels does one step of an arm launch, with how many FLOPs and bytes? Linears, adapters, optimizer.

Every input is read once and every output written once; the formulas are the cost model's. ``shape`` names the row of
``profiles/efficiencies.toml`` that turns work into time.
"""

from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from loraprof.analysis.costmodel.linear import dequantize_bytes, gemm_bytes
from loraprof.analysis.costmodel.optimizer import accumulate_bytes, adamw_bytes, clip_bytes, sgd_bytes
from loraprof.analysis.costmodel.variants import VARIANTS, Coefficients, Operator, detect_variant
from loraprof.estimate.architecture import Architecture, Linear, adapted, adapter_parameters
from loraprof.model.estimate import Settings
from loraprof.model.vocabulary import Phase

FOREACH_KERNELS = 30  # of a foreach optimizer step: eight passes, a few chunks each
CLIP_KERNELS = 12
SPLIT = ("A", "dS", "dA", "dB")  # fp32 products with a long sum and a narrow result run in two kernels, seen on an H100
DEQUANT_KERNELS = 3  # bitsandbytes: the scales' own dequantisation, their offset, the weights
EIGHT_BIT_BYTES = 10  # p and g of two bytes, m and v of one: p, m, v read and written, g read


class Work(Struct, frozen=True):
    """Kernels of one kind. ``key`` names the waterfall's bar, ``dtype`` the peak its FLOPs run against, ``piece`` the
    bytes of its largest tensor (what may stay in L2)."""

    phase: Phase
    role: str
    shape: str
    kernels: float
    flops: float
    bytes: float
    dtype: str
    key: str = ""
    piece: float = 0.0

    def times(self, factor: float) -> "Work":
        return replace(self, kernels=self.kernels * factor, flops=self.flops * factor, bytes=self.bytes * factor)


def width(settings: Settings) -> int:
    """Bytes per activation and per element that a GEMM reads."""
    return 4 if settings.dtype == "float32" and settings.autocast == "none" else 2


def parameter_width(settings: Settings) -> int:
    return 4 if settings.dtype == "float32" else 2


def compute_dtype(settings: Settings) -> str:
    """What the base GEMMs run in, as ``GpuSpec.peak`` names it."""
    if settings.autocast != "none":
        return settings.autocast
    return "float8_e4m3fn" if settings.dtype == "float8" else settings.dtype


def variant(settings: Settings) -> str | None:
    """The cost model's name of the adapters' implementation."""
    if settings.adapter_kernels == "fused" and not settings.dropout:  # fused adapters need p = 0
        return "VF"
    base = "bfloat16" if settings.dtype == "float8" else settings.dtype
    adapter = base if settings.adapter_dtype == "same" else "float32"
    if settings.autocast != "none" and base == adapter == "float32":  # fp32 weights, cast in every call
        return "V2" if settings.dropout else "V3b"
    return detect_variant(adapter, base, settings.autocast, settings.dropout)


def gemm_shape(settings: Settings, *sizes: int) -> str:
    """Sizes that are no multiple of 8 cannot use the fast tensor kernels."""
    if width(settings) == 4:
        return "gemm_fp32"
    if any(size % 8 for size in sizes):
        return "gemm_odd"
    return "gemm_fp8" if settings.dtype == "float8" else "gemm"


def linear_work(linear: Linear, settings: Settings, arm: str, tokens: float) -> Iterator[Work]:
    """One weight of one layer: forward and backward, without recomputation."""
    t, k, n, w = tokens * linear.share, linear.k, linear.n, width(settings)
    gemm = Work(
        "forward",
        "base.linear",
        gemm_shape(settings, k, n),
        1,
        2 * t * k * n,
        gemm_bytes(1, 1, 1, w) / 3 * (t * k + k * n + t * n),
        compute_dtype(settings),
        "base.linear",
        w * t * max(k, n),
    )
    found = [gemm, replace(gemm, phase="backward")]
    if settings.autocast != "none" and settings.dtype == "float32":
        casts = Work("forward", "base.linear", "elementwise", 2, 0, 6 * (k * n + t * k), "", "base.linear")
        found += [casts, replace(casts, phase="backward", kernels=1, bytes=6 * t * k)]
    if arm == "full":
        found.append(replace(gemm, phase="backward", key="wgrad"))
        if linear.bias:
            found.append(Work("backward", "base.linear", "elementwise", 1, 0, w * t * n, "", "wgrad"))
    if settings.quantized != "none":
        once = dequantize_bytes(k, n) / 2
        forward = Work("forward", "dequant", "dequant", DEQUANT_KERNELS, 0, once, "", "dequant")
        found += [forward, replace(forward, phase="backward")]
    if arm == "lora" and adapted(linear, settings.targets):
        found += adapter_work(linear, settings, t)
    return (one.times(linear.calls) for one in found)


def adapter_work(linear: Linear, settings: Settings, t: float) -> Iterator[Work]:
    """What the adapter adds to its frozen linear, operator by operator."""
    chosen = variant(settings)
    if chosen == "VF":
        yield from _fused(linear, settings, t)
        return
    if chosen is None:
        chosen = "V2" if settings.dropout else "V1"
    v = VARIANTS[chosen]
    both: tuple[tuple[Phase, list[Operator]], ...] = (("forward", v.forward()), ("backward", v.backward()))
    scale = 2 if width(settings) == 4 else 1
    for phase, operators in both:
        if "compiled" in (settings.kernels, settings.adapter_kernels):
            yield _compiled(linear, phase, v.width * scale, v.input_up, v.dropout, t)
            operators = [op for op in operators if op.gemm]
        for op in operators:
            yield _operator(op, linear, settings, t, phase, v.width * scale, scale)


def _operator(
    op: Operator, linear: Linear, settings: Settings, t: float, phase: Phase, element: int, scale: int
) -> Work:
    k, n, r = linear.k, linear.n, settings.rank
    moved = scale * _bytes(op.cost, t, k, n, r)
    if not op.gemm:
        wide = op.cost.tk * k + op.cost.tn * n  # the largest tensor: at most two thirds of what is moved
        return Work(phase, op.part.value, "elementwise", 1, 0, moved, "", "adapter", scale * t * wide / 2)
    side, wide = (n if op.cost.tn else k), element == 4
    shape, dtype = ("skinny_fp32", "float32") if wide else ("skinny", compute_dtype(settings))
    kernels = 2 if wide and op.name in SPLIT else 1
    return Work(phase, op.part.value, shape, kernels, 2 * t * side * r, moved, dtype, "adapter", element * t * side)


def _bytes(cost: Coefficients, t: float, k: int, n: int, r: int) -> float:
    return cost.tk * t * k + cost.tn * t * n + cost.kr * k * r + cost.nr * n * r + cost.tr * t * r


def _compiled(linear: Linear, phase: Phase, element: int, cast: bool, dropout: bool, t: float) -> Work:
    """Casts, scaling and additions in as few passes as a compiler needs."""
    tk, tn, base = t * linear.k, t * linear.n, max(2, min(element, 4) if element == 4 and not cast else 2)
    into = (base + element) * tk if cast or dropout else 0
    out = (2 * base + element) * tn
    back = (base + element) * tn + (2 * base + element) * tk
    moved = into + out if phase == "forward" else back
    return Work(phase, "adapter.elementwise", "elementwise", 2 if into or phase == "backward" else 1, 0, moved, "",
                "adapter", element * t * max(linear.k, linear.n))  # fmt: skip


def _fused(linear: Linear, settings: Settings, t: float) -> Iterator[Work]:
    """A reads x; everything else rides in GEMM prologues and epilogues: 2 T k forward, 2 T (k + n) backward."""
    k, n, r, w = linear.k, linear.n, settings.rank, width(settings)
    moved: tuple[tuple[Phase, int, float], ...] = (("forward", 2, w * t * k), ("backward", 4, w * t * (k + n)))
    for phase, kernels, size in moved:
        flops = 2 * t * r * (k + n) * (1 if phase == "forward" else 2)
        yield Work(phase, "adapter.down", "skinny", kernels, flops, size, compute_dtype(settings), "adapter", w * t * k)


def trainable(architecture: Architecture, settings: Settings, arm: str) -> int:
    """Parameters the arm's optimizer steps."""
    if arm == "full":
        return architecture.parameters
    return adapter_parameters(architecture, settings.rank, settings.targets) if arm == "lora" else 0


def trained_width(settings: Settings, arm: str) -> int:
    """Bytes of a trained parameter."""
    base = parameter_width(settings)
    return base if arm == "full" or settings.adapter_dtype == "same" else 4


def optimizer_work(architecture: Architecture, settings: Settings, arm: str) -> Iterator[Work]:
    """Clipping, the step, and the additions that accumulation costs from the second micro-batch on."""
    count, w = trainable(architecture, settings, arm), trained_width(settings, arm)
    if settings.parallel in ("fsdp", "zero3"):
        count //= settings.gpus
    if not count:
        return
    if settings.clip:
        yield Work("optimizer", "grad_clip", "optimizer", CLIP_KERNELS, 0, clip_bytes(w) * count, "", "grad_clip")
    moved, shape = adamw_bytes(w, fused=settings.optimizer == "adamw-fused"), "optimizer"
    if settings.optimizer == "sgd":
        moved = sgd_bytes(w)
    elif settings.optimizer == "adamw-8bit":
        moved, shape = EIGHT_BIT_BYTES, "optimizer_8bit"
    yield Work("optimizer", "optimizer", shape, FOREACH_KERNELS, 0, moved * count, "", "optimizer")
    if settings.accumulate > 1:
        added = (settings.accumulate - 1) * accumulate_bytes(w) * count
        yield Work("optimizer", "optimizer", "optimizer", settings.accumulate - 1, 0, added, "", "accumulate")
