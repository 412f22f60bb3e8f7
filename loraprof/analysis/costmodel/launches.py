"""How many kernels does one adapted linear launch, by role and phase, and how many does a step?

One row per operator of the variant's graph (see ``variants``) plus the frozen GEMMs. Under checkpointing the
forward rows are paid again in phase "recompute"; non-reentrant checkpointing may stop a little earlier.
"""

from msgspec import Struct

from loraprof.analysis.costmodel.variants import VARIANTS, Operator, Part

ROLES = ("base.linear", "adapter.down", "adapter.up", "adapter.elementwise")


class Launches(Struct, frozen=True):
    """Kernels of one role in one phase."""

    role: str
    phase: str
    gemms: int
    others: int

    @property
    def total(self) -> int:
        return self.gemms + self.others


def launch_table(
    variant: str, checkpointing: bool = False, input_grad: bool = True, bias: bool = False
) -> list[Launches]:
    """Rows of one layer: "frozen", "full" or a LoRA variant. Raises KeyError for another name.

    A trained bias adds one reduction to the full layer's backward. Split-K reductions are not counted.
    """
    base = [
        Launches("base.linear", "forward", 1, 0),
        Launches("base.linear", "backward", int(input_grad) + (variant == "full"), int(bias and variant == "full")),
    ]
    if variant in ("frozen", "full"):
        rows = base
    else:
        v = VARIANTS[variant]
        rows = base + _rows(v.forward(), "forward") + _rows(v.backward(input_grad), "backward")
    if checkpointing:
        recomputed = [Launches(r.role, "recompute", r.gemms, r.others) for r in rows if r.phase == "forward"]
        rows = rows + recomputed
    return rows


def _rows(operators: list[Operator], phase: str) -> list[Launches]:
    rows = []
    for part in Part:
        of_part = [op for op in operators if op.part is part]
        gemms = sum(op.gemm for op in of_part)
        rows.append(Launches(part.value, phase, gemms, len(of_part) - gemms))
    return rows


def gemm_counts(variant: str, checkpointing: bool = False, input_grad: bool = True) -> dict[tuple[str, str], int]:
    """``{(role, phase): GEMMs}`` of one adapted linear."""
    rows = launch_table(variant, checkpointing, input_grad)
    return {(row.role, row.phase): row.gemms for row in rows if row.gemms}


def extra_launches(variant: str, checkpointing: bool = False, input_grad: bool = True) -> int:
    """Kernels the adapter adds to its frozen linear per step."""
    rows = launch_table(variant, checkpointing, input_grad)
    return sum(row.total for row in rows if row.role != "base.linear")


def extra_forward_launches(variant: str) -> int:
    return len(VARIANTS[variant].forward())


def step_launches(variant: str, modules: int, checkpointing: bool = False) -> int:
    """Adapter launches per step with ``modules`` adapted layers whose inputs need gradients (an upper bound)."""
    return modules * extra_launches(variant, checkpointing)
