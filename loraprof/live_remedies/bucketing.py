"""Batches of like length, each padded to its own longest: the samples of an epoch stay, their order changes."""

import random
from collections.abc import Iterator
from typing import Any, Final

from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, Sampler

from loraprof.live_remedies.data import PAD_TO_LONGEST
from loraprof.live_remedies.program import Program
from loraprof.live_remedies.remedy import LiveRemedy, Undo, nothing, swap

BATCHES: Final = 50  # that are sorted together: the order stays random beyond them
MOST: Final = 50_000  # samples whose lengths are read
LOOKED_AT: Final = 64
LEAST_SPREAD: Final = 0.1  # of the longest, between the mean and the longest
COLUMNS: Final = ("input_ids", "tokens")


def length_of(sample: Any) -> int | None:
    """Tokens of a sample that is a mapping; None where it is something else."""
    get = getattr(sample, "get", None)
    tokens = next((t for name in COLUMNS if (t := get(name)) is not None), None) if callable(get) else None
    if isinstance(tokens, Tensor):
        return int(tokens.numel())
    return len(tokens) if isinstance(tokens, list) else None


class LikeLengths(Sampler[int]):
    """Random as before, then sorted by length within every few batches."""

    def __init__(self, dataset: Any, batch: int) -> None:
        self.lengths = [length_of(dataset[i]) or 0 for i in range(len(dataset))]
        self.batch, self.draw = batch, random.Random(0)

    def __iter__(self) -> Iterator[int]:
        order = list(range(len(self.lengths)))
        self.draw.shuffle(order)
        many = BATCHES * self.batch
        batches = []
        for at in range(0, len(order), many):
            near = sorted(order[at : at + many], key=self.lengths.__getitem__)
            batches += [near[i : i + self.batch] for i in range(0, len(near), self.batch)]
        whole = [batch for batch in batches if len(batch) == self.batch]
        self.draw.shuffle(whole)
        rest = [batch for batch in batches if len(batch) < self.batch]
        return iter([index for batch in [*whole, *rest] for index in batch])

    def __len__(self) -> int:
        return len(self.lengths)


def _unfit(program: Program) -> str | None:
    shuffled = [loader.dataset for loader in program.loaders if loader.shuffled and loader.batch > 1]
    if not shuffled:
        return "no DataLoader draws batches at random from a dataset that can be indexed"
    if not all(len(dataset) <= MOST for dataset in shuffled):
        return f"reading the lengths of more than {MOST:,} samples takes too long: sort by a column of lengths"
    lengths = [n for d in shuffled for i in range(min(LOOKED_AT, len(d))) if (n := length_of(d[i])) is not None]
    if not lengths or sum(lengths) > (1 - LEAST_SPREAD) * max(lengths) * len(lengths):
        return "its samples have no lengths, or all about the same"
    trimmed = PAD_TO_LONGEST.fits(program)
    return None if trimmed in (None, "no column of the batches is all padding") else trimmed


def _sorted() -> Undo:
    plain = DataLoader.__init__

    def init(loader: Any, dataset: Any, batch_size: Any = 1, shuffle: Any = None, *args: Any, **kwargs: Any) -> None:
        drawn = shuffle or type(kwargs.get("sampler")) is RandomSampler
        if drawn and not args and isinstance(batch_size, int) and not isinstance(dataset, IterableDataset):
            shuffle, kwargs = None, {**kwargs, "sampler": LikeLengths(dataset, batch_size)}
        plain(loader, dataset, batch_size, shuffle, *args, **kwargs)

    return swap(DataLoader, "__init__", init)


BUCKETS: Final = LiveRemedy(
    name="bucketing",
    kind="data",
    text='batches of like length: TrainingArguments(train_sampling_strategy="group_by_length"), or a sampler that '
    "sorts by length within every 50 batches; with a collator that pads to the longest",
    fits=_unfit,
    apply=lambda program: PAD_TO_LONGEST.apply(program) if PAD_TO_LONGEST.fits(program) is None else nothing,
    findings=("G4",),
    early=_sorted,
    reorders=True,
)
