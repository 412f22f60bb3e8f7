"""The rows of a padded batch as one row without padding: positions start anew, and no row sees another.

The loss stays what it is: each row's first label has no part in it before, since labels are shifted, nor afterwards.
"""

from typing import Any, Final

import torch
from torch import Tensor, nn

from loraprof.capture.modules.facts import IGNORED
from loraprof.live_remedies.loss import causal_model
from loraprof.live_remedies.program import Program
from loraprof.live_remedies.remedy import LiveRemedy, Undo

LEAST_PADDING: Final = 0.02
GIVEN: Final = ("input_ids", "attention_mask", "labels")
TAKEN: Final = (*GIVEN, "position_ids")


def packed(kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """The arguments of a causal model for its batch as one row; None where that is not the same training."""
    tensors = [t for name in GIVEN if isinstance(t := kwargs.get(name), Tensor) and t.dim() == 2]
    if len(tensors) < len(GIVEN) or len({t.shape for t in tensors}) > 1:
        return None
    ids, mask, labels = tensors
    real = mask != 0
    lengths = real.sum(dim=1)
    steady = torch.arange(mask.shape[1], device=mask.device)[None] < lengths[:, None]
    if not bool((real == steady).all()) or bool((labels[~real] != IGNORED).any()):
        return None
    if any(isinstance(v, Tensor) and v.shape[:2] == mask.shape for k, v in kwargs.items() if k not in TAKEN):
        return None
    positions = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)[real]
    row = torch.repeat_interleave(torch.arange(len(mask), device=mask.device), lengths)
    seen = (row[:, None] == row[None]) & (positions[:, None] >= positions[None])
    real_labels = labels[real].masked_fill(positions == 0, IGNORED)
    return {
        "input_ids": ids[real][None],
        "labels": real_labels[None],
        "position_ids": positions[None],
        "seen": seen[None, None],
    }


def _unfit(program: Program) -> str | None:
    if causal_model(program.model) is None:
        return "no causal language model of transformers computes its own loss here"
    calls = [call for call in program.calls_of(program.model) if call.grad]
    rows = [packed(dict(call.kwargs)) for call in calls]
    if not calls or not all(rows):
        return "the model is not called with batches padded on the right, their mask and labels"
    real_tokens = sum(row["input_ids"].numel() for row in rows if row)
    all_tokens = sum(m.numel() for call in calls if (m := call.tensor("attention_mask")) is not None)
    return None if real_tokens < (1 - LEAST_PADDING) * all_tokens else "there is no padding"


def _pack(program: Program) -> Undo:
    weight = next(p for p in program.model.parameters() if p.is_floating_point())

    def pack(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        found = packed(kwargs) if module.training else None
        if found is None:
            return args, kwargs
        seen = found.pop("seen")
        dtype = (
            torch.get_autocast_dtype(seen.device.type) if torch.is_autocast_enabled(seen.device.type) else weight.dtype
        )
        hidden = torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
        return args, {**kwargs, **found, "attention_mask": hidden}

    return program.model.register_forward_pre_hook(pack, with_kwargs=True).remove


PACKED: Final = LiveRemedy(
    name="packing",
    kind="data",
    text="pack the sequences of a batch into one row without padding: a collator such as DataCollatorWithFlattening, "
    "or SFTConfig(packing=True)",
    fits=_unfit,
    apply=_pack,
    findings=("G4",),
)
