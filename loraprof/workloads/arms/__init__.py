"""The ways to train one workload: each arm is one function and one line here.

An arm takes the base model, the specification and K (``top:K``), sets what is trained, and returns the model.
"""

from loraprof.errors import UsageError
from loraprof.store.specs import did_you_mean
from loraprof.workloads.arms import lora, partial
from loraprof.workloads.arms.arm import Arm

ARMS = {
    arm.name: arm
    for arm in (
        Arm("full", partial.full, "every parameter trained, no adapters", "full fine-tuning"),
        Arm("frozen", partial.frozen, "nothing trained, gradients flow through: the bound", "the limit of any adapter"),
        Arm("lora", lora.lora, "adapters as the workload sets them", "LoRA, arXiv 2106.09685"),
    )
}


def resolve_arm(name: str) -> Arm:
    """The arm called ``name``, with its K. Raises UsageError for a typo, a missing or a needless K."""
    stem, colon, number = name.partition(":")
    arm = ARMS.get(stem)
    if arm is None:
        raise UsageError(f"no arm {name!r}", did_you_mean(stem, (a.label for a in ARMS.values())))
    if not arm.takes_k:
        if colon:
            raise UsageError(f"arm {stem} takes no number, got {name!r}")
        return arm
    if not number.isdecimal() or int(number) < 1:
        raise UsageError(f"arm {stem} needs a number of layers, got {name!r}", f"write {stem}:2")
    return arm.with_k(int(number))
