"""The ways to train one workload: each arm is one function and one line here.

An arm takes the base model, the specification and K (``top:K``), sets what is trained, and returns the model.
"""

from loraprof.errors import UsageError
from loraprof.store.specs import did_you_mean
from loraprof.workloads.arms import lora, lowrank, paca, partial
from loraprof.workloads.arms.arm import Arm

ARMS = {
    arm.name: arm
    for arm in (
        Arm("full", partial.full, "every parameter trained, no adapters", "full fine-tuning"),
        Arm(
            "frozen",
            partial.frozen,
            "nothing trained, gradients flow to the embedding: what no adapter can beat",
            "the bound of every adapter method",
        ),
        Arm("lora", lora.lora, "adapters as the workload sets them", "LoRA, arXiv 2106.09685"),
        Arm(
            "lora-bf16",
            lora.lora_bf16,
            "adapters in the base's dtype, no casts",
            "LoRA with PEFT's autocast_adapter_dtype=False",
        ),
        Arm("lora-nodropout", lora.lora_nodropout, "adapters without dropout", "LoRA, arXiv 2106.09685"),
        Arm("lora-qv", lora.lora_qv, "adapters on query and value only", "LoRA's own choice, arXiv 2106.09685"),
        Arm(
            "lora-top",
            lora.lora_top,
            "adapters on the upper K layers, no backward below",
            "AdapterDrop, arXiv 2010.11918",
            takes_k=True,
        ),
        Arm(
            "top",
            partial.top,
            "the upper K layers trained whole, no backward below",
            "layer freezing, arXiv 1911.03090",
            takes_k=True,
        ),
        Arm("bitfit", partial.bitfit, "biases only", "BitFit, arXiv 2106.10199"),
        Arm("dora", lora.dora, "adapters with a trained magnitude per output", "DoRA, arXiv 2402.09353"),
        Arm("paca", paca.paca, "random input columns of each weight, no adapters", "PaCA, arXiv 2503.01905"),
        Arm(
            "lora-fused",
            lowrank.lora_fused,
            "one autograd function per layer, least memory traffic",
            "hand-derived LoRA backward, github.com/unslothai/unsloth",
        ),
        Arm(
            "lora-merged",
            lowrank.lora_merged,
            "W + sBA forward, low-rank backward",
            "RunLoRA, arXiv 2312.03415",
        ),
        Arm(
            "lora-compile",
            lora.lora_compile,
            "torch.compile of the adapted model",
            "LoRA, arXiv 2106.09685, compiled",
        ),
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
