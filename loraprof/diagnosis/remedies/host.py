"""What helps a device that waits for its host, and a step that compiles."""

from loraprof.diagnosis.case import Case
from loraprof.diagnosis.remedy import LARGER_BATCH, Remedy, Values, compile_call, compiling, without_dropout, words


def _fewer(case: Case, values: Values) -> str:
    """More work per launch, or fewer of them; what is said of adapters fits those that are there."""
    fewer = ("fewer target_modules" if case.peft else "adapt fewer layers") if case.sites else ""
    return "; ".join(filter(None, (f"{LARGER_BATCH}, or packing", compiling(case), fewer, without_dropout(case))))


FEWER_LAUNCHES = Remedy("same_training", _fewer)

LESS_PYTHON = Remedy(
    "same_training",
    lambda case, values: (
        f"look at what runs before {values['place']}: callbacks, hooks, logging, .item(); "
        "py-spy record -o profile.svg -- python train.py names the lines"
    ),
)

COMPILE_ONCE = Remedy(
    "same_training",
    lambda case, values: (
        f"{compile_call(case, ', dynamic=True')}{without_dropout(case, ' with ')}; "
        "TORCH_LOGS=graph_breaks,recompiles names the lines"
    ),
)

WORKERS = Remedy(
    "data",
    words(
        "DataLoader(num_workers=4, pin_memory=True, persistent_workers=True); tokenise once beforehand (dataset.map)"
    ),
)

ONE_DEVICE_EACH = Remedy(
    "hardware",
    words('load the model on one device (device_map={"": local_rank}) and start with accelerate launch --multi_gpu'),
)

ONCE_PER_STEP = Remedy(
    "same_training",
    lambda case, values: f"compute it once per step, before the layers, and pass it down: {values['what']}",
)

READ_ONCE = Remedy(
    "same_training",
    lambda case, values: (
        f"read the value once per step, before the layers, and pass the number down: .item(), nonzero() and "
        f"comparisons in {values['place']}"
    ),
)
