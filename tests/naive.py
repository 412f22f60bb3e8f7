"""A second opinion on the partition: the pseudo-code of the method, cut by cut, in plain lists, O(n^2).

Works on a decoded Kineto document with exact times. Returns per step the ns by class, by idle cause, and by
("over", "under") for overlaps. Slow, short, and shares nothing with the analysis or with the generator's ledger.
"""

import re
from collections import Counter
from decimal import Decimal
from itertools import pairwise
from statistics import median_low
from typing import NamedTuple

from builders import Document

ORDER = ("compute", "comm", "copy")
STATES = ("profiler", "sync", "allocator", "launch_api", "data", "framework")
SYNC = re.compile(r"Synchronize$|^(cuda|hip)Memcpy$")
LAUNCH = re.compile(r"Launch|Mem(cpy|set).*Async")


class Gpu(NamedTuple):
    start: int
    end: int
    cls: str
    stream: int
    correlation: int


def ns(us: Decimal | int) -> int:
    return int(Decimal(us) * 1000)


def partition(document: Document, tau: int) -> dict[str, Counter[object]]:
    rows = [(e, ns(e["ts"]), ns(e["ts"]) + ns(e["dur"])) for e in document["traceEvents"] if e["ph"] == "X"]
    gpu = [Gpu(s, t, _class(e), e["tid"], e["args"]["correlation"]) for e, s, t in rows if _class(e)]
    calls = {e["args"]["correlation"]: (s, t, e["tid"]) for e, s, t in rows if e["cat"] == "cuda_runtime"}
    slow = _blocking(rows, calls)
    host = [(e["tid"], s, t, _state(e, slow)) for e, s, t in rows if not _class(e)]
    steps = sorted((s, t, e["name"], e["tid"]) for e, s, t in rows if e["name"].startswith("ProfilerStep#"))
    out, at = {}, steps[0][0] if steps else 0
    for s, t, name, main in steps:
        mine = [g.end for g in gpu if g.correlation in calls and s <= calls[g.correlation][0] < t]
        end = max(at, max(mine, default=t))
        out[name] = split(at, end, gpu, calls, [h for h in host if h[3]], main, tau)
        at = end
    return out


def _class(event: Document) -> str:
    if event["cat"] == "kernel":
        return "comm" if event["name"].startswith("nccl") else "compute"
    return "copy" if event["cat"] in ("gpu_memcpy", "gpu_memset") else ""


def _blocking(rows: list[tuple[Document, int, int]], calls: dict[int, tuple[int, int, int]]) -> set[int]:
    usual = [t - s for e, s, t in rows if e["cat"] == "cuda_runtime" and LAUNCH.search(e["name"])]
    back = [e["args"]["correlation"] for e, _, _ in rows if e["cat"] == "gpu_memcpy" and "DtoH" in e["name"]]
    return {c for c in back if c in calls and calls[c][1] - calls[c][0] > 10 * median_low(usual)}


def _state(event: Document, slow: set[int]) -> str:
    cat, name = event["cat"], event["name"]
    if cat == "overhead":
        return "framework" if "Lazy" in name else "profiler"
    if cat == "cuda_runtime":
        if SYNC.search(name) or event["args"]["correlation"] in slow:
            return "sync"
        if re.search("Malloc|Free", name):
            return "allocator"
        return "launch_api" if LAUNCH.search(name) else "framework"
    if cat == "user_annotation":
        return "data" if name.startswith("enumerate(DataLoader)") else ""
    return "framework" if cat == "cpu_op" and not name.startswith("loraprof::") else ""


def split(
    low: int, high: int, gpu: list[Gpu], calls: dict[int, tuple[int, int, int]],
    host: list[tuple[int, int, int, str]], main: int, tau: int,
) -> Counter[object]:  # fmt: skip
    out: Counter[object] = Counter()
    recs = [g for g in gpu if g.start < high and g.end > low]
    cuts = sorted({low, high, *(c for g in recs for c in (max(g.start, low), min(g.end, high)))})
    gaps: list[list[int]] = []
    for a, b in pairwise(cuts):
        active = [g for g in recs if g.start <= a and g.end >= b]
        if not active:
            if gaps and gaps[-1][1] == a:
                gaps[-1][1] = b
            else:
                gaps.append([a, b])
            continue
        top = min((g.cls for g in active), key=ORDER.index)
        out[top] += b - a
        for under in {g.cls for g in active} - {top}:
            out[top, under] += b - a
    for x, y in gaps:
        ender = min((g.correlation for g in gpu if g.start == y), default=None)
        if ender is None or ender not in calls or calls[ender][0] >= y:
            out["unknown"] += y - x
            continue
        called, returned, thread = calls[ender]
        if called <= x:
            out["turnaround"] += min(tau, y - x)
            out["queued"] += y - x - min(tau, y - x)
            continue
        for cause, spent in _host(x, called, thread, host, main).items():
            out[cause] += spent
        out["launch_api"] += min(returned, y) - called
        out["launch_latency"] += y - min(returned, y)
    return out


def _host(x: int, h: int, thread: int, host: list[tuple[int, int, int, str]], main: int) -> Counter[str]:
    near = [r for r in host if r[1] < h and r[2] > x and r[0] in (thread, main)]
    cuts = sorted({x, h, *(c for _, s, t, _ in near for c in (s, t) if x < c < h)})
    out: Counter[str] = Counter()
    for a, b in pairwise(cuts):
        for attribution in (thread, main):
            covering = {state for t, s, e, state in near if t == attribution and s <= a and e >= b}
            if covering:
                break
        out[min(covering, key=STATES.index) if covering else "python"] += b - a
    return out
