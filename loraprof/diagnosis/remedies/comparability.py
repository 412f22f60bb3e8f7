"""What makes numbers mean what they seem to mean."""

from loraprof.diagnosis.remedy import Remedy, words

ONE_COMMAND = Remedy("same_training", words("loraprof compare, which keeps everything else equal"))

STATE_TOKENS = Remedy(
    "same_training",
    words("state tokens per optimizer step with every speed-up; gradient_accumulation_steps moves it"),
)

WARM_UP = Remedy(
    "same_training",
    lambda case, values: (
        (f"loraprof profile --skip {values['skip']}" if values["skip"] else "record after a few warm-up steps")
        + ": the first steps still allocate, compile or fill caches"
    ),
)
QUIET = Remedy(
    "same_training",
    lambda case, values: f"stop what else runs on this machine; loraprof profile --timed {values['timed']}",
)
LOADED = Remedy("same_training", words("record after a few warm-up steps: this one loads the code of its kernels"))

PACKING = Remedy(
    "data", words('SFTConfig(packing=True), or TrainingArguments(train_sampling_strategy="group_by_length")')
)

INPUT_GRADIENTS = Remedy(
    "other_training",
    words('model.enable_input_require_grads(), or gradient_checkpointing_kwargs={"use_reentrant": False}'),
)
FREEZE = Remedy(
    "other_training",
    words("freeze before the optimizer is built: get_peft_model(model, config) does; else base.requires_grad_(False)"),
)

NOTHING = Remedy(
    "other_training",
    words("nothing to fix in the adapters; more needs fewer trained layers, a smaller base or more tokens per step"),
)
