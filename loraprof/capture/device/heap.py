"""Where do a CPU tensor's pages come from? From memory this process already touched, as on a GPU.

glibc gives freed memory back to the kernel and takes it again page by page, so a step pays page faults that depend on
the heap's history (up to a third of an eager AdamW step, 1 to 6 us each in a virtual machine), and more of them under
a profiler, whose small records split the chunks that large tensors leave. The CUDA caching allocator keeps what is
freed; built-in workloads do the same on a CPU, so that arms and passes differ in their work alone. A script keeps the
C library's own ways but for the profiled steps. Calls: mallopt(3), malloc_trim(3).
"""

import ctypes
from functools import cache
from typing import Any, Final

import torch

M_TRIM_THRESHOLD: Final = -1
M_MMAP_MAX: Final = -4
KEPT: Final = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1}  # no mapping of its own for a chunk, never shrink the heap
# Where glibc's own adaptation ends up in a process that frees large tensors.
USUAL: Final = {M_MMAP_MAX: 65536, M_TRIM_THRESHOLD: 64 << 20}

_holders = 0


def keep_freed_memory() -> None:
    """Until as many ``release``s, freed memory stays in the process. Does nothing where the C library is not glibc."""
    global _holders
    _holders += 1
    if _holders == 1:
        _set(KEPT)


def release() -> None:
    """Ends one ``keep_freed_memory``; the last one gives unused memory back."""
    global _holders
    _holders -= 1
    if _holders == 0:
        _set(USUAL)
        if _libc() is not None:
            _libc().malloc_trim(0)


def touch(nbytes: int) -> None:
    """Brings ``nbytes`` of pages into the kept heap, for allocations to come."""
    if _libc() is not None and nbytes > 0:
        torch.empty(nbytes, dtype=torch.uint8).fill_(1)


def _set(options: dict[int, int]) -> None:
    library = _libc()
    if library is not None:
        for option, value in options.items():
            library.mallopt(option, value)


@cache
def _libc() -> Any:
    try:
        library = ctypes.CDLL("libc.so.6")
        library.mallopt, library.malloc_trim  # noqa: B018  other C libraries lack them
    except (OSError, AttributeError):
        return None
    return library
