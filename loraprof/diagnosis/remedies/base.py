"""What helps against the cost of the frozen model, its formats and its head."""

from loraprof.diagnosis.case import Case
from loraprof.diagnosis.remedies.adapter import COMPILED, not_compiled
from loraprof.diagnosis.remedy import Remedy, Values, unknown
from loraprof.diagnosis.worth import Assumed

FEWER_LAYERS = Remedy(
    kind="other_training",
    text={
        "peft": "expect at most $bound; more needs fewer trained layers: LoraConfig(layers_to_transform=[...])",
        "plain": "expect at most $bound; more needs fewer trained layers",
    },
)

NO_CHECKPOINTING = Remedy(
    kind="same_training",
    arm="no-checkpointing",
    text={
        "transformers": "TrainingArguments(gradient_checkpointing=False)$memory",
        "kohya": "no --gradient_checkpointing$memory",
        "torchtune": "enable_activation_checkpointing: False$memory",
        "transformers-model": "no model.gradient_checkpointing_enable() (gradient_checkpointing=False)$memory",
        "plain": "no torch.utils.checkpoint (gradient_checkpointing=False)$memory",
    },
)
NON_REENTRANT = Remedy(
    kind="same_training",
    arm="non-reentrant",
    text={
        "transformers-model": 'gradient_checkpointing_kwargs={"use_reentrant": False}',
        "plain": "torch.utils.checkpoint.checkpoint(..., use_reentrant=False)",
    },
    fits=lambda case, values: bool(values["reentrant"]),
    saved=unknown,
)

FAST_ATTENTION = Remedy(
    kind="same_training",
    arm="no-mask",
    text={"plain": "attention dropout 0 and no custom mask, so that SDPA can use its fused kernel"},
)
SDPA = Remedy(
    kind="same_training",
    arm="sdpa",
    text={
        "transformers-model": 'from_pretrained(..., attn_implementation="sdpa")',
        "plain": "torch.nn.functional.scaled_dot_product_attention instead of products and a softmax",
    },
)
NO_MASK = Remedy(
    kind="same_training",
    text={
        "transformers-model": "leave attention_mask out of batches without padding: the causal kernel is chosen then",
        "plain": "no attn_mask where it masks nothing; is_causal=True instead of a causal one",
    },
    fits=lambda case, values: "NO_MASK" in values["fixes"],
)
VARIABLE_LENGTH = Remedy(
    kind="data",
    text={
        "trl": 'SFTConfig(packing=True, padding_free=True) with attn_implementation="flash_attention_2"',
        "plain": "pack sequences instead of padding them, or flex_attention with a block mask",
    },
    fits=lambda case, values: "VARIABLE_LENGTH" in values["fixes"],
)
NO_ATTENTION_DROPOUT = Remedy(
    kind="other_training",
    text={
        "transformers-causal-lm": "config.attention_dropout = 0.0 (attn_pdrop in GPT-2)",
        "transformers-model": "no attention dropout in the config: attention_probs_dropout_prob (BERT and its kin), "
        "dropout_rate (T5) or attention_dropout = 0.0",
        "plain": "dropout_p=0.0 in attention",
    },
    fits=lambda case, values: "NO_ATTENTION_DROPOUT" in values["fixes"],
)
CONTIGUOUS_HEADS = Remedy(
    kind="same_training",
    text={"plain": "query, key and value contiguous in their last dimension (.contiguous() where they are made)"},
    fits=lambda case, values: "CONTIGUOUS_HEADS" in values["fixes"],
)
HALF_ATTENTION = Remedy(
    kind="numerics",
    text={
        "transformers": "TrainingArguments(bf16=True)",
        "plain": "attention in bf16: torch.autocast, or query, key and value cast before it",
    },
    fits=lambda case, values: "HALF_ATTENTION" in values["fixes"],
)
PADDED_HEADS = Remedy(
    kind="same_training",
    text={"plain": "F.pad query, key and value to one head size that 8 divides, with scale=head_size ** -0.5"},
    fits=lambda case, values: "PADDED_HEADS" in values["fixes"],
)
LIGER = Remedy(
    kind="same_training",
    text={
        "transformers-gated": "fused norms and cross-entropy: Liger-Kernel (TrainingArguments(use_liger_kernel=True))",
        "transformers-gated-lm": "fused norms and cross-entropy: liger_kernel.transformers.AutoLigerKernelForCausalLM",
        "plain": "fused norms and cross-entropy: torch.compile, or Liger-Kernel's layers",
    },
    fits=lambda case, values: bool(values["fusable"]),
    saved=unknown,
)

HALF_BASE = Remedy(
    kind="numerics",
    text={
        "transformers-model": "load the base in bf16 if it fits: from_pretrained(..., dtype=torch.bfloat16) without a "
        "quantization_config",
        "plain": "load the base in bf16 if it fits",
    },
)
MORE_TOKENS = Remedy(
    kind="other_training",
    text={
        "transformers": "more tokens per micro-batch (per_device_train_batch_size)",
        "plain": "more tokens per micro-batch",
    },
    saved=unknown,
)

HALF_PARTS = Remedy(
    kind="numerics",
    text={
        "peft": "after prepare_model_for_kbit_training: for norms, embedding and head, module.to(torch.bfloat16)",
        "plain": "for norms, embedding and head, module.to(torch.bfloat16)",
    },
)

FUSED_LOSS = Remedy(
    kind="same_training",
    arm="chunked-loss",
    text={
        "transformers": "TrainingArguments(use_liger_kernel=True), or head and loss in chunks of tokens",
        "plain": "a fused cross-entropy (Liger-Kernel), or head and loss in chunks of tokens",
    },
    fits=lambda case, values: not values["skipped"],
)
LABELLED_ONLY = Remedy(
    kind="same_training",
    arm="chunked-loss",
    text={"plain": "compute logits of the labelled positions only, and their loss in chunks of tokens"},
    fits=lambda case, values: bool(values["skipped"]),
)

NEW_TOKENS = Remedy(
    kind="other_training",
    text={
        "peft": "LoraConfig(trainable_token_indices=[...]) for new tokens only, or drop modules_to_save",
        "plain": "requires_grad_(False) on embedding and head",
    },
)

FP16 = Remedy(
    kind="numerics",
    text={
        "transformers": "from_pretrained(..., dtype=torch.float16) and TrainingArguments(fp16=True)",
        "plain": 'torch.autocast("cuda", torch.float16) with torch.amp.GradScaler',
    },
)

CACHED = Remedy(
    kind="data",
    arm="cached-outputs",
    text={
        "trl": "precompute_ref_log_probs=True for a reference model; else compute the outputs of $network once and "
        "cache them",
        "kohya": "--cache_latents --cache_text_encoder_outputs",
        "plain": "compute the outputs of $network once and cache them: it is frozen, the same samples give the same "
        "outputs",
    },
)

MERGED = Remedy(
    kind="same_training",
    text={
        "peft": "merge the adapters for the rollout: model.merge_adapter() before it, model.unmerge_adapter() after it",
        "plain": "add B A to the weights for the rollout, and take it off after it",
    },
)
SAMPLER = Remedy(
    kind="same_training",
    text={"plain": "a sampling engine of its own that takes adapters: send it A and B alone, once per rollout"},
)

GROUPED_EXPERTS = Remedy(
    kind="same_training",
    text={
        "transformers-model": 'grouped experts: from_pretrained(..., experts_implementation="grouped_mm"), ScatterMoE',
        "plain": "grouped experts: torch._grouped_mm, ScatterMoE",
    },
    assumed=Assumed(
        0.1, 0.4, 0.8, "QwenLM/Qwen3#736 and unslothai/unsloth#2582: 5x to 12x of the experts' time, claimed"
    ),
)
NO_EXPERTS = Remedy(kind="other_training", text={"peft": "leave experts out of target_modules"}, saved=unknown)


def _several(case: Case, values: Values) -> bool:
    return case.micro_batches > 1


FEWER_MICRO_BATCHES = Remedy(
    kind="same_training",
    text={
        "transformers": "per_device_train_batch_size x 2 and gradient_accumulation_steps / 2",
        "plain": "micro-batches twice as large and half as many",
    },
    fits=_several,
)
LARGER_BATCH = Remedy(
    kind="other_training",
    text={
        "transformers": "a micro-batch twice as large: per_device_train_batch_size x 2 (time for the same tokens)",
        "plain": "a micro-batch twice as large (time for the same tokens)",
    },
    fits=lambda case, values: not _several(case, values),
)
MULTIPLES = Remedy(
    kind="data",
    text={
        "transformers-model": "pad lengths to a multiple of 8 (pad_to_multiple_of=8)",
        "plain": "pad lengths to a multiple of 8",
    },
    fits=lambda case, values: bool(values["odd"]),
    saved=unknown,
)
COMPILED_PRODUCTS = Remedy(kind="same_training", text=COMPILED, fits=not_compiled, saved=unknown)

KNOWN_REGRESSION = Assumed(0.5, 0.8, 0.95, "profiles/regressions.toml: reported two to twenty times slower and more")

MENDED_VERSION = Remedy(
    kind="same_training",
    text={"plain": "$mended"},
    fits=lambda case, values: bool(values["mended"]),
)
SAME_WORK_OTHERWISE = Remedy(
    kind="same_training",
    text={"plain": "$patch"},
    fits=lambda case, values: bool(values["patch"]),
)
LOOK_AT_OP = Remedy(
    kind="same_training",
    text={
        "plain": "$op in $module runs a slow kernel: another version of torch, channels_last, or the same work as a "
        "matrix product (a convolution whose stride is its kernel is a linear)"
    },
    fits=lambda case, values: not values["mended"],
)
