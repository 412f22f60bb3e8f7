"""Hand-made traces of a few events, as ``Trace`` tables or as Kineto JSON.

    trace_of(
        host=[op("aten::mm", 0, 900), note("ProfilerStep#0", 0, 5000)],
        device=[kernel(1000, 3000, launch=(0, 500)), comm(2500, 4000, launch=(600, 900), stream=20)],
    )

Times are integer ns. ``launch=(L0, L1)`` adds the launch call and gives both records the next free correlation,
so a table of a document can be copied line by line. Nothing is inferred or checked: broken traces can be built.
"""

import gzip
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from loraprof.model.trace import DeviceFacts, DeviceTable, HostTable, Trace
from loraprof.model.vocabulary import MARKER_PREFIX, DeviceKind, HostKind

Document = dict[str, Any]  # decoded Kineto JSON; times are Decimal microseconds

HOST_CATEGORIES = {
    HostKind.OP: "cpu_op",
    HostKind.ANNOTATION: "user_annotation",
    HostKind.PYTHON: "python_function",
    HostKind.RUNTIME: "cuda_runtime",
    HostKind.OVERHEAD: "overhead",
    HostKind.MARKER: "cpu_op",
}
DEVICE_CATEGORIES = {DeviceKind.KERNEL: "kernel", DeviceKind.MEMCPY: "gpu_memcpy", DeviceKind.MEMSET: "gpu_memset"}
LAUNCH_NAMES = {
    DeviceKind.KERNEL: "cudaLaunchKernel",
    DeviceKind.MEMCPY: "cudaMemcpyAsync",
    DeviceKind.MEMSET: "cudaMemsetAsync",
}


@dataclass(frozen=True, slots=True)
class Host:
    """One record of a host thread."""

    kind: HostKind
    name: str
    start: int
    end: int
    thread: int = 1
    correlation: int = -1
    sequence: int = -1
    fwd_thread: int = -1


@dataclass(frozen=True, slots=True)
class Device:
    """One record of a stream; ``launch`` is its launch call on ``thread``, ``None`` if the file lost it."""

    kind: DeviceKind
    name: str
    start: int
    end: int
    launch: tuple[int, int] | None = None
    thread: int = 1
    stream: int = 7
    device: int = 0
    correlation: int = -1
    bytes: int = -1
    graph_node: int = -1


def op(name: str, start: int, end: int, thread: int = 1, sequence: int = -1, fwd_thread: int | None = None) -> Host:
    """A cpu_op; with a sequence number it is a forward op unless ``fwd_thread`` says otherwise."""
    forward = 0 if sequence >= 0 else -1
    return Host(HostKind.OP, name, start, end, thread, -1, sequence, forward if fwd_thread is None else fwd_thread)


def note(name: str, start: int, end: int, thread: int = 1) -> Host:
    return Host(HostKind.ANNOTATION, name, start, end, thread)


def step(index: int, start: int, end: int, thread: int = 1) -> Host:
    return note(f"ProfilerStep#{index}", start, end, thread)


def marker(text: str, start: int, end: int, thread: int = 1) -> Host:
    """loraprof's own range: ``marker("m3", ...)`` opens module 3."""
    return Host(HostKind.MARKER, MARKER_PREFIX + text, start, end, thread)


def call(name: str, start: int, end: int, thread: int = 1, correlation: int = -1) -> Host:
    """A runtime call: ``call("cudaStreamSynchronize", ...)``."""
    return Host(HostKind.RUNTIME, name, start, end, thread, correlation)


def overhead(name: str, start: int, end: int, thread: int = 1) -> Host:
    return Host(HostKind.OVERHEAD, name, start, end, thread)


def kernel(start: int, end: int, launch: tuple[int, int] | None = None, name: str = "gemm", **more: Any) -> Device:
    return Device(DeviceKind.KERNEL, name, start, end, launch, **more)


def comm(start: int, end: int, launch: tuple[int, int] | None = None, **more: Any) -> Device:
    return kernel(start, end, launch, "ncclDevKernel_AllReduce_Sum_bf16_RING_LL", **more)


def copy(start: int, end: int, launch: tuple[int, int] | None = None, name: str = "HtoD", **more: Any) -> Device:
    return Device(DeviceKind.MEMCPY, f"Memcpy {name}", start, end, launch, **more)


def memset(start: int, end: int, launch: tuple[int, int] | None = None, **more: Any) -> Device:
    return Device(DeviceKind.MEMSET, "Memset (Device)", start, end, launch, **more)


def joined(host: Iterable[Host], device: Iterable[Device]) -> tuple[list[Host], list[Device]]:
    """Adds the launch calls and numbers the records that have no correlation, in the order given."""
    calls, records = list(host), list(device)
    taken = {c.correlation for c in calls} | {r.correlation for r in records}
    free = (n for n in itertools.count(1) if n not in taken)
    for i, record in enumerate(records):
        records[i] = record = record if record.correlation >= 0 else replace(record, correlation=next(free))
        if record.launch:
            calls.append(call(LAUNCH_NAMES[record.kind], *record.launch, record.thread, record.correlation))
    return calls, records


def trace_of(host: Sequence[Host] = (), device: Sequence[Device] = (), rocm: bool = False) -> Trace:
    """The tables as ``read_trace`` would make them, in its order."""
    calls, records = joined(host, device)
    names = tuple(sorted({c.name for c in calls} | {r.name for r in records}))
    threads = tuple(sorted({c.thread for c in calls}))
    calls.sort(key=lambda c: (c.thread, c.start, -c.end, c.kind, c.name))
    records.sort(key=lambda r: (r.start, r.device, r.stream, r.correlation, r.end, r.name))
    number = {name: i for i, name in enumerate(names)}
    nothing = np.full(len(calls), -1, np.int32)
    host_table = HostTable(
        start=_int64([c.start for c in calls]),
        end=_int64([c.end for c in calls]),
        kind=np.array([c.kind for c in calls], np.int8),
        name=np.array([number[c.name] for c in calls], np.int32),
        thread=np.array([threads.index(c.thread) for c in calls], np.int32),
        correlation=_int64([c.correlation for c in calls]),
        sequence=_int64([c.sequence for c in calls]),
        fwd_thread=_int64([c.fwd_thread for c in calls]),
        shapes=nothing,
        collective=nothing,
    )
    nothing = np.full(len(records), -1, np.int32)
    device_table = DeviceTable(
        start=_int64([r.start for r in records]),
        end=_int64([r.end for r in records]),
        kind=np.array([r.kind for r in records], np.int8),
        name=np.array([number[r.name] for r in records], np.int32),
        device=np.array([r.device for r in records], np.int32),
        stream=_int64([r.stream for r in records]),
        correlation=_int64([r.correlation for r in records]),
        graph_node=_int64([r.graph_node for r in records]),
        bytes=_int64([r.bytes for r in records]),
        blocks=nothing.astype(np.int64),
        threads=nothing,
        collective=nothing,
    )
    gpus = tuple(DeviceFacts(i, "Synthetic GPU", sms=100) for i in sorted({r.device for r in records}))
    ids = tuple(("1", str(t)) for t in threads)
    return Trace(names, ids, (), (), host_table, device_table, gpus, 0, rocm=rocm)


def _int64(values: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, np.int64)


def us(ns: int) -> Decimal:
    """Nanoseconds as Kineto prints them: microseconds with three decimals."""
    return Decimal(ns).scaleb(-3)


def json_of(host: Sequence[Host] = (), device: Sequence[Device] = ()) -> Document:
    """The same as a decoded Kineto document."""
    calls, records = joined(host, device)
    events = [_host_event(c) for c in calls] + [_device_event(r) for r in records]
    gpus = sorted({r.device for r in records})
    return {
        "schemaVersion": 1,
        "displayTimeUnit": "ms",
        "baseTimeNanoseconds": 0,
        "deviceProperties": [{"id": i, "name": "Synthetic GPU", "numSms": 100} for i in gpus],
        "traceEvents": events,
    }


def _host_event(c: Host) -> Document:
    given = {"correlation": c.correlation, "Sequence number": c.sequence, "Fwd thread id": c.fwd_thread}
    args = {key: value for key, value in given.items() if value >= 0}
    cat, pid = HOST_CATEGORIES[c.kind], -1 if c.kind == HostKind.OVERHEAD else 1
    return _event(cat, c.name, (pid, c.thread), c.start, c.end, args)


def _device_event(r: Device) -> Document:
    args = {"device": r.device, "context": 1, "stream": r.stream, "correlation": r.correlation}
    if r.bytes >= 0:
        args["bytes"] = r.bytes
    if r.graph_node >= 0:
        args["graph node id"] = r.graph_node
    return _event(DEVICE_CATEGORIES[r.kind], r.name, (r.device, r.stream), r.start, r.end, args)


def _event(cat: str, name: str, row: tuple[int, int], start: int, end: int, args: Document) -> Document:
    times = {"ts": us(start), "dur": us(end - start)}
    return {"ph": "X", "cat": cat, "name": name, "pid": row[0], "tid": row[1], **times, "args": args}


_ENCODER = msgspec.json.Encoder(decimal_format="number")
_DECODER = msgspec.json.Decoder(float_hook=Decimal)


def text_of(document: Document) -> bytes:
    return _ENCODER.encode(document)


def document_of(path: Path) -> Document:
    """A trace file decoded with exact times."""
    data = path.read_bytes()
    document: Document = _DECODER.decode(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    return document


def write(path: Path, document: Document) -> Path:
    """Writes JSON, gzipped when the name says so; equal documents give equal bytes."""
    text = text_of(document)
    path.write_bytes(gzip.compress(text, 1, mtime=0) if path.suffix == ".gz" else text)
    return path
