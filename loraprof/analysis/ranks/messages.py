"""Which collective is meant by a name, how large is its message, and how much of it crosses the wire?

Size and bandwidth as nccl-tests defines them (doc/PERFORMANCE.md; n ranks, size S, time t): algorithm bandwidth S / t,
S being the larger of what one rank gives and gets; bus bandwidth = factor * S / t, with the factor 2 (n - 1) / n for
all-reduce, (n - 1) / n where a rank keeps its own share (all-gather, reduce-scatter, all-to-all, gather, scatter), and
1 for broadcast, reduce and point to point.
"""

import re
from typing import Final

from loraprof.analysis.work.tensors import KINETO, SIZES
from loraprof.model.trace import Collective

KINDS: Final = (
    *("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast"),
    *("reduce", "gather", "scatter", "send_recv", "barrier", "other"),
)
KIND: Final = {name: i for i, name in enumerate(KINDS)}
KEPT: Final = frozenset(("all_gather", "reduce_scatter", "all_to_all", "gather", "scatter"))
# In order: "reduce_scatter" before "reduce", "all_gather" before "gather". Names of torch, NCCL kernels and gloo.
_PATTERNS: Final = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("reduce_scatter", r"reduce_?scatter"),
        ("all_reduce", r"all_?reduce|cross_device_reduce"),
        ("all_gather", r"all_?gather"),
        ("all_to_all", r"all_?to_?all"),
        ("broadcast", r"broadcast"),
        ("send_recv", r"send|recv"),
        ("barrier", r"barrier"),
        ("gather", r"gather"),
        ("scatter", r"scatter"),
        ("reduce", r"reduce"),
    )
)
_NCCL_TYPES: Final = {"half": "float16", "byte": "uint8", "char": "int8"}


def kind_of(name: str) -> int:
    """-> KINDS."""
    text = name.lower()
    return KIND[next((kind for kind, pattern in _PATTERNS if pattern.search(text)), "other")]


def width_of(dtype: str) -> int | None:
    """Bytes of one element of a type as Kineto (``c10::Half``) or torch's NCCL (``Half``) spells it."""
    name = dtype.lower()
    return SIZES.get(KINETO.get(dtype) or KINETO.get(name) or _NCCL_TYPES.get(name, name))


def size_of(message: Collective) -> int | None:
    """S in bytes, from what one rank gives and gets; None where the trace does not say."""
    counts = [n for n in (message.in_elements, message.out_elements) if n is not None]
    width = width_of(message.dtype)
    return max(counts) * width if counts and max(counts) > 0 and width is not None else None


def bus_factor(kind: str, ranks: int) -> float:
    """Bus over algorithm bandwidth in a group of ``ranks``."""
    if kind == "all_reduce":
        return 2 * (ranks - 1) / ranks
    return (ranks - 1) / ranks if kind in KEPT else 1.0
