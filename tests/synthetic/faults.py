"""What can be wrong with a trace: small functions from a decoded document to a faulty one. Arguments are kept."""

import random
from collections.abc import Callable
from decimal import Decimal

from builders import Document

Test = Callable[[Document], bool]
GPU = ("kernel", "gpu_memcpy", "gpu_memset")
LEGACY = {
    "cpu_op": "Operator", "user_annotation": "Operator", "cuda_runtime": "Runtime",
    "kernel": "Kernel", "gpu_memcpy": "Memcpy", "gpu_memset": "Memset",
}  # fmt: skip


def on_gpu(event: Document) -> bool:
    return event.get("cat") in GPU


def is_launch(event: Document) -> bool:
    name = event["name"]
    return event.get("cat") == "cuda_runtime" and ("Launch" in name or name.endswith("Async"))


def correlation(event: Document) -> int:
    return int(event["args"]["correlation"])


def events(document: Document) -> list[Document]:
    """The complete events."""
    return [e for e in document["traceEvents"] if e["ph"] == "X"]


def gpu_events(document: Document) -> list[Document]:
    """Device records in order of start."""
    return sorted((e for e in events(document) if on_gpu(e)), key=lambda e: (e["ts"], correlation(e)))


def launch_of(document: Document, record: Document) -> Document:
    wanted = correlation(record)
    return next(e for e in events(document) if e["cat"] == "cuda_runtime" and correlation(e) == wanted)


def with_events(document: Document, rows: list[Document]) -> Document:
    return {**document, "traceEvents": rows}


def mapped(document: Document, change: Callable[[Document], Document]) -> Document:
    return with_events(document, [change(e) for e in document["traceEvents"]])


def without(document: Document, *gone: Document) -> Document:
    ids = {id(e) for e in gone}
    return with_events(document, [e for e in document["traceEvents"] if id(e) not in ids])


def swapped(document: Document, old: Document, **new: object) -> Document:
    """``old`` with other fields."""
    return mapped(document, lambda e: {**e, **new} if e is old else e)


def plus(document: Document, *more: Document) -> Document:
    return with_events(document, [*document["traceEvents"], *more])


def shuffled(document: Document, seed: int = 0) -> Document:
    rows = list(document["traceEvents"])
    random.Random(seed).shuffle(rows)
    return with_events(document, rows)


def whole_microseconds(document: Document) -> Document:
    """Starts and ends rounded down, as files of 2021 have them."""

    def change(event: Document) -> Document:
        start = event["ts"] // 1
        if "dur" not in event:
            return {**event, "ts": int(start)}
        return {**event, "ts": int(start), "dur": int((event["ts"] + event["dur"]) // 1 - start)}

    return mapped(document, change)


def zero_timestamps(document: Document, count: int) -> Document:
    """CUPTI ran out of buffers: start = end = 0."""
    hit = {id(e) for e in gpu_events(document)[5 : 5 + count]}
    return mapped(document, lambda e: {**e, "ts": Decimal(0), "dur": Decimal(0)} if id(e) in hit else e)


def opened_at(document: Document, time: Decimal) -> Document:
    """Recording that starts late: what starts before ``time`` was never written."""
    return with_events(document, [e for e in document["traceEvents"] if e["ts"] >= time])


def legacy(document: Document) -> Document:
    return mapped(document, lambda e: {**e, "cat": LEGACY.get(e["cat"], e["cat"])} if "cat" in e else e)


def sparse(document: Document) -> Document:
    """Only what a trace cannot do without."""
    optional = {"External id", "context", "cbid", "grid", "block", "registers per thread", "shared memory"}

    def change(event: Document) -> Document:
        args = {k: v for k, v in event.get("args", {}).items() if k not in optional}
        return {**event, "args": args} if "args" in event else event

    return {"traceEvents": [change(e) for e in document["traceEvents"] if e["ph"] == "X"]}


def decorated(document: Document) -> Document:
    """Flow arrows, GPU annotations, memory instants, frames, sync rows: records that are no work."""
    extra: list[Document] = []
    calls = {correlation(e): e for e in events(document) if e["cat"] == "cuda_runtime"}
    for record in gpu_events(document):
        number = correlation(record)
        launch = calls[number]
        place = {"cat": "ac2g", "name": "ac2g", "id": number}
        extra.append({"ph": "s", **place, **{k: launch[k] for k in ("pid", "tid", "ts")}})
        extra.append({"ph": "f", **place, "bp": "e", **{k: record[k] for k in ("pid", "tid", "ts")}})
        extra.append({**record, "cat": "gpu_user_annotation", "name": "forward", "args": {}})
        extra.append({**record, "cat": "cuda_sync", "name": "Stream Synchronize"})
        memory = {"ph": "i", "s": "t", "cat": "cpu_instant_event", "name": "[memory]", "args": {"Bytes": 512}}
        extra.append({**memory, **{k: launch[k] for k in ("pid", "tid", "ts")}})
    for launch in filter(is_launch, events(document)):
        frame = {"Python id": correlation(launch)}
        extra.append({**launch, "cat": "python_function", "name": "train.py(1): step", "args": frame})
        extra.append({**launch, "cat": "user_annotation", "name": "my range", "args": {}})
    extra.append({"ph": "M", "name": "process_name", "pid": 1000, "tid": 0, "ts": 0, "args": {"name": "python"}})
    return plus(document, *extra)


def hostile_names(document: Document) -> Document:
    """Quotes, backslashes, braces and letters beyond ASCII in every kernel's name."""
    text = 'void "k<é漢, \\"}, {\\">(float*) \u2028 \\\\'
    return mapped(document, lambda e: {**e, "name": text + e["name"]} if e.get("cat") == "kernel" else e)
