"""How does an export reach the disk? Complete or not at all: written beside its target, then renamed."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from isal import igzip

from loraprof.store import writing
from loraprof.store.writing import disk

LEVEL = 1  # of 0 to 3: the fastest that compresses traces 15-fold


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


def packed(out: IO[bytes]) -> IO[bytes]:
    """A gzip stream on ``out`` without name and time, so that equal input gives equal bytes."""
    packer: IO[bytes] = igzip.GzipFile(filename="", fileobj=out, mode="wb", compresslevel=LEVEL, mtime=0)
    return packer


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
