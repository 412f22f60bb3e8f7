"""How does an export reach the disk? Complete or not at all: written beside its target, then renamed."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from loraprof.store import writing
from loraprof.store.kineto.packed import packed
from loraprof.store.writing import disk


@contextmanager
def replacing(target: Path) -> Iterator[IO[bytes]]:
    """A binary file that becomes ``target`` when the block ends well; compressed when its name ends in ``.gz``.

    Raises MeasurementError when it cannot be written.
    """
    with disk(target), writing.replacing(target) as out:
        if target.suffix == ".gz":
            with packed(out) as inner:
                yield inner
        else:
            yield out


@contextmanager
def filling(target: Path, ours: tuple[str, ...]) -> Iterator[Path]:
    """A folder whose files appear in ``target`` when the block ends well, instead of those that match ``ours``."""
    beside = writing.temporary(target)
    with disk(target):
        try:
            beside.mkdir(parents=True)
            yield beside
            target.mkdir(exist_ok=True)
            for old in (path for pattern in ours for path in target.glob(pattern)):
                old.unlink()
            for new in beside.iterdir():
                new.replace(target / new.name)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
