"""What helps against the cost of adapters."""

from loraprof.diagnosis.case import Case
from loraprof.diagnosis.remedy import Remedy, Values, check, compiling, without_dropout, words

FUSED = Remedy(
    "same_training",
    lambda case, values: (
        f"fuse the adapter: {compiling(case, after=', or ')}Unsloth, axolotl (lora_mlp_kernel: true, "
        f"lora_qkv_kernel: true, lora_o_kernel: true){without_dropout(case, '; ')}"
    ),
    arm="lora-fused",
)


def _half(case: Case, values: Values) -> str:
    device = "cuda" if case.analysis.on_gpu else "cpu"
    return (
        "get_peft_model(model, config, autocast_adapter_dtype=False); or run the step under "
        f'torch.autocast("{device}", torch.{values["base"]})'
        + ('; or allow TF32: torch.set_float32_matmul_precision("high")' if values["plain"] else "")
        + check(case, "lora-bf16")
    )


HALF_ADAPTERS = Remedy("numerics", _half, arm="lora-bf16")

ONE_CAST = Remedy(
    "same_training",
    words(
        "from peft.helpers import disable_input_dtype_casting; "
        "run the step inside `with disable_input_dtype_casting(model):`"
    ),
    arm="lora-bf16",
)

NO_DROPOUT = Remedy(
    "other_training",
    lambda case, values: "LoraConfig(lora_dropout=0.0)" + check(case, "lora-nodropout"),
    arm="lora-nodropout",
)

SHARED_INPUT = Remedy(
    "other_training",
    lambda case, values: (
        f"fuse {' and '.join('+'.join(g) for g in values['groups'])} into one linear with one adapter, so that A reads "
        f"the input once" + (f"; raising r to {values['rank']} costs almost no time" if values["free"] else "")
    ),
)
KEEP_RANK = Remedy(
    "other_training",
    lambda case, values: (
        "do not lower r for speed"
        + (f": LoraConfig(r={values['rank']}) costs almost the same time" if values["free"] else "")
    ),
)

FEWER_TARGETS = Remedy(
    "other_training",
    lambda case, values: (
        f"LoraConfig(target_modules={values['keep']!r}), or only the upper layers (layers_to_transform=[...]); "
        "check the quality afterwards" + (check(case, "lora-qv") if len(values["keep"]) == 2 else "")
    ),
    arm="lora-qv",
)

PLAIN_LORA = Remedy("other_training", words("LoraConfig(use_dora=False)"))
ON_ACTIVATIONS = Remedy("same_training", words("apply the adapter to activations: B(A(x)), not W + BA"))

NO_READS = Remedy(
    "same_training",
    lambda case, values: (
        f"remove .item(), nonzero() and tensors built from Python values in the forward of {values['module']}; "
        "keep index tensors as buffers"
    ),
)

SAME_DEVICE = Remedy("same_training", lambda case, values: f'model.to("{values["device"]}") after get_peft_model')

FEWER_GRADIENTS = Remedy(
    "same_training", lambda case, values: f"{compiling(case, after=', or ')}one adapter for fused q, k and v"
)

UNFUSED = Remedy(
    "same_training",
    words(
        "switch the fused kernel off (axolotl: lora_mlp_kernel: false, lora_qkv_kernel: false), or clear Triton's "
        "cache (~/.triton/cache) so that it is tuned again"
    ),
)

OTHER_LEVER = Remedy(
    "other_training",
    lambda case, values: (
        "for speed: full fine-tuning if its optimizer fits; or LoRA on the upper layers only "
        "(layers_to_transform=[...]); or a larger batch" + check(case, "full")
    ),
    arm="full",
)
