"""Changes to a decoded Kineto document whose effect on the report is known. Each is one small function.

Gap-wise changes take a ``Gap``: idle time ``[low, high)`` of the device and the record and launch call that end it,
found here by a plain sweep over the events, not by the analysis.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

from builders import Document, us
from synthetic.faults import correlation, events, gpu_events, mapped, on_gpu, plus, swapped, with_events

HOST = ("cpu_op", "user_annotation", "cuda_runtime", "cuda_driver", "overhead", "python_function")


def ns(time: Decimal | int) -> int:
    return int(Decimal(time) * 1000)


def begin(event: Document) -> int:
    return ns(event["ts"])


def end(event: Document) -> int:
    return ns(event["ts"]) + ns(event.get("dur", 0))


def on_host(event: Document) -> bool:
    return event.get("cat") in HOST


def is_call(event: Document) -> bool:
    return event.get("cat") in ("cuda_runtime", "cuda_driver")


def moved(event: Document, by: int) -> Document:
    return {**event, "ts": us(begin(event) + by)} if "ts" in event else event


def shifted(document: Document, by: int) -> Document:
    return mapped(document, lambda e: moved(e, by))


def scaled(document: Document, factor: int) -> Document:
    times = ("ts", "dur")
    return mapped(document, lambda e: {**e, **{k: e[k] * factor for k in times if k in e and e["ph"] == "X"}})


def renumbered(document: Document) -> Document:
    """Other process, thread, stream and correlation ids, in the same order."""

    def change(event: Document) -> Document:
        args = dict(event.get("args", {}))
        for key, step in (("correlation", 3), ("stream", 5), ("External id", 7)):
            if isinstance(args.get(key), int) and args[key] >= 0:
                args[key] = args[key] * step + 100
        new = {**event, "args": args} if "args" in event else dict(event)
        if on_host(event):
            new["tid"] = renumbered_thread(event["tid"])
            new["pid"] = event["pid"] if event["pid"] == -1 else event["pid"] + 7000
        elif on_gpu(event) and isinstance(event["tid"], int):
            new["tid"] = event["tid"] * 5 + 100
        return new

    return mapped(document, change)


def renumbered_thread(tid: int | str) -> int | str:
    return tid + 1_000_000 if isinstance(tid, int) else tid


def renamed_kernels(document: Document) -> Document:
    """Compute kernels without their names; those of NCCL and of quantised weights say what they are."""

    def change(event: Document) -> Document:
        plain = event.get("cat") == "kernel" and not event["name"].startswith(("nccl", "kDequantize"))
        return {**event, "name": f"k{correlation(event) % 7}"} if plain else event

    return mapped(document, change)


def split_in_two(document: Document, record: Document) -> Document:
    half = ns(record["dur"]) // 2
    first, second = {**record, "dur": us(half)}, {**record, "dur": us(ns(record["dur"]) - half)}
    return plus(swapped(document, record, **first), moved(second, half))


def delayed(document: Document, record: Document, by: int) -> Document:
    """``record`` and everything that starts later on the device."""
    late = begin(record)
    return mapped(document, lambda e: moved(e, by) if on_gpu(e) and begin(e) >= late else e)


def covered_copy(document: Document, record: Document) -> Document:
    """A copy on a stream of its own, from 1/4 to 3/4 of ``record``, launched with it."""
    quarter = ns(record["dur"]) // 4
    args = {**record["args"], "stream": 99, "bytes": 4096}
    copy = {"cat": "gpu_memcpy", "name": "Memcpy DtoD (Device -> Device)", "tid": 99, "args": args}
    return plus(document, moved({**record, **copy, "dur": us(2 * quarter)}, quarter))


def with_annotations(document: Document) -> Document:
    """Ranges, frames, synchronisation rows and device ranges that say nothing about who did what."""
    rows = events(document)
    more = [{**e, "cat": "user_annotation", "name": "a range", "args": {}} for e in rows if is_call(e)]
    more += [{**e, "cat": "python_function", "name": "train.py(3): f", "args": {}} for e in rows if is_call(e)]
    more += [{**e, "cat": "cuda_sync", "name": "Stream Sync"} for e in rows if on_gpu(e)]
    more += [{**e, "cat": "gpu_user_annotation", "name": "a range", "args": {}} for e in rows if on_gpu(e)]
    return plus(document, *_distinct(more))


def with_overhead(document: Document) -> Document:
    """Profiler overhead over every launch call, carrying its correlation as real files do."""
    calls = [e for e in events(document) if is_call(e)]
    return plus(document, *_distinct([{**e, "cat": "overhead", "name": "Buffer Flush", "pid": -1} for e in calls]))


def _distinct(rows: list[Document]) -> list[Document]:
    seen = {(e["cat"], str(e["tid"]), e["ts"], e["dur"], e["args"].get("correlation")): e for e in rows}
    return list(seen.values())


def opened_at(document: Document, time: int) -> Document:
    """A recording that starts at ``time``: what begins before was never written."""
    return with_events(document, [e for e in document["traceEvents"] if "ts" not in e or begin(e) >= time])


def closed_at(document: Document, time: int) -> Document:
    """A recording that ends at ``time``: what ends after was never written."""
    return with_events(document, [e for e in document["traceEvents"] if "ts" not in e or end(e) <= time])


class Gap(NamedTuple):
    low: int
    high: int
    record: Document
    launch: Document


def gaps(document: Document) -> Iterator[Gap]:
    """Idle stretches of the device whose ending record starts alone and has a launch call, in time order."""
    calls = {correlation(e): e for e in events(document) if is_call(e)}
    records, reach = gpu_events(document), -1
    together = Counter(begin(r) for r in records)
    for record in records:
        start = begin(record)
        if 0 <= reach < start and together[start] == 1 and correlation(record) in calls:
            yield Gap(reach, start, record, calls[correlation(record)])
        reach = max(reach, end(record))


def quiet(document: Document, found: list[Gap]) -> list[tuple[Gap, int]]:
    """Of gaps that hold their launch call, the start of the stretch before it in which its thread changed nothing."""
    edges: defaultdict[object, list[int]] = defaultdict(list)
    for event in filter(on_host, events(document)):
        edges[event["tid"]] += [begin(event), end(event)]
    for times in edges.values():
        times.sort()
    out = []
    for gap in found:
        call, mine = begin(gap.launch), edges[gap.launch["tid"]]
        if gap.low < call and end(gap.launch) <= gap.high:
            out.append((gap, max(gap.low, mine[bisect_left(mine, call) - 1])))
    return out


def lengthened(document: Document, call: Document, by: int) -> Document:
    return swapped(document, call, dur=us(ns(call["dur"]) + by))


def synchronised(document: Document, gap: Gap, low: int, high: int) -> Document:
    """A synchronising call on the launching thread over ``[low, high)``."""
    args = {"correlation": 900_000_000, "cbid": 131}
    call = {**gap.launch, "name": "cudaStreamSynchronize", "ts": us(low), "dur": us(high - low), "args": args}
    return plus(document, call)


def reordered_steps(document: Document, edges: list[int], order: list[int]) -> Document:
    """The stretches between ``edges`` in another order; what lies before the first or after the last edge stays."""
    shift, at = {}, edges[0]
    for i in order:
        shift[i] = at - edges[i]
        at += edges[i + 1] - edges[i]

    def change(event: Document) -> Document:
        place = sum(begin(event) >= edge for edge in edges) - 1
        return moved(event, shift[place]) if event["ph"] == "X" and place in shift else event

    return mapped(document, change)
