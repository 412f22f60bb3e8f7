"""What helps devices that wait for each other."""

from loraprof.diagnosis.remedy import Remedy, unknown
from loraprof.diagnosis.worth import Assumed

KEEP_WEIGHTS = Remedy(
    kind="hardware",
    text={
        "plain": 'DeepSpeed "zero_optimization": {"stage": 2}, or DDP, if the frozen model fits on one device; else '
        "fully_shard(block, reshard_after_forward=False) or backward_prefetch=BackwardPrefetch.BACKWARD_PRE, "
        "and more tokens per step"
    },
)

WHOLE_BLOCKS = Remedy(
    kind="hardware",
    text={
        "plain": "wrap whole blocks as one FSDP unit (transformer_auto_wrap_policy), or replicate the adapters: "
        "FullyShardedDataParallel(ignored_states=lora_parameters) with DDP for them"
    },
    assumed=Assumed(
        0.2, 0.7, 1.0, "meta-pytorch/torchtune#1517 and #855: 12 % of a step, and 40 % where sharded one by one"
    ),
)

ORIGINAL_PARAMETERS = Remedy(
    kind="hardware",
    text={"plain": "FullyShardedDataParallel(model, use_orig_params=True), or wrap the adapters apart from the base"},
)
FSDP2 = Remedy(
    kind="hardware",
    text={"plain": "fully_shard(block): FSDP2 reduces what is trained alone; or wrap the adapters apart from the base"},
)

FREEZE_FIRST = Remedy(
    kind="hardware",
    text={
        "peft": "freeze first, wrap afterwards: DistributedDataParallel(get_peft_model(model, config), "
        "find_unused_parameters=False)",
        "plain": "freeze first, wrap afterwards: DistributedDataParallel(model, find_unused_parameters=False)",
    },
)

MORE_MICRO_BATCHES = Remedy(
    kind="same_training",
    text={
        "transformers": "twice as many micro-batches, half as large: gradient_accumulation_steps x 2, "
        "per_device_train_batch_size / 2",
        "plain": "twice as many micro-batches per step, half as large",
    },
)
SEVERAL_ADAPTERS = Remedy(kind="other_training", text={"plain": "several adapters trained in one batch"}, saved=unknown)

ALL_RANKS = Remedy(
    kind="same_training",
    text={"plain": "loraprof report on all ranks' directory, which tells waiting from transfer"},
    fits=lambda case, values: not values["apart"],
    saved=unknown,
)
FEWER_REDUCTIONS = Remedy(
    kind="other_training",
    text={
        "transformers": "gradient_accumulation_steps x 2",
        "plain": "twice as many micro-batches per step, and no reduction before the last (no_sync)",
    },
    fits=lambda case, values: bool(values["gradients"]),
)
LARGER_BUCKETS = Remedy(
    kind="same_training",
    text={"plain": "DistributedDataParallel(model, bucket_cap_mb=100)"},
    fits=lambda case, values: bool(values["gradients"]),
    saved=unknown,
)
MORE_PER_MESSAGE = Remedy(
    kind="other_training",
    text={"plain": "more tokens per micro-batch, so that there is more work per message"},
    fits=lambda case, values: not values["gradients"],
)
REPLICATED_ADAPTERS = Remedy(
    kind="same_training",
    text={
        "plain": "replicate A and B as plain tensors beside the sharded weights: fully_shard(block, "
        "ignored_params=lora_parameters), no tensor-parallel plan for them; reduce their gradients with DDP"
    },
)
COMPILED_DISPATCH = Remedy(
    kind="same_training",
    text={"plain": "torch.compile(model): what DTensor does in Python is then done once, at compile time"},
    fits=lambda case, values: not case.compiled,
    saved=unknown,
)
