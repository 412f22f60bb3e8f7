"""What helps a device that waits for its host, and a step that compiles."""

from loraprof.diagnosis.remedies.adapter import COMPILED, NO_DROPOUT_EITHER, not_compiled
from loraprof.diagnosis.remedies.base import FEWER_MICRO_BATCHES, LARGER_BATCH
from loraprof.diagnosis.remedy import Remedy, unknown
from loraprof.diagnosis.worth import Assumed

TWICE = 2  # tokens per launch of a micro-batch twice as large

HALF_THE_LAUNCHES = Assumed(
    0.15, 0.5, 0.9, "launches per token halve; how much of the waiting that ends is not replayed on this input"
)

FEWER_LAUNCHES = Remedy(
    kind="same_training",
    arm="compile-blocks",
    text=COMPILED,
    fits=not_compiled,
    saved=lambda case, values: values["merged"],
)
FEWER_ADAPTERS = Remedy(
    kind="other_training",
    text={"peft": "fewer target_modules", "plain": "adapt fewer layers"},
    fits=lambda case, values: bool(case.sites),
    saved=unknown,
)
LESS_PER_TOKEN = (FEWER_LAUNCHES, FEWER_MICRO_BATCHES, LARGER_BATCH, FEWER_ADAPTERS, NO_DROPOUT_EITHER)

LESS_PYTHON = Remedy(
    kind="same_training",
    text={
        "plain": "look at what runs before $place: callbacks, hooks, logging, .item(); py-spy record -o profile.svg -- "
        "$python names the lines"
    },
    assumed=Assumed(0.2, 0.6, 1.0, "unslothai/unsloth#10806: 180 of 850 ms of a step were needless Python, and went"),
)

COMPILE_ONCE = Remedy(
    kind="same_training",
    text={
        "peft": "torch.compile(get_peft_model(model, config), dynamic=True); TORCH_LOGS=graph_breaks,recompiles names "
        "the lines",
        "plain": "torch.compile(model, dynamic=True); TORCH_LOGS=graph_breaks,recompiles names the lines",
    },
)

LOADERS = 2  # workers that loraprof fix starts; the texts take more
WORKERS = Remedy(
    kind="data",
    arm="loader-workers",
    text={
        "transformers": "TrainingArguments(dataloader_num_workers=4, dataloader_persistent_workers=True$pinned); "
        "tokenise once beforehand (dataset.map)",
        "plain": "DataLoader(num_workers=4, persistent_workers=True$pinned); prepare the samples once beforehand",
    },
    fits=lambda case, values: not values["workers"],
)
MORE_WORKERS = Remedy(
    kind="data",
    text={
        "transformers": "more workers than now (dataloader_num_workers), or less work for them: tokenise once "
        "beforehand (dataset.map)",
        "plain": "more workers than now (num_workers), or less work for them: prepare the samples once beforehand",
    },
    fits=lambda case, values: bool(values["workers"]),
)

ONE_DEVICE_EACH = Remedy(
    kind="hardware",
    text={
        "transformers-model": 'load the model on one device (device_map={"": local_rank}) and start with accelerate '
        "launch --multi_gpu",
        "plain": "the whole model on one device per process (torchrun), DistributedDataParallel around it",
    },
)

ONCE_PER_STEP = Remedy(
    kind="same_training",
    text={"plain": "compute $what once per step, before the layers, and pass it down"},
    fits=lambda case, values: bool(values["what"]),
)
READ_ONCE = Remedy(
    kind="same_training",
    text={
        "plain": "read the value once per step, before the layers, and pass the number down: .item(), nonzero() and "
        "comparisons in $place"
    },
    fits=lambda case, values: bool(values["place"]),
)
