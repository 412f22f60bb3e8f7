"""What makes numbers mean what they seem to mean."""

from loraprof.diagnosis.remedy import Remedy
from loraprof.diagnosis.stack import causal, one_label_a_row

ONE_COMMAND = Remedy(kind="same_training", text={"plain": "loraprof compare, which keeps everything else equal"})

STATE_TOKENS = Remedy(
    kind="same_training",
    text={
        "transformers": "state tokens per optimizer step with every speed-up; gradient_accumulation_steps moves it",
        "plain": "state tokens per optimizer step with every speed-up; accumulation moves it",
    },
)

WARM_UP = Remedy(
    kind="same_training",
    text={"plain": "loraprof profile --skip $skip $target: the first steps still allocate, compile or fill caches"},
)
LATER = Remedy(
    kind="same_training",
    text={"plain": "record after a few warm-up steps: the first steps still allocate, compile or fill caches"},
)
QUIET = Remedy(
    kind="same_training",
    text={"plain": "stop what else runs on this machine; loraprof profile --timed $timed $target"},
)
LOADED = Remedy(
    kind="same_training", text={"plain": "record after a few warm-up steps: this one loads the code of its kernels"}
)

PACKING = Remedy(
    kind="data",
    arm="packing",
    offered=causal,
    text={
        "axolotl": "sample_packing: true",
        "llamafactory": "packing: true",
        "swift": "--packing true",
        "trl": "SFTConfig(packing=True)",
        "torchtune": "dataset.packed: True",
        "transformers": "sequences packed into one row: DataCollatorWithFlattening(); or batches of like length: "
        'TrainingArguments(train_sampling_strategy="group_by_length") with a collator that pads to the longest: '
        'DataCollatorWithPadding(tokenizer, padding="longest")',
        "plain": 'batches of like length, each padded to its longest: tokenizer(..., padding="longest"); or sequences '
        "packed into one row; for the same training, a batch in parts of like length, the loss of each weighted by its "
        "part of the batch",
    },
)
TO_LONGEST = Remedy(
    kind="data",
    arm="pad-to-longest",
    offered=lambda case: not one_label_a_row(case),
    text={
        "transformers": 'a collator that pads to the longest: DataCollatorWithPadding(tokenizer, padding="longest")',
        "plain": "pad each batch to its longest sequence, not to a fixed length: in the collate function, or "
        'tokenizer(..., padding="longest")',
    },
    saved=lambda case, values: values["longest"],
)

BUCKETS = Remedy(
    kind="data",
    arm="bucketing",
    text={
        "transformers": 'TrainingArguments(train_sampling_strategy="group_by_length") with a collator that pads to the '
        "longest",
        "plain": "a sampler that sorts by length within every few batches, and a collator that pads to the longest",
    },
    saved=lambda case, values: values["bucketed"],
)

INPUT_GRADIENTS = Remedy(
    kind="other_training",
    text={
        "transformers-model": "model.enable_input_require_grads(), or "
        'gradient_checkpointing_kwargs={"use_reentrant": False}',
        "plain": "torch.utils.checkpoint.checkpoint(..., use_reentrant=False), or inputs that require a gradient",
    },
)
FREEZE = Remedy(
    kind="other_training",
    text={
        "peft": "freeze before the optimizer is built: get_peft_model(model, config) does; else "
        "base.requires_grad_(False)",
        "plain": "freeze before the optimizer is built: base.requires_grad_(False)",
    },
)

NOTHING = Remedy(
    kind="other_training",
    text={
        "plain": "nothing to fix in the adapters; more needs fewer trained layers, a smaller base or more tokens per "
        "step"
    },
)
