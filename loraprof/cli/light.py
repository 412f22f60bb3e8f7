"""A process that only computes a report and ends: what of Python's and numpy's housekeeping can it do without?

BLAS threads: numpy's OpenBLAS starts one per core on import, half of the import's process time; a report multiplies
no matrices. Cyclic garbage collection, at the end too: a tenth of the process time.
Frames: where an import stands so deep that calls cross the end of a chunk of Python's frame stack, each call maps and
unmaps memory, 3,600 times in numpy's; so numpy is imported by itself, before the modules that need it, and not at all
where an earlier analysis is shown.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from loraprof.collector import end_unwalked, uncollected

BLAS_THREADS: Final = "OPENBLAS_NUM_THREADS"  # read once, when numpy is loaded


@contextmanager
def light() -> Iterator[None]:
    """Both are off inside, and as they were afterwards; a number of threads that the user set is kept."""
    threads = os.environ.get(BLAS_THREADS)
    end_unwalked()
    os.environ.setdefault(BLAS_THREADS, "1")
    try:
        with uncollected():
            yield
    finally:
        if threads is None:
            os.environ.pop(BLAS_THREADS, None)


def load_arrays() -> None:
    """What an analysis computes with."""
    import numpy  # noqa: F401
