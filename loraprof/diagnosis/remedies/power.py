"""What helps against limits of clocks, power and memory."""

from loraprof.diagnosis.remedy import Remedy, unknown
from loraprof.diagnosis.select import at_most
from loraprof.diagnosis.worth import Assumed

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


NO_COPY_BACK = Remedy(
    kind="same_training",
    text={"plain": "frozen weights do not change: drop the copy on the device and keep the one on the host"},
    fits=lambda case, values: values["back"] > 0,
    saved=lambda case, values: at_most(case, values["back_ns"]),
)
PREFETCH = Remedy(
    kind="same_training",
    text={
        "kohya": "--use_pinned_memory_for_block_swap, so that the next block is copied while this one computes",
        "plain": "copy the next block from pinned memory on a second stream while this one computes "
        "(tensor.to(device, non_blocking=True))",
    },
    fits=lambda case, values: values["exposed"] > 0,
)
FEWER_BLOCKS = Remedy(
    kind="same_training",
    text={
        "kohya": "a smaller --blocks_to_swap, with --fp8_base if memory is short",
        "plain": "keep as many blocks on the device as fit; a quantised base makes room for more",
    },
    saved=unknown,
)
NO_FALLBACK = Remedy(
    kind="hardware",
    text={"plain": "NVIDIA control panel, CUDA - Sysmem Fallback Policy: Prefer No Sysmem Fallback; or Linux, or WSL"},
    fits=lambda case, values: bool(values["windows"]),
    assumed=Assumed(0.1, 0.45, 0.6, "kohya-ss/musubi-tuner#685: about twice the time of the same training on Linux"),
)
LESS_MEMORY = Remedy(
    kind="same_training",
    text={
        "transformers": "per_device_train_batch_size / 2 and gradient_accumulation_steps x 2",
        "plain": "micro-batches half as large and twice as many, or checkpointing, so that memory suffices",
    },
    assumed=Assumed(0.1, 0.45, 0.6, "kohya-ss/musubi-tuner#685: about twice the time of the same training on Linux"),
)
