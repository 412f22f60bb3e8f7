"""How the machine's records are spelled in a Kineto trace (C++ exporter)."""

from collections.abc import Iterable

from builders import Document, us

PID = 1000


def host_event(cat: str, name: str, thread: int, start: int, end: int, args: Document) -> Document:
    pid = -1 if cat == "overhead" else PID
    return _event(cat, name, pid, thread, start, end, args)


def device_event(cat: str, name: str, stream: int, correlation: int, start: int, end: int, args: Document) -> Document:
    args = {"device": 0, "context": 1, "stream": stream, "correlation": correlation, **args}
    if cat == "kernel":
        args |= {"grid": [64, 1, 1], "block": [128, 1, 1], "registers per thread": 32, "shared memory": 0}
    return _event(cat, name, 0, stream, start, end, args)


def _event(cat: str, name: str, pid: int, tid: int, start: int, end: int, args: Document) -> Document:
    times = {"ts": us(start), "dur": us(end - start)}
    return {"ph": "X", "cat": cat, "name": name, "pid": pid, "tid": tid, **times, "args": args}


def head(rocm: bool = False) -> Document:
    """Everything of a document but its events."""
    gpu = {"id": 0, "name": "Synthetic GPU", "totalGlobalMem": 80 << 30, "computeMajor": 9, "computeMinor": 0}
    gpu |= {"maxThreadsPerBlock": 1024, "warpSize": 64 if rocm else 32, "numSms": 100}
    return {
        "schemaVersion": 1,
        "displayTimeUnit": "ms",
        "baseTimeNanoseconds": 0,
        "deviceProperties": [gpu],
        "traceName": "synthetic.json",
    }


def document(events: Iterable[Document], rocm: bool = False) -> Document:
    rows = list(events)
    end = max((e["ts"] + e["dur"] for e in rows), default=us(0))
    closing = {"ph": "i", "s": "g", "name": "Record Window End", "pid": "", "tid": "", "ts": end}
    return {**head(rocm), "traceEvents": [*rows, closing]}
