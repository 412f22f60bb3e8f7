"""What helps against the cost of the frozen model, its formats and its head."""

from loraprof.diagnosis.remedy import LARGER_BATCH, Remedy, compiling, words

FEWER_LAYERS = Remedy(
    "other_training",
    lambda case, values: (
        f"expect at most {values['bound']}; more needs fewer trained layers: LoraConfig(layers_to_transform=[...])"
    ),
)

NO_CHECKPOINTING = Remedy(
    "same_training",
    lambda case, values: (
        f"gradient_checkpointing=False{'' if values['needless'] else ' if memory allows'}"
        + ('; else gradient_checkpointing_kwargs={"use_reentrant": False}' if values["reentrant"] else "")
    ),
)

FAST_ATTENTION = Remedy(
    "same_training", words("attention dropout 0 and no custom mask, so that SDPA can use its fused kernel")
)
NO_MASK = Remedy(
    "same_training",
    words(
        "pass no attention mask where it masks nothing: attn_mask=None, is_causal=True for a causal one "
        "(batches without padding: leave attention_mask out)"
    ),
)
VARIABLE_LENGTH = Remedy(
    "data",
    words(
        "pack sequences instead of padding them (SFTConfig(packing=True, padding_free=True) with "
        'attn_implementation="flash_attention_2"), or flex_attention with a block mask'
    ),
)
NO_ATTENTION_DROPOUT = Remedy(
    "other_training", words("attention dropout 0 (config.attention_dropout = 0.0; dropout_p=0.0)")
)
CONTIGUOUS_HEADS = Remedy(
    "same_training", words("query, key and value contiguous in their last dimension (transpose after, not before)")
)
HALF_ATTENTION = Remedy("numerics", words("attention in bf16: torch.autocast, or cast query, key and value"))
PADDED_HEADS = Remedy(
    "same_training",
    words("pad the head size to a multiple of 8 that query, key and value share (F.pad, scale=head_size ** -0.5)"),
)
SDPA = Remedy("same_training", words('from_pretrained(..., attn_implementation="sdpa")'))
LIGER = Remedy(
    "same_training",
    words("fused norms and cross-entropy: Liger-Kernel (TrainingArguments(use_liger_kernel=True))"),
)

HALF_BASE = Remedy(
    "numerics",
    words(
        "load the base in bf16 if it fits: from_pretrained(..., dtype=torch.bfloat16) without a "
        "quantization_config; else more tokens per micro-batch"
    ),
)

HALF_PARTS = Remedy(
    "numerics",
    words("after prepare_model_for_kbit_training: for norms, embedding and head, module.to(torch.bfloat16)"),
)

FUSED_LOSS = Remedy(
    "same_training",
    words("TrainingArguments(use_liger_kernel=True), or compute logits of the trained positions only"),
)

NEW_TOKENS = Remedy(
    "other_training",
    words("LoraConfig(trainable_token_indices=[...]) for new tokens only, or drop modules_to_save"),
)

FP16 = Remedy("numerics", words("from_pretrained(..., dtype=torch.float16) and TrainingArguments(fp16=True)"))

GROUPED_EXPERTS = Remedy(
    "same_training",
    words(
        'grouped experts (from_pretrained(..., experts_implementation="grouped_mm"), ScatterMoE); '
        "leave experts out of target_modules"
    ),
)

LARGER_PRODUCTS = Remedy(
    "same_training",
    lambda case, values: (
        f"{LARGER_BATCH} at equal samples per step{'' if values['convolved'] else '; pad_to_multiple_of=8'}"
        + compiling(case, "; ")
    ),
)
