"""How do a trace's events become rows: numbers in columns, names and shapes counted once?"""

import math
from collections import Counter
from itertools import compress
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import Struct, field

from loraprof.model.trace import Bool, Collective, Int8, Int32, Int64
from loraprof.model.vocabulary import HostKind
from loraprof.store.kineto.columns import Column, Growing, Interner, int32, int64
from loraprof.store.kineto.events import ACCELERATOR, DEVICE_CODES, HOST_CODES, NO_TEXT, NOT_WORK, Args, Batch, Event
from loraprof.store.kineto.facts import integer, natural, text
from loraprof.store.kineto.nanoseconds import LIMIT_NS, MISSING, NOT_FINITE

Thread = tuple[int | str | None, int | str | None]

_HOST: Final[dict[str, type[np.generic]]] = {
    **dict.fromkeys(("start", "end", "correlation", "sequence", "fwd_thread"), np.int64),
    **dict.fromkeys(("name", "thread", "shapes", "collective"), np.int32),
    "code": np.int8,
}
_DEVICE: Final[dict[str, type[np.generic]]] = {
    **dict.fromkeys(("start", "end", "stream", "correlation", "graph_node", "bytes", "blocks"), np.int64),
    **dict.fromkeys(("name", "device", "threads", "collective"), np.int32),
    "code": np.int8,
}

_INTERNED: Final = {"name": "names", "thread": "threads", "shapes": "shapes", "collective": "collectives"}  # by column
_LIST: Final = msgspec.json.Decoder(list[Any])


class Volumes(dict[bytes, int]):
    """Of grids and blocks by their JSON: the product; -1 where it is not a list of counts."""

    def __missing__(self, text: bytes) -> int:
        sides, *_ = parsed(text)
        counts = type(sides) is list and sides and all(type(side) is int and side >= 0 for side in sides)
        volume = self[text] = math.prod(sides) if counts else -1
        return volume


class Rows(Struct):
    """What was read so far, in the order of the file."""

    host: Growing = field(default_factory=lambda: Growing(_HOST))
    device: Growing = field(default_factory=lambda: Growing(_DEVICE))
    names: Interner[str] = field(default_factory=Interner)
    threads: Interner[Thread] = field(default_factory=Interner)
    # Dims, types, strides, concrete inputs as JSON, commas between; bytes and FLOPs where a compiler counted them.
    shapes: Interner[bytes] = field(default_factory=Interner)
    collectives: Interner[Collective] = field(default_factory=Interner)
    volumes: Volumes = field(default_factory=Volumes)
    unknown: Counter[str] = field(default_factory=Counter)
    unread: set[str] = field(default_factory=set)  # unknown categories of an accelerator's records
    faults: Counter[str] = field(default_factory=Counter)
    known: bool = False  # an event of a known category was seen

    def usable(self, start: Int64, dur: Int64, status: Int8 | None, on_device: bool) -> Bool:
        """Which rows have times that can be used; the others are counted, each once."""
        use = np.ones(len(start), np.bool_)
        checks = [("negative_durations", dur < 0), ("not_finite", start > LIMIT_NS - np.maximum(dur, 0))]
        if status is not None:
            checks[:0] = [("missing_ts", status == MISSING), ("not_finite", status == NOT_FINITE)]
        if on_device:
            checks.append(("zero_timestamps", start <= 0))
        for fault, wrong in checks:
            self.faults[fault] += int((wrong & use).sum())
            use &= ~wrong
        return use

    def absorb(self, part: "Rows") -> None:
        """Appends what another process read of the same file; ``part`` is used up."""
        numbers = {column: _renumbered(getattr(self, held), getattr(part, held)) for column, held in _INTERNED.items()}
        for table, read in ((self.host, part.host.take()), (self.device, part.device.take())):
            for column in numbers.keys() & read.keys():
                read[column] = numbers[column][read[column]]
            table.add(len(read["start"]), **read)
        self.unknown.update(part.unknown)
        self.faults.update(part.faults)
        self.unread |= part.unread
        self.known |= part.known


def _renumbered(whole: Interner[Any], part: Interner[Any]) -> Int32:
    """For every number of ``part`` that of the same key in ``whole``; the last entry answers for -1."""
    return np.array([*(whole[key] for key in part), -1], np.int32)


def add(rows: Rows, batch: Batch) -> None:
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
        name=text(args.collective),
        dtype=text(args.dtype),
        in_elements=natural(args.in_elements),
        out_elements=natural(args.out_elements),
        group_size=natural(args.group_size),
        group=text(args.group),
        sequence=integer(args.collective_sequence),
    )


def parsed(texts: bytes) -> list[Any]:
    """Values with commas between; bytes that are not UTF-8 are replaced, ``None`` stands for what cannot be read."""
    try:
        return _LIST.decode(f"[{texts.decode('utf-8', 'replace')}]")
    except msgspec.DecodeError:
        return [None] * 4
