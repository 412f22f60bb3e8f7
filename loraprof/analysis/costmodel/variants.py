"""What does a LoRA adapter add to its frozen linear layer: bytes and launches, per implementation variant?

The graph is PEFT's ``Linear.forward``: base output, cast of the input to the adapter's dtype, dropout, A, B,
multiply by the scaling, add to the base output, cast back. Base weight and activations are bf16.

    extra bytes = tk T k + tn T n + kr k r + nr n r + tr T r

Derivation: sum over the graph's operators of every input read once and every output written once. The table's
per-operator form is ``FORWARD`` and ``BACKWARD``; the coefficients of a variant are the sum over its operators.
"""

from enum import Enum
from typing import Final

from msgspec import Struct
from msgspec.structs import fields


class Coefficients(Struct, frozen=True):
    """Bytes per T k, T n, k r, n r and T r."""

    tk: int = 0
    tn: int = 0
    kr: int = 0
    nr: int = 0
    tr: int = 0

    def __add__(self, other: "Coefficients") -> "Coefficients":
        return Coefficients(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def bytes(self, t: int, k: int, n: int, r: int) -> int:
        return self.tk * t * k + self.tn * t * n + self.kr * k * r + self.nr * n * r + self.tr * t * r

    @property
    def square(self) -> int:
        """Bytes per T d of a square layer, small terms left out."""
        return self.tk + self.tn


class Part(Enum):
    """Which role of the report an operator belongs to, and whether it is a GEMM."""

    DOWN = "adapter.down"
    UP = "adapter.up"
    ELEMENTWISE = "adapter.elementwise"


class Operator(Struct, frozen=True):
    """One kernel the adapter launches. ``through_input``: only when the layer's input needs a gradient."""

    name: str
    part: Part
    cost: Coefficients
    through_input: bool = False

    @property
    def gemm(self) -> bool:
        return self.part is not Part.ELEMENTWISE


class Variant(Struct, frozen=True):
    """How the adapter runs: its compute width in bytes and the casts around it."""

    id: str
    summary: str
    width: int  # bytes per element of the adapter's matrix products
    input_up: bool = False  # the input is cast to fp32 (and back where width is 2)
    weight_down: bool = False  # autocast casts fp32 A and B to bf16
    dropout: bool = False

    @property
    def input_width(self) -> int:
        """Bytes per element of what dropout sees."""
        return 4 if self.input_up else 2

    def forward(self) -> list[Operator]:
        w, elementwise = self.width, Part.ELEMENTWISE
        i = self.input_width
        ops = []
        if self.input_up:
            ops.append(Operator("cast x up", elementwise, Coefficients(tk=6)))
        if self.dropout:
            ops.append(Operator("dropout", elementwise, Coefficients(tk=2 * i + 1)))
        if self.input_up and w == 2:
            ops.append(Operator("cast x down", elementwise, Coefficients(tk=6)))
        if self.weight_down:
            ops.append(Operator("cast A", elementwise, Coefficients(kr=6)))
        ops.append(Operator("A", Part.DOWN, Coefficients(tk=w, kr=w, tr=w)))
        if self.weight_down:
            ops.append(Operator("cast B", elementwise, Coefficients(nr=6)))
        ops.append(Operator("B", Part.UP, Coefficients(tn=w, nr=w, tr=w)))
        ops.append(Operator("scale", elementwise, Coefficients(tn=2 * w)))
        ops.append(Operator("add", elementwise, Coefficients(tn=2 + 2 * w)))
        if w == 4:
            ops.append(Operator("cast y down", elementwise, Coefficients(tn=6)))
        return ops

    def backward(self, input_grad: bool = True) -> list[Operator]:
        """Without ``input_grad`` (the lowest adapted layer) nothing flows to the input."""
        w, elementwise = self.width, Part.ELEMENTWISE
        i = self.input_width
        ops = []
        if w == 4:
            ops.append(Operator("cast dy up", elementwise, Coefficients(tn=6)))
            ops.append(Operator("cast base dy down", elementwise, Coefficients(tn=6), True))
        ops.append(Operator("scale", elementwise, Coefficients(tn=2 * w)))
        ops.append(Operator("dB", Part.UP, Coefficients(tn=w, nr=w, tr=w)))
        ops.append(Operator("dS", Part.UP, Coefficients(tn=w, nr=w, tr=w)))
        ops.append(Operator("dA", Part.DOWN, Coefficients(tk=w, kr=w, tr=w)))
        ops.append(Operator("dx", Part.DOWN, Coefficients(tk=w, kr=w, tr=w), True))
        if self.weight_down:
            ops.append(Operator("cast dA up", elementwise, Coefficients(kr=6)))
            ops.append(Operator("cast dB up", elementwise, Coefficients(nr=6)))
        if self.input_up and w == 2:
            ops.append(Operator("cast dx up", elementwise, Coefficients(tk=6), True))
        if self.dropout:
            ops.append(Operator("dropout", elementwise, Coefficients(tk=2 * i + 1), True))
        if self.input_up:
            ops.append(Operator("cast dx down", elementwise, Coefficients(tk=6), True))
        ops.append(Operator("accumulate dx", elementwise, Coefficients(tk=6), True))
        return [op for op in ops if input_grad or not op.through_input]


VARIANTS: Final = {
    v.id: v
    for v in (
        Variant("V1", "bf16 adapters", 2),
        Variant("V2", "bf16 adapters, dropout", 2, dropout=True),
        Variant("V3", "fp32 adapters under bf16 autocast", 2, input_up=True, weight_down=True),
        Variant("V4", "fp32 adapters under bf16 autocast, dropout", 2, True, True, True),
        Variant("V5", "fp32 adapters without autocast", 4, input_up=True),
        Variant("V6", "fp32 adapters without autocast, dropout", 4, input_up=True, dropout=True),
        Variant("V3b", "V3 with PEFT's input cast suppressed", 2, weight_down=True),
    )
}

# An ideal kernel: A reads x, everything else rides in GEMM prologues and epilogues (small terms left out).
FUSED_FORWARD: Final = Coefficients(tk=2)
FUSED_BACKWARD: Final = Coefficients(tk=2, tn=2)


def total(operators: list[Operator]) -> Coefficients:
    return sum((op.cost for op in operators), Coefficients())


def coefficients(variant: str, input_grad: bool = True) -> tuple[Coefficients, Coefficients]:
    """Forward and backward coefficients of "V1" .. "V6", "V3b" or "VF". Raises KeyError for another name."""
    if variant == "VF":
        return FUSED_FORWARD, FUSED_BACKWARD if input_grad else Coefficients(tn=2)
    chosen = VARIANTS[variant]
    return total(chosen.forward()), total(chosen.backward(input_grad))


def full_size(variant: str, checkpointing: bool = False) -> tuple[int, int]:
    """``(c_k, c_n)``: bytes per T k and per T n over forward and backward; checkpointing runs forward twice."""
    forward, backward = coefficients(variant)
    times = 2 if checkpointing else 1
    return times * forward.tk + backward.tk, times * forward.tn + backward.tn


def detect_variant(
    adapter_dtype: str,
    base_dtype: str,
    autocast: str | None,
    dropout: float,
    input_cast_suppressed: bool = False,
) -> str | None:
    """The variant a layer runs as, ``None`` when it is none of them.

    ``autocast`` is the autocast dtype or ``None`` ("none" too). A layer whose adapter and base share one dtype
    runs V1 or V2, with bytes scaled by its width (fp32 everywhere moves twice the bytes of V1).
    """
    reduced = autocast not in (None, "none", "float32")
    half = ("bfloat16", "float16")
    if adapter_dtype == base_dtype and not (reduced and adapter_dtype == "float32"):
        return "V2" if dropout > 0 else "V1"
    if adapter_dtype != "float32" or base_dtype not in half:
        return None
    if not reduced:
        return None if input_cast_suppressed else "V6" if dropout > 0 else "V5"
    if input_cast_suppressed:
        return None if dropout > 0 else "V3b"
    return "V4" if dropout > 0 else "V3"
