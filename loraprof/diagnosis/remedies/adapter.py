"""What helps against the cost of adapters."""

from typing import Final

from loraprof.diagnosis.case import Case
from loraprof.diagnosis.remedy import Remedy, Values, unknown
from loraprof.diagnosis.stack import LORA, Stack
from loraprof.diagnosis.worth import Worth

COMPILED: Final[dict[Stack, str]] = {
    "transformers": "TrainingArguments(torch_compile=True)",
    "kohya": "--torch_compile",
    "torchtune": "compile: True in the recipe's config",
    "peft": "torch.compile(get_peft_model(model, config))",
    "plain": "torch.compile(model)",
}


def not_compiled(case: Case, values: Values) -> bool:
    return not case.compiled


def has_dropout(case: Case, values: Values) -> bool:
    return any(site.dropout for site in case.sites)


def _compiled(case: Case, values: Values) -> Worth | None:
    """Not known on a CPU, where eager kernels are vectorised too: 0.85x to 1.25x was measured."""
    pointwise: Worth | None = values["pointwise"]
    return pointwise.at_most if pointwise and case.analysis.on_gpu else None


COMPILE = Remedy(
    kind="same_training",
    arm="compile-blocks",
    text=COMPILED,
    fits=not_compiled,
    saved=_compiled,
)
FUSED = Remedy(
    kind="same_training",
    text={
        "axolotl": "lora_mlp_kernel: true, lora_qkv_kernel: true, lora_o_kernel: true (needs lora_dropout: 0)",
        "transformers-gated-lm": "a fused LoRA: Unsloth's FastLanguageModel.get_peft_model, or axolotl's "
        "lora_mlp_kernel, lora_qkv_kernel and lora_o_kernel",
        "plain": "one autograd function per layer for base and adapter: torch.addmm(base, x @ A.T, B.T, alpha=scale) "
        "adds in the product, and so does its backward",
    },
    arm="lora-fused",
    fits=lambda case, values: any(s.kind in (*LORA, "handwritten") for s in case.sites),
    offered=lambda case: any(not s.dropout and s.kind in ("lora", "handwritten") for s in case.sites),
)
NO_DROPOUT = Remedy(
    kind="other_training",
    text={
        "kohya": "network_dropout = 0",
        "torchtune": "lora_dropout: 0.0 in the recipe's config",
        "peft": "LoraConfig(lora_dropout=0.0)",
        "plain": "no dropout before A",
    },
    arm="lora-nodropout",
    fits=has_dropout,
)
NO_DROPOUT_EITHER = Remedy(
    kind=NO_DROPOUT.kind, text=NO_DROPOUT.text, arm=NO_DROPOUT.arm, fits=has_dropout, saved=unknown
)

HALF_ADAPTERS = Remedy(
    kind="numerics",
    text={
        "kohya": "--full_bf16",
        "torchtune": "dtype: bf16 in the recipe's config",
        "peft": "get_peft_model(model, config, autocast_adapter_dtype=False)",
        "plain": "A and B in the base's dtype: A.to(torch.$base), B.to(torch.$base)",
    },
    arm="lora-bf16",
)
AUTOCAST = Remedy(
    kind="numerics",
    arm="autocast",
    text={
        "transformers": "TrainingArguments($flag=True)",
        "lightning": 'Trainer(precision="$precision")',
        "plain": 'run the step under torch.autocast("$device", torch.$base)',
    },
    saved=lambda case, values: values["autocast"],
)
TENSOR_FLOAT = Remedy(
    kind="numerics",
    arm="tf32",
    text={
        "transformers": "TrainingArguments(tf32=True)",
        "plain": 'torch.set_float32_matmul_precision("high")',
    },
    fits=lambda case, values: bool(values["plain"]),
    saved=unknown,
)

ONE_CAST = Remedy(
    kind="same_training",
    text={
        "peft": "from peft.helpers import disable_input_dtype_casting; "
        "run the step inside `with disable_input_dtype_casting(model):`",
        "plain": "leave the input in the dtype that autocast computes in: no .float() before A",
    },
)

SHARED_A = Remedy(
    kind="same_training",
    arm="shared-a",
    text={"plain": "one product for the A of $groups, which reads the input once: torch.cat of the A, then split"},
    saved=lambda case, values: values["shared"],
)
SHARED_INPUT = Remedy(
    kind="other_training",
    text={"plain": "fuse $groups into one linear with one adapter, so that A reads the input once$free"},
)
KEEP_RANK = Remedy(
    kind="other_training",
    text={"plain": "do not lower r for speed$free"},
    saved=unknown,
)

FEWER_TARGETS = Remedy(
    kind="other_training",
    text={
        "torchtune": "lora_attn_modules: $keep, apply_lora_to_mlp: False; check the quality afterwards",
        "peft": "LoraConfig(target_modules=$keep), or only the upper layers (layers_to_transform=[...]); check the "
        "quality afterwards",
        "plain": "adapt $keep only, or only the upper layers; check the quality afterwards",
    },
    arm="lora-qv",
)

PLAIN_LORA = Remedy(
    kind="other_training",
    text={"peft": "LoraConfig(use_dora=False)", "plain": "a LoRA without the norm of W + BA"},
)
ON_ACTIVATIONS = Remedy(kind="same_training", text={"plain": "apply the adapter to activations: B(A(x)), not W + BA"})

NO_READS = Remedy(
    kind="same_training",
    text={
        "plain": "remove .item(), nonzero() and tensors built from Python values in the forward of $module; keep index "
        "tensors as buffers"
    },
)

SAME_DEVICE = Remedy(
    kind="same_training",
    text={
        "peft": 'model.to("$device") after get_peft_model',
        "plain": 'model.to("$device") after the adapters are made',
    },
)

COMPILED_GRADIENTS = Remedy(kind="same_training", text=COMPILED, fits=not_compiled, saved=unknown)
MERGED_GRADIENTS = Remedy(kind="other_training", text={"plain": "one adapter for fused q, k and v"}, saved=unknown)

UNFUSED = Remedy(
    kind="same_training",
    text={
        "axolotl": "lora_mlp_kernel: false, lora_qkv_kernel: false, or clear Triton's cache (~/.triton/cache)",
        "plain": "switch the fused kernel off, or clear Triton's cache (~/.triton/cache) so that it is tuned again",
    },
)

FULL = Remedy(
    kind="other_training",
    text={"plain": "for speed: full fine-tuning if its optimizer fits"},
    arm="full",
)
UPPER_LAYERS = Remedy(
    kind="other_training",
    text={
        "peft": "LoraConfig(layers_to_transform=[...]): adapt the upper layers only",
        "plain": "adapt the upper layers only",
    },
    saved=unknown,
)
