"""What does a profiler trace say? From a file to a Trace.

Formats: Kineto's C++ exporter (``output_json.cpp``), torch's Python exporter (``_chrome_trace_export.py``), files
re-serialised by others, and the categories of 2021. Events may come in any order; flows, instants, metadata,
``gpu_user_annotation`` and synchronisation rows are not work and are dropped. This file and ``events.py`` are the
only ones that know how Kineto spells its keys and categories.
"""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import compress
from typing import Any, BinaryIO, Final

import msgspec

from loraprof.errors import InputError
from loraprof.model.trace import Collective, DeviceFacts, Group, Int64, Trace
from loraprof.model.vocabulary import HostKind
from loraprof.store.checks import check_trace
from loraprof.store.kineto.assemble import Facts, Rows, assemble
from loraprof.store.kineto.columns import Column, int32, int64
from loraprof.store.kineto.events import (
    ACCELERATOR,
    DEVICE_CODES,
    HOST_CODES,
    NO_TEXT,
    NOT_WORK,
    Args,
    Batch,
    Event,
    decode,
)
from loraprof.store.kineto.feed import UNREADABLE, Feed, Inflated, repaired
from loraprof.store.kineto.nanoseconds import LIMIT_NS
from loraprof.store.kineto.other_formats import HEAD_BYTES, foreign, without_events
from loraprof.store.places import RemotePath, place_of

READ: Final = ("deviceProperties", "distributedInfo", "baseTimeNanoseconds")  # the other values are passed over
MOST_KEYS: Final = 10_000
UNKNOWN_BYTES: Final = 8 << 20  # without one event of a known category: not a profiler's file
_ANYTHING = msgspec.json.Decoder(msgspec.Raw)


def read_trace(path: str | os.PathLike[str] | RemotePath) -> Trace:
    """Read one rank's trace, ``.json`` or gzip (recognised by content), here or behind a URL. Raises InputError."""
    place = place_of(path)
    name = str(place)
    try:
        with place.open("rb") as stream:
            return read_stream(stream, name)
    except FileNotFoundError:
        raise InputError(f"{name}: no such file", "give a profiler trace (.json, .json.gz)") from None
    except IsADirectoryError:
        raise InputError(f"{name}: is a directory", "give the trace file inside it") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{name}: cannot be read, {why}", "check the path and its permissions") from error


def read_stream(stream: BinaryIO, name: str) -> Trace:
    """Read a trace from an open binary file; ``name`` is what errors call it. Raises InputError."""
    try:
        with _without_gc(), Inflated(stream, name) as text:
            return _read(Feed(text, name))
    except (RecursionError, MemoryError) as error:
        raise InputError(f"{name}: {type(error).__name__} while reading it", "is it a profiler trace?") from error


@contextmanager
def _without_gc() -> Iterator[None]:
    """Cyclic collection would walk every decoded event and doubles the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read(feed: Feed) -> Trace:
    rows, values, found_events = Rows(), dict[str, Any](), False
    if feed.peek() == b"":
        raise InputError(f"{feed.name}: the file is empty", "record it again")
    if feed.buf[feed.pos : feed.pos + 3] == b"\xef\xbb\xbf":
        feed.pos += 3
    if (first := feed.peek()) == b"[":
        _read_events(feed, rows)
        found_events = True
    elif first == b"{":
        for key in keys(feed):
            if key == "traceEvents" and feed.peek() == b"[":
                _read_events(feed, rows)
                found_events = True
            elif known := without_events(feed.name, {*values, key}, values.get("schema")):
                raise known  # before a list of nodes of any length
            else:
                values[key] = _value(feed, msgspec.json.decode if key in READ else _ANYTHING.decode)
    else:
        raise foreign(feed.name, feed.buf[feed.pos : feed.pos + HEAD_BYTES]) or feed.fail("not JSON")
    if feed.peek():
        raise feed.fail("text after the end of the JSON")
    if not found_events:
        what = f"{feed.name}: JSON without traceEvents, not a profiler trace"
        raise InputError(what, "export_chrome_trace writes one")
    if not rows.known:
        raise _no_events(feed, rows)
    trace = assemble(rows, _facts(values))
    if (problem := check_trace(trace)) is not None:
        raise InputError(f"{feed.name}: {problem}", "is it a profiler trace?")
    return trace


def keys(feed: Feed) -> Iterator[str]:
    """The keys of the object that starts here; the caller consumes each value before the next key."""
    feed.expect(b"{")
    for _ in range(MOST_KEYS):
        if feed.peek() == b"}":
            break
        if feed.peek() != b'"':
            raise feed.fail("not JSON: a key expected") if feed.peek() else feed.truncated()
        key = _value(feed)
        feed.expect(b":")
        yield key
        if feed.peek() == b",":
            feed.pos += 1
        elif feed.peek() != b"}":
            raise feed.fail("not JSON: ',' or '}' expected") if feed.peek() else feed.truncated()
    else:
        raise feed.fail(f"more than {MOST_KEYS:,} top-level values, not a profiler trace")
    feed.pos += 1


def _value(feed: Feed, decode: Callable[[bytes], Any] = msgspec.json.decode) -> Any:
    text = feed.value()
    try:
        return decode(text)
    except UNREADABLE:
        try:
            return decode(repaired(text))
        except UNREADABLE as error:
            raise feed.fail("invalid JSON before here") from error


def _read_events(feed: Feed, rows: Rows) -> None:
    for batches in feed.items(decode):
        for batch in batches or ():
            _add(rows, batch)
        if not rows.known and (batches is None or feed.bytes_read > UNKNOWN_BYTES):
            raise _no_events(feed, rows)


def _no_events(feed: Feed, rows: Rows) -> InputError:
    seen = f"; categories found: {', '.join(sorted(rows.unknown)[:5])}" if rows.unknown else ""
    return InputError(f"{feed.name}: holds no profiler events{seen}", "export_chrome_trace writes them")


def _add(rows: Rows, batch: Batch) -> None:
    """Check the times of a batch and append it to its table."""
    on_device = batch.cat in DEVICE_CODES
    if not on_device and batch.cat not in HOST_CODES:
        if batch.cat in NOT_WORK:
            rows.known = True
        else:
            rows.unknown[batch.cat or "(none)"] += len(batch.events)
            if ACCELERATOR.search(batch.cat) or any(map(_on_stream, batch.events)):
                rows.unread.add(batch.cat or "(none)")
        return
    rows.known = True
    use = rows.usable(batch.start, batch.dur, batch.status, on_device)
    events, start, dur = batch.events, batch.start, batch.dur
    if not use.all():
        events, start, dur = list(compress(events, use)), start[use], dur[use]
    if events:
        append = _add_device if on_device else _add_host
        append(rows, batch.cat, events, start, start + dur)


def _on_stream(event: Event) -> bool:
    """Whether an event of an unknown category is launched, or runs on a device."""
    args = event.args
    return args.correlation != -1 or args.device is not None or args.stream is not None


def _add_host(rows: Rows, cat: str, events: list[Event], start: Int64, end: Int64) -> None:
    names, threads, shapes, collectives = rows.names, rows.threads, rows.shapes, rows.collectives
    code = HOST_CODES[cat]
    kind = code // 16
    args = [e.args for e in events]
    optional = ("correlation", "sequence", "fwd_thread", "shapes", "collective")
    columns: dict[str, Column | int] = dict.fromkeys(optional, -1)
    if kind == HostKind.RUNTIME:
        columns["correlation"] = int64([a.correlation for a in args])
    elif kind in (HostKind.OP, HostKind.ANNOTATION):
        columns["sequence"] = int64([a.sequence for a in args])
        columns["fwd_thread"] = int64([a.fwd_thread for a in args])
        columns["shapes"] = int32(
            [-1 if a.dims is NO_TEXT and a.moved_gb is None else shapes[_inputs(a)] for a in args]
        )
        columns["collective"] = int32([-1 if a.collective is None else collectives[_collective(a)] for a in args])
    rows.host.add(
        len(events),
        start=start,
        end=end,
        code=code,
        name=int32([names[e.name] for e in events]),
        thread=int32([threads[e.pid, e.tid] for e in events]),
        **columns,
    )


def _inputs(args: Args) -> bytes:
    """As ``Rows.shapes`` has them: one text is hashed in half the time of four."""
    texts = args.dims, args.types, args.strides, args.concrete
    if args.moved_gb is None:
        return b",".join(texts)
    counts = _whole(args.moved_gb, 1e9), _whole(args.flops, 1)
    return b",".join((*texts, *map(msgspec.json.encode, counts)))


def _whole(value: Any, scale: float) -> int | None:
    """A count given as a number, or as the text of one."""
    try:
        number = float(value) * scale
    except (TypeError, ValueError, OverflowError):
        return None
    return round(number) if 0 <= number <= LIMIT_NS else None


def _add_device(rows: Rows, cat: str, events: list[Event], start: Int64, end: Int64) -> None:
    names, collectives = rows.names, rows.collectives
    args = [e.args for e in events]
    rows.device.add(
        len(events),
        start=start,
        end=end,
        code=DEVICE_CODES[cat],
        name=int32([names[e.name] for e in events]),
        device=int32([e.pid if e.args.device is None else e.args.device for e in events]),
        stream=int64([e.tid if e.args.stream is None else e.args.stream for e in events]),
        correlation=int64([a.correlation for a in args]),
        graph_node=int64([a.graph_node for a in args]),
        bytes=int64([a.bytes for a in args]),
        blocks=int64([rows.volumes[bytes(a.grid)] for a in args]),
        threads=int32([rows.volumes[bytes(a.block)] for a in args]),
        collective=int32([-1 if a.collective is None else collectives[_collective(a)] for a in args]),
    )


def _collective(args: Args) -> Collective:
    return Collective(
        name=_text(args.collective),
        dtype=_text(args.dtype),
        in_elements=_natural(args.in_elements),
        out_elements=_natural(args.out_elements),
        group_size=_natural(args.group_size),
        group=_text(args.group),
        sequence=_integer(args.collective_sequence),
    )


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _facts(values: dict[str, Any]) -> Facts:
    """What the other top-level keys say; anything of the wrong type counts as not said."""
    listed, ranks = values.get("deviceProperties"), values.get("distributedInfo")
    properties = [p for p in listed if isinstance(p, dict)] if isinstance(listed, list) else []
    info = ranks if isinstance(ranks, dict) else {}
    gpus = {gpu.index: gpu for gpu in map(_gpu, properties) if gpu is not None}
    amd = any(word in gpu.name for gpu in gpus.values() for word in ("AMD", "Instinct", "Radeon"))
    return Facts(
        gpus=tuple(gpus[index] for index in sorted(gpus)),
        base_ns=_count(values, "baseTimeNanoseconds"),
        rank=_count(info, "rank"),
        world_size=_count(info, "world_size"),
        groups=_groups(info.get("pg_config")),
        rocm=amd or any(key.startswith(("hip_", "roctracer", "rocprof")) for key in values),
    )


def _groups(listed: Any) -> tuple[Group, ...]:
    out = []
    for entry in listed if isinstance(listed, list) else []:
        size = _count(entry, "pg_size") if isinstance(entry, dict) else None
        if size is None:
            continue
        ranks = entry.get("ranks")
        known = isinstance(ranks, list) and len(ranks) == size and all(_natural(rank) is not None for rank in ranks)
        out.append(Group(_text(entry.get("pg_name")), size, tuple(ranks) if known else ()))
    return tuple(out)


def _gpu(entry: dict[str, Any]) -> DeviceFacts | None:
    index, sms = _count(entry, "id"), _count(entry, "numSms")
    major, minor = _count(entry, "computeMajor"), _count(entry, "computeMinor")
    if index is None:
        return None
    per_sm = _count(entry, "maxThreadsPerMultiprocessor")
    if sms is None and per_sm is not None and per_sm < 1024:  # the Python exporter writes the SM count there
        sms = per_sm
    return DeviceFacts(
        index=index,
        name=_text(entry.get("name")),
        memory_bytes=_count(entry, "totalGlobalMem"),
        sms=sms or None,
        capability=None if major is None or minor is None else (major, minor),
    )


def _count(entry: dict[str, Any], key: str) -> int | None:
    return _natural(entry.get(key))


def _natural(value: Any) -> int | None:
    number = _integer(value)
    return number if number is not None and number >= 0 else None


def _integer(value: Any) -> int | None:
    return value if type(value) is int and -LIMIT_NS <= value <= LIMIT_NS else None
