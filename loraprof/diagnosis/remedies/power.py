"""What helps against limits of clocks, power and memory."""

from loraprof.diagnosis.case import Case
from loraprof.diagnosis.remedy import Remedy, Values, words

EQUAL_CLOCKS = Remedy(
    "hardware",
    words(
        "loraprof compare runs the arms interleaved and reports cycles beside times; better cooling, or a higher power "
        "limit set by your administrator"
    ),
)

READ_BUSY = Remedy("same_training", words("read this report's busy time, not utilisation; then see H1, L1 and L5"))


def _memory(case: Case, values: Values) -> str:
    parts = [
        (values["allocates"], "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"),
        (values["moves"], "keep tensors on the device: no offloading, pin_memory=True for batches"),
        (values["full"], "a smaller per_device_train_batch_size"),
    ]
    return "; ".join(text for here, text in parts if here)


MEMORY = Remedy("same_training", _memory)
