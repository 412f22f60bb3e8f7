"""What of a tensor does this process hold? Of a sharded one (DTensor: FSDP2, tensor parallelism) its shard.

A DTensor shows the global shape and has no storage of its own; whatever counts bytes or copies shapes asks here.
"""

from typing import Any

import torch


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself, or the part of a DTensor that lies on this rank."""
    held: Any = getattr(tensor, "_local_tensor", tensor)
    return held if isinstance(held, torch.Tensor) else tensor


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether this rank holds a part of the tensor only, or a DTensor's copy of it."""
    return local(tensor) is not tensor
