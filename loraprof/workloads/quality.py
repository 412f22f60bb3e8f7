"""Does the arm learn? A short training run on a synthetic task that has something to learn.

Causal models: the next token is a fixed permutation of the one before. Text classes: which half of a small
vocabulary the tokens come from. Images: each class has a mean image, under noise.
"""

from collections.abc import Iterator
from itertools import accumulate

import torch
from msgspec.structs import replace

from loraprof.model.workload import WorkloadSpec
from loraprof.workloads.arms import resolve_arm
from loraprof.workloads.batches import SPECIAL_TOKENS, Batch, classes, images, vocabulary
from loraprof.workloads.build import build
from loraprof.workloads.families import family_of

DEFAULT_STEPS = 60
FULL_LR = 1e-3
ADAPTER_LR = 3e-3  # adapters want a higher rate than whole weights; on the CPU default 1e-2 diverges
ALPHABET = 32  # tokens in use
BASE_ARMS = ("full", "top")  # those that train whole weights


def train(spec: WorkloadSpec, arm: str, steps: int = DEFAULT_STEPS, seed: int = 0) -> list[float]:
    """The loss of each of ``steps`` optimizer steps on fresh batches. Raises what ``build`` raises."""
    rate = FULL_LR if resolve_arm(arm).name in BASE_ARMS else ADAPTER_LR
    built = build(replace(spec, seed=seed, lr=rate), arm, learnable)
    return [float(built.step()) for _ in range(steps)]


def learnable(spec: WorkloadSpec, device: torch.device) -> Iterator[Batch]:
    """Fresh micro-batches of the task, for ever; a seed names one task and one order of batches."""
    generator = torch.Generator().manual_seed(spec.seed)
    draw = {"causal": _permutation, "text": _halves, "image": _means}[family_of(spec).task]
    for batch in draw(spec, generator):
        yield {key: value.to(device) for key, value in batch.items()}


def _permutation(spec: WorkloadSpec, generator: torch.Generator) -> Iterator[Batch]:
    size = _alphabet(spec)
    following = torch.randperm(size, generator=generator)
    while True:
        first = torch.randint(size, (spec.batch,), generator=generator)
        columns = accumulate(range(spec.seq - 1), lambda last, _: following[last], initial=first)
        tokens = torch.stack(list(columns), dim=1) + SPECIAL_TOKENS
        yield {"input_ids": tokens, "labels": tokens}


def _halves(spec: WorkloadSpec, generator: torch.Generator) -> Iterator[Batch]:
    share = _alphabet(spec) // int(str(spec.config["num_labels"]))
    while True:
        labels = classes(spec, generator)
        within = torch.randint(share, (spec.batch, spec.seq), generator=generator)
        yield {"input_ids": within + share * labels[:, None] + SPECIAL_TOKENS, "labels": labels}


def _means(spec: WorkloadSpec, generator: torch.Generator) -> Iterator[Batch]:
    one_each = images(replace(spec, batch=int(str(spec.config["num_labels"]))), generator)["pixel_values"]
    while True:
        batch = images(spec, generator)
        yield {**batch, "pixel_values": batch["pixel_values"] / 2 + one_each[batch["labels"]]}


def _alphabet(spec: WorkloadSpec) -> int:
    return min(ALPHABET, vocabulary(spec) - SPECIAL_TOKENS)
