"""What helps devices that wait for each other."""

from loraprof.diagnosis.remedy import Remedy, words

KEEP_WEIGHTS = Remedy(
    "hardware",
    words(
        'DeepSpeed "zero_optimization": {"stage": 2}, or DDP, if the frozen model fits on one device; else '
        "fully_shard(block, reshard_after_forward=False) or backward_prefetch=BackwardPrefetch.BACKWARD_PRE, "
        "and more tokens per step"
    ),
)

WHOLE_BLOCKS = Remedy(
    "hardware",
    words(
        "wrap whole blocks as one FSDP unit (transformer_auto_wrap_policy), or replicate the adapters: "
        "FullyShardedDataParallel(ignored_states=lora_parameters) with DDP for them"
    ),
)

ORIGINAL_PARAMETERS = Remedy(
    "hardware",
    words("FullyShardedDataParallel(model, use_orig_params=True), or wrap the adapters apart from the base"),
)
FSDP2 = Remedy(
    "hardware",
    words("fully_shard(block): FSDP2 reduces what is trained alone; or wrap the adapters apart from the base"),
)

FREEZE_FIRST = Remedy(
    "hardware",
    words(
        "freeze first, wrap afterwards: DistributedDataParallel(get_peft_model(model, config), "
        "find_unused_parameters=False)"
    ),
)

MORE_MICRO_BATCHES = Remedy(
    "hardware",
    words("more micro-batches per step (gradient_accumulation_steps), or several adapters trained in one batch"),
)

MORE_BETWEEN_MESSAGES = Remedy(
    "hardware",
    lambda case, values: (
        ("" if values["apart"] else "loraprof report on all ranks' directory, which tells waiting from transfer; ")
        + (
            "gradient_accumulation_steps x 2, or DistributedDataParallel(model, bucket_cap_mb=100)"
            if values["gradients"]
            else "more tokens per micro-batch, so that there is more work per message"
        )
    ),
)
