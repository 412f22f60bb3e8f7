"""Which complete events does a piece of ``traceEvents`` hold, by category, with exact times?

The quick way decodes a piece into typed structs and takes its times from float64. Where a time needs its text, or a
field has a type no writer should use, the piece is decoded again the careful way: every event that can be read is.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from loraprof.model.trace import Int8, Int64
from loraprof.model.vocabulary import DeviceKind, HostKind
from loraprof.store.kineto.nanoseconds import NOT_FINITE, OK, fast_ns, text_ns

HOST_CATEGORIES: Final = {
    HostKind.OP: ("cpu_op", "Operator", "operator"),
    HostKind.ANNOTATION: ("user_annotation",),
    HostKind.PYTHON: ("python_function",),
    HostKind.RUNTIME: (
        *("cuda_runtime", "cuda_driver", "runtime", "Runtime", "driver"),
        *("hip_runtime", "hip_driver", "hip", "rocm_runtime", "rocm_driver", "rocm", "xpu_runtime", "xpu_driver"),
    ),
    HostKind.OVERHEAD: ("overhead",),
}
DEVICE_CATEGORIES: Final = {
    DeviceKind.KERNEL: ("kernel", "Kernel"),
    DeviceKind.MEMCPY: ("gpu_memcpy", "Memcpy", "memcpy"),
    DeviceKind.MEMSET: ("gpu_memset", "Memset", "memset"),
}
OWN_CATEGORY: Final = "loraprof"  # the tracks that an export adds
NOT_WORK: Final = frozenset(
    (
        OWN_CATEGORY,
        *("gpu_user_annotation", "cuda_sync", "cuda_event", "cpu_instant_event", "Trace", "ac2g", "fwdbwd", "async"),
        *("async_cpu_to_gpu", "async_gpu", "forward_backward", "external_correlation", "collective_comm"),
        *("cuda_profiler_range", "hardware_counters", "instant"),
    )
)
# Categories of work on accelerators that torch knows and this reader does not.
ACCELERATOR: Final = re.compile(  # no input, no output
    r"(?<![a-z])(xpu|mtia|hpu|npu|tpu|ipu|mlu|gcu|mps|musa|cann|ascend|metal|glow|neuron|xla|privateuse)(?![a-z])"
    "|runtime|driver|kernel",
    re.IGNORECASE,
)
# A row carries 16 kind + i: the categories of one kind stay apart (for duplicates) and sort as their kind does.
HOST_CODES: Final = {c: 16 * kind + i for kind, cats in HOST_CATEGORIES.items() for i, c in enumerate(cats)}
DEVICE_CODES: Final = {c: 16 * kind + i for kind, cats in DEVICE_CATEGORIES.items() for i, c in enumerate(cats)}

SKIPPED: Final = "\0"  # stands for the category of events that are not complete ones
NO_TEXT: Final = msgspec.Raw(b"null")
_NO_TIMES: Final = np.empty(0, np.int64)


class Args(msgspec.Struct, frozen=True, gc=False):
    """The arguments that Trace holds; ``Any``, because a writer's odd type must not cost the whole event."""

    correlation: Any = -1
    device: Any = None
    stream: Any = None
    bytes: Any = -1
    grid: msgspec.Raw = NO_TEXT
    block: msgspec.Raw = NO_TEXT
    dtype: Any = None
    sequence: Any = msgspec.field(name="Sequence number", default=-1)
    fwd_thread: Any = msgspec.field(name="Fwd thread id", default=-1)
    dims: msgspec.Raw = msgspec.field(name="Input Dims", default=NO_TEXT)
    types: msgspec.Raw = msgspec.field(name="Input type", default=NO_TEXT)
    strides: msgspec.Raw = msgspec.field(name="Input Strides", default=NO_TEXT)
    concrete: msgspec.Raw = msgspec.field(name="Concrete Inputs", default=NO_TEXT)
    moved_gb: Any = msgspec.field(name="kernel_num_gb", default=None)
    flops: Any = msgspec.field(name="kernel_flop", default=None)
    graph_node: Any = msgspec.field(name="graph node id", default=-1)
    collective: Any = msgspec.field(name="Collective name", default=None)
    in_elements: Any = msgspec.field(name="In msg nelems", default=None)
    out_elements: Any = msgspec.field(name="Out msg nelems", default=None)
    group_size: Any = msgspec.field(name="Group size", default=None)
    group: Any = msgspec.field(name="Process Group Name", default=None)
    collective_sequence: Any = msgspec.field(name="Seq", default=None)


_NO_ARGS: Final = Args()


class Event(msgspec.Struct, tag_field="ph", tag="X", gc=False):
    """A complete event. ``ts`` and ``dur`` are microseconds."""

    name: str = ""
    cat: str = ""
    pid: int | str | None = None
    tid: int | str | None = None
    ts: int | float | None = None
    dur: int | float = 0
    args: Args = _NO_ARGS


class ExactEvent(Event, tag_field="ph", tag="X", gc=False):
    """The same with times as text, for files where a float64 would not be exact."""

    ts: msgspec.Raw = msgspec.Raw(b"")  # type: ignore[assignment]
    dur: msgspec.Raw = msgspec.Raw(b"0")  # type: ignore[assignment]


def _decoder(event: type[Event]) -> msgspec.json.Decoder[Any]:
    """Decodes complete events; every other phase becomes an empty struct of its own."""
    phases = ("s", "t", "f", "i", "I", "M", "C", "b", "e", "n", "N", "D", "O", "P", "R", "c", "v", "V", "a", "B", "E")
    union: Any = event
    for phase in phases:
        union |= msgspec.defstruct(
            f"Phase_{phase}", [], tag_field="ph", tag=phase, namespace={"cat": SKIPPED}, gc=False
        )
    return msgspec.json.Decoder(list[union])


class _Skipped(msgspec.Struct, gc=False):
    cat: str = SKIPPED


_FAST, _EXACT = _decoder(Event), _decoder(ExactEvent)
_TEXTS = msgspec.json.Decoder(list[msgspec.Raw])
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ARGS = msgspec.json.Decoder(Args)


class Batch(NamedTuple):
    """Events of one category in one piece. ``status`` has one entry per event where one cannot be used."""

    cat: str
    events: list[Event]
    start: Int64
    dur: Int64
    status: Int8 | None


def decode(piece: bytes) -> list[Batch] | None:
    """The complete events of a piece by category; None where no item is an event of any phase.

    Raises DecodeError when it is not JSON.
    """
    events: list[Any]
    try:
        batches = [_timed(cat, es) for cat, es in _by_category(_FAST.decode(piece))]
        if all(batch.status is None for batch in batches):
            return batches
        events = _EXACT.decode(piece)
    except msgspec.ValidationError:
        if b"{" not in piece:
            return None
        events = [event for text in _TEXTS.decode(piece) if (event := _lenient(bytes(text))) is not None]
        if not events:
            return None
    return [_exactly_timed(cat, es) for cat, es in _by_category(events)]


def _by_category(events: list[Any]) -> Iterable[tuple[str, list[Any]]]:
    buckets: defaultdict[str, list[Any]] = defaultdict(list)
    for event in events:
        buckets[event.cat].append(event)
    return ((cat, es) for cat, es in buckets.items() if cat != SKIPPED)


def _timed(cat: str, events: list[Event]) -> Batch:
    if cat not in HOST_CODES and cat not in DEVICE_CODES:
        return Batch(cat, events, _NO_TIMES, _NO_TIMES, None)
    start, dur = fast_ns([e.ts for e in events]), fast_ns([e.dur for e in events])
    if start is None or dur is None:
        return Batch(cat, events, _NO_TIMES, _NO_TIMES, _NO_TIMES.astype(np.int8))
    return Batch(cat, events, start, dur, None)


def _exactly_timed(cat: str, events: list[ExactEvent]) -> Batch:
    start, status = text_ns([bytes(e.ts) for e in events])
    dur, dur_status = text_ns([bytes(e.dur) for e in events])
    status[(status == OK) & (dur_status == NOT_FINITE)] = NOT_FINITE
    return Batch(cat, list(events), start, dur, status)


def _lenient(text: bytes) -> Any:
    """One item of ``traceEvents`` whose fields may have any type; None for what is no event at all."""
    if text[:1] != b"{" or "ph" not in (fields := _FIELDS.decode(text)):
        return None
    if msgspec.json.decode(fields["ph"]) != "X":
        return _Skipped()
    try:
        args = _ARGS.decode(fields["args"]) if "args" in fields else _NO_ARGS
    except msgspec.ValidationError:
        args = _NO_ARGS
    values: dict[str, Any] = {key: _word(fields[key]) for key in ("name", "cat", "pid", "tid") if key in fields}
    values |= {key: fields[key] for key in ("ts", "dur") if key in fields}
    return ExactEvent(**values, args=args)


def _word(text: msgspec.Raw) -> str:
    """A string as it is, anything else as its JSON."""
    raw = bytes(text)
    return str(msgspec.json.decode(raw)) if raw[:1] == b'"' else raw.decode()
