"""What of a tensor does this process hold? Of a sharded one (DTensor: FSDP2, tensor parallelism) its shard.

A DTensor shows the global shape and has no storage of its own; whatever counts bytes or copies shapes asks here.
"""

from typing import Any

import torch


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself, or the part of a DTensor that lies on this rank."""
    held: Any = getattr(tensor, "_local_tensor", tensor)
    return held if isinstance(held, torch.Tensor) else tensor


def first_byte(tensor: torch.Tensor) -> int:
    """Where its elements begin; a tensor that wraps others (quantized, of a device in Python) is told by itself."""
    try:
        return tensor.data_ptr()
    except (RuntimeError, NotImplementedError):
        return id(tensor)


def address(tensor: torch.Tensor) -> int:
    """Where the storage begins of what this rank holds of it."""
    held = local(tensor)
    try:
        return held.untyped_storage().data_ptr() if held.layout == torch.strided else id(held)
    except (RuntimeError, NotImplementedError):
        return id(held)


def held_bytes(tensor: torch.Tensor) -> int:
    """Of its storage, or of the elements of a tensor that wraps others."""
    held = local(tensor)
    try:
        return held.untyped_storage().nbytes()
    except (RuntimeError, NotImplementedError):
        return held.numel() * held.element_size()


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether this rank holds a part of the tensor only, or a DTensor's copy of it."""
    return local(tensor) is not tensor


def piece_at(flat: Any, offset: int) -> torch.nn.Parameter | None:
    """The parameter whose elements begin there in a flat one of FSDP's first version; None where none does."""
    begin, parts = 0, iter(flat._params or ())
    for numel, padding in zip(flat._numels_with_padding, flat._is_padding_mask, strict=True):
        part: torch.nn.Parameter | None = None if padding else next(parts, None)
        if begin == offset:
            return part
        begin += numel
    return None
