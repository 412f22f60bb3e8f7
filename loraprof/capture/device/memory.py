"""How much memory does a step need at least, and is there as much?"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import nn

from loraprof import units
from loraprof.capture.device.kinds import measured
from loraprof.errors import MeasurementError

SMALLER: Final = "--batch, --seq, --layers or --rank smaller, or --checkpointing non-reentrant"


def is_out_of_memory(error: BaseException) -> bool:
    """torch's CUDA error, the CPU allocator's RuntimeError, or Python's own."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


@contextmanager
def enough_memory() -> Iterator[None]:
    """Around building and running a workload: running out of memory becomes a MeasurementError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        lines = str(error).splitlines() or ["Python has none left"]
        raise MeasurementError(f"out of memory: {lines[0]}", SMALLER) from None


def require_room(what: str, nbytes: int, device: torch.device) -> None:
    """Raises MeasurementError when that is more than there is: a system that kills for memory says nothing."""
    free = measured(device).available_bytes()
    if free is not None and nbytes > free:
        text = f"{what} need {units.nbytes(nbytes)}, {units.nbytes(free)} are free"
        raise MeasurementError(f"out of memory: {text}", SMALLER)


def memory_plan(model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> str:
    """What a step of a built model takes at least; raises MeasurementError when it cannot have that."""
    held = _bytes(model.parameters()) + _bytes(model.buffers())
    trained = _bytes(p for p in model.parameters() if p.requires_grad)
    moments = 2 if isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW) else 0
    coming = trained * (1 + moments)
    require_room("gradients and optimizer", coming, device)
    return f"at least {units.nbytes(held + coming)} of memory, activations on top"


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
