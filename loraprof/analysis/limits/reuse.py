"""How many of a step's compulsory bytes may never leave the cache? The second figure beside the minimum bytes.

A tensor stays in a cache of C bytes until C bytes have passed since the op began that wrote or read it (an op streams
its tensors side by side); whoever reads it before finds it there. Then neither the write nor the read touches memory:
the allocator reuses the place before it must be written back. Traces name no tensors, so an input is taken to be the
latest tensor of its size in bytes, which makes this figure a lower bound. (LRU stack distance: Mattson et al., IBM
Systems Journal 9(2), 1970.)
"""

from collections import defaultdict
from collections.abc import Sequence

from msgspec import Struct

from loraprof.analysis.work.rule import Work

SMALLEST = 4096  # scalars and statistics would match each other


class _Tensor(Struct):
    """A tensor that is in the cache."""

    at: int  # bytes that had passed when the op began that touched it last
    writer: int | None  # position of the op that wrote it, until somebody reads it


def cached_bytes(works: Sequence[Work | None], cache_bytes: int) -> list[int | None]:
    """Bytes that reach memory with perfect reuse, per op in order of time; None where the work is unknown."""
    kept = [0] * len(works)
    held: dict[int, list[_Tensor]] = defaultdict(list)  # by size, latest last
    passed = 0
    for i, work in enumerate(works):
        if work is None:
            continue
        begin, passed = passed, passed + work.min_bytes
        fresh: dict[int, list[_Tensor]] = defaultdict(list)
        for size in work.reads:
            if not SMALLEST <= size <= cache_bytes:
                continue
            found = held[size].pop() if held[size] else None
            if found is not None and begin - found.at <= cache_bytes:
                kept[i] += size
                if found.writer is not None:
                    kept[found.writer] += size
            else:
                held[size].clear()  # the others are older still
            fresh[size].append(_Tensor(begin, None))
        for size in work.writes:
            if SMALLEST <= size <= cache_bytes:
                fresh[size].append(_Tensor(begin, i))
        for size, tensors in fresh.items():
            held[size] += tensors
    return [None if w is None else w.min_bytes - k for w, k in zip(works, kept, strict=True)]
