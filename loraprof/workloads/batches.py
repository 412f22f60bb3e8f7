"""Synthetic batches: the same tokens, labels or images for every arm of one seed."""

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from loraprof.errors import UsageError
from loraprof.model.workload import WorkloadSpec
from loraprof.workloads.families import family_of

Batch = dict[str, Tensor]
Source = Callable[[WorkloadSpec, torch.device], Iterator[Batch]]
SPECIAL_TOKENS = 4  # the lowest ids are padding and the like in several vocabularies


def fixed(spec: WorkloadSpec, device: torch.device) -> Iterator[Batch]:
    """``spec.accumulate`` random micro-batches, repeated for ever: each step sees the same tokens."""
    generator = torch.Generator().manual_seed(spec.seed)
    task = family_of(spec).task
    batches = []
    for _ in range(spec.accumulate):
        if task == "image":
            batch = images(spec, generator)
        else:
            batch = {"input_ids": tokens(spec, generator)}
            batch["labels"] = batch["input_ids"] if task == "causal" else classes(spec, generator)
        batches.append({key: value.to(device) for key, value in batch.items()})
    return cycle(batches)


def tokens(spec: WorkloadSpec, generator: torch.Generator) -> Tensor:
    """Raises UsageError for a vocabulary of special tokens alone."""
    if vocabulary(spec) <= SPECIAL_TOKENS:
        what = f"`config.vocab_size` must be above {SPECIAL_TOKENS}, got {vocabulary(spec)}"
        raise UsageError(f"workload {spec.name}: {what}")
    return torch.randint(SPECIAL_TOKENS, vocabulary(spec), (spec.batch, spec.seq), generator=generator)


def classes(spec: WorkloadSpec, generator: torch.Generator) -> Tensor:
    labels: Any = spec.config["num_labels"]
    return torch.randint(labels, (spec.batch,), generator=generator)


def images(spec: WorkloadSpec, generator: torch.Generator) -> Batch:
    channels: Any = spec.config["num_channels"]
    pixels = torch.randn(spec.batch, channels, spec.seq, spec.seq, generator=generator)
    return {"pixel_values": pixels.to(getattr(torch, spec.dtype)), "labels": classes(spec, generator)}


def vocabulary(spec: WorkloadSpec) -> int:
    size: Any = spec.config["vocab_size"]
    return int(size)


def tokens_per_step(spec: WorkloadSpec) -> int:
    """Tokens one optimizer step sees; for a vision model, images."""
    per_sequence = 1 if family_of(spec).task == "image" else spec.seq
    return spec.batch * per_sequence * spec.accumulate
