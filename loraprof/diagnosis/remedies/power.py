"""What helps against limits of clocks, power and memory."""

from loraprof.diagnosis.remedy import Remedy, unknown

EQUAL_CLOCKS = Remedy(
    kind="hardware",
    text={
        "plain": "loraprof compare runs the arms interleaved and reports cycles beside times; better cooling, or a "
        "higher power limit set by your administrator"
    },
)

READ_BUSY = Remedy(
    kind="same_training", text={"plain": "read this report's busy time, not utilisation; then see H1, L1 and L5"}
)

EXPANDABLE = Remedy(
    kind="same_training",
    text={"plain": "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"},
    fits=lambda case, values: bool(values["allocates"]),
)
STAY = Remedy(
    kind="same_training",
    text={"plain": "keep tensors on the device: no offloading, pin_memory=True for batches"},
    fits=lambda case, values: bool(values["moves"]),
    saved=unknown,
)
SMALLER_BATCH = Remedy(
    kind="same_training",
    text={
        "transformers": "per_device_train_batch_size / 2 and gradient_accumulation_steps x 2",
        "plain": "micro-batches half as large and twice as many",
    },
    fits=lambda case, values: bool(values["full"]),
    saved=unknown,
)
