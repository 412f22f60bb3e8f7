"""What helps where the step runs more than the network that is trained."""

from loraprof.diagnosis.remedy import Remedy

CACHE = Remedy(
    "same_training",
    lambda case, values: (
        f"compute the outputs of {values['name']} once and cache them, where its inputs come again in every epoch"
    ),
)
CHEAPER = Remedy(
    "numerics",
    lambda case, values: (
        f"where its inputs never repeat: {values['name']} in bf16, compiled (torch.compile), on larger batches"
    ),
)
MERGE = Remedy(
    "same_training",
    lambda case, values: (
        "merge the adapters for the rollout and take them out after it (model.merge_adapter(), model.unmerge_adapter())"
        if case.peft
        else "add B A to the weights for the rollout and take it off after it"
    ),
)
SAMPLER = Remedy(
    "hardware",
    lambda case, values: "a sampler of its own that takes adapters; send it A and B alone, once per rollout",
)
