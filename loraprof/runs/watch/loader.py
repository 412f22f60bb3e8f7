"""How long did the training wait for its batches, and how large were they? Seen in the iterator of torch's DataLoader,
which is called once per batch."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data.dataloader import _BaseDataLoaderIter

_Iterator: Any = _BaseDataLoaderIter


class LoaderWatch:
    """Between ``install`` and ``remove``: ``take`` gives (waited ns, elements) since it was asked last."""

    def __init__(self) -> None:
        self._ns = self._elements = 0
        self._kept: Any = None

    def install(self) -> None:
        plain = self._kept = _Iterator.__next__

        def following(iterator: Any) -> Any:
            began = time.perf_counter_ns()
            batch = plain(iterator)
            self._ns += time.perf_counter_ns() - began
            self._elements += elements(batch)
            return batch

        _Iterator.__next__ = following

    def remove(self) -> None:
        """Safe to call more than once."""
        if self._kept is not None:
            _Iterator.__next__, self._kept = self._kept, None

    def take(self) -> tuple[int, int]:
        taken = self._ns, self._elements
        self._ns = self._elements = 0
        return taken


def elements(batch: object) -> int:
    """Of ``input_ids``, else of the first tensor: for texts, tokens. 0 unknown."""
    if isinstance(batch, torch.Tensor):
        return batch.numel()
    if isinstance(batch, Mapping):
        batch = [batch["input_ids"]] if "input_ids" in batch else list(batch.values())
    if isinstance(batch, list | tuple):
        return next((found for one in batch[:4] if (found := elements(one))), 0)
    return 0
