"""How do the rows of a file become a Trace: sorted, without duplicates, the same for any order of events?"""

import math
import re
from collections import Counter
from typing import Any, Final

import numpy as np

from loraprof.model.trace import (
    DeviceTable,
    Faults,
    HostTable,
    Int32,
    Int64,
    Shapes,
    Trace,
    distinct,
)
from loraprof.model.vocabulary import MARKER_PREFIX, HostKind
from loraprof.store.kineto.columns import Column, Interner, equal_to_previous, ranked, sort_rows
from loraprof.store.kineto.facts import Facts
from loraprof.store.kineto.nanoseconds import LIMIT_NS
from loraprof.store.kineto.rows import Rows, Thread, parsed

# Ranges written as ops: the first three in files of 2021, the others by torch.compile, at run time and at work.
_RANGES: Final = re.compile(
    r"^(ProfilerStep#|Optimizer\.|enumerate\(DataLoader\)#"
    r"|TorchDynamo Cache Lookup|Torch-Compiled Region|Pregraph bytecode|AOTDispatcher )"
    r"|^(dynamo|entire_frame_compile|inductor_compile)$|\(dynamo_timed\)$"
)
_SAID: Final = {
    "zero_timestamps": "{} device records have no start or no duration and were left out",
    "missing_ts": "{} events have no time and were left out",
    "negative_durations": "{} events end before they start and were left out",
    "not_finite": "{} events have a time that is not a number or too large, and were left out",
    "duplicates": "{} events are exact copies of another and were counted once",
}


def assemble(rows: Rows, facts: Facts) -> Trace:
    """The Trace of all rows. Equal sets of rows give equal traces."""
    host, device = rows.host.take(), rows.device.take()
    host["thread"] = _home_threads(rows.threads, host)[host["thread"]]
    names, name_rank = ranked(rows.names, str, [host["name"], device["name"]], str)
    threads, thread_rank = ranked(rows.threads, _thread, [host["thread"]], lambda pair: pair)
    shapes, shape_rank = ranked(rows.shapes, _shapes, [host["shapes"]], repr)
    used = [host["collective"], device["collective"]]
    collectives, collective_rank = ranked(rows.collectives, lambda c: c, used, repr)
    host["thread"] = thread_rank[host["thread"]]
    host["shapes"] = shape_rank[host["shapes"]]
    for table in (host, device):
        table["name"] = name_rank[table["name"]]
        table["collective"] = collective_rank[table["collective"]]
    host_table, host_copies = _host_table(host, names)
    device_table, device_copies = _device_table(device)
    device_table, empty, untimed = _without_empty(device_table, host_table)
    counted = {"duplicates": host_copies + device_copies, "unknown_categories": rows.unknown.total()}
    faults = Faults(**rows.faults | counted | {"zero_timestamps": rows.faults["zero_timestamps"] + untimed})
    calls = distinct(host_table.name[host_table.kind == HostKind.RUNTIME])
    return Trace(
        names=names,
        threads=threads,
        shapes=shapes,
        collectives=collectives,
        host=host_table,
        device=device_table,
        gpus=facts.gpus,
        base_ns=facts.base_ns,
        rank=facts.rank,
        world_size=facts.world_size,
        groups=facts.groups,
        rocm=facts.rocm or any(names[call].startswith("hip") for call in calls),
        has_shapes=bool(shapes),
        faults=faults,
        unread=tuple(sorted(rows.unread)),
        notes=_notes(faults, rows.unknown, empty),
    )


def _notes(faults: Faults, unknown: Counter[str], empty: int) -> tuple[str, ...]:
    lines = [line.format(getattr(faults, name)) for name, line in _SAID.items() if getattr(faults, name)]
    if empty:
        lines.append(f"times are whole microseconds: {empty} device records shorter than one count with no time")
    if unknown:
        named = [f"{cat} ({count})" for cat, count in sorted(unknown.items())]
        more = ["..."] if len(named) > 8 else []
        lines.append(f"events of unknown categories were left out: {', '.join(named[:8] + more)}")
    return tuple(lines)


def _thread(key: Thread) -> tuple[str, str]:
    pid, tid = ("" if part is None else str(part) for part in key)
    return pid, tid


def _home_threads(interner: Interner[Thread], host: dict[str, Column]) -> Int32:
    """For every thread the one it stands for: profiler overhead is written with process -1.

    It belongs to the thread of that id in the main process (the one with most records), else to the only
    thread of that id, else to itself.
    """
    overhead = host["code"] // 16 == HostKind.OVERHEAD
    counts = np.bincount(host["thread"][~overhead], minlength=len(interner))
    per_process: Counter[str] = Counter()
    homes: dict[str, dict[str, int]] = {}  # tid -> pid -> number
    for key, number in interner.items():
        pid, tid = _thread(key)
        if pid != "-1" and counts[number]:
            per_process[pid] += int(counts[number])
            homes.setdefault(tid, {})[pid] = number
    main = min(per_process, key=lambda pid: (-per_process[pid], pid), default="")
    target = np.arange(len(interner), dtype=np.int32)
    for key, number in interner.items():
        pid, tid = _thread(key)
        found = homes.get(tid, {})
        if pid == "-1" and (main in found or len(found) == 1):
            target[number] = found.get(main, next(iter(found.values())))
    return target


def _host_table(rows: dict[str, Column], names: tuple[str, ...]) -> tuple[HostTable, int]:
    marker = np.array([name.startswith(MARKER_PREFIX) for name in names], np.bool_)
    ranged = np.array([bool(_RANGES.search(name)) for name in names], np.bool_)
    code = rows.pop("code")
    if len(code):
        is_op = code // 16 == HostKind.OP
        code[is_op & marker[rows["name"]]] = 16 * HostKind.MARKER
        code[is_op & ranged[rows["name"]]] = 16 * HostKind.ANNOTATION
    same = ["thread", "start", "end", "code", "name", "correlation"]
    rows["code"] = code
    rows["end"] = -rows["end"]  # sorts longest first
    others = ["sequence", "fwd_thread", "shapes", "collective"]
    order, copies = _distinct(rows, head=["thread", "start"], same=same, others=others)
    columns = {name: rows.pop(name)[order] for name in list(rows)}
    return HostTable(end=-columns.pop("end"), kind=columns.pop("code") // np.int8(16), **columns), copies


def _device_table(rows: dict[str, Column]) -> tuple[DeviceTable, int]:
    same = ["start", "device", "stream", "correlation", "end", "name", "code", "graph_node"]
    others = ["bytes", "blocks", "threads", "collective"]
    order, copies = _distinct(rows, head=["start"], same=same, others=others)
    columns = {name: rows.pop(name)[order] for name in list(rows)}
    return DeviceTable(kind=columns.pop("code") // np.int8(16), **columns), copies


def _without_empty(device: DeviceTable, host: HostTable) -> tuple[DeviceTable, int, int]:
    """The table, how many records of it last no time, and how many were left out because they do.

    No duration marks an error, but in a file of whole microseconds, where it is a short record.
    """
    empty = device.start == device.end
    count = int(empty.sum())
    edges = (host.start, host.end, device.start, device.end)
    if not count or not any((edge % 1000).any() for edge in edges):
        return device, count, 0
    kept = {name: getattr(device, name)[~empty] for name in DeviceTable.__struct_fields__}
    return DeviceTable(**kept), 0, count


def _distinct(rows: dict[str, Column], head: list[str], same: list[str], others: list[str]) -> tuple[Int64, int]:
    """Row order by ``same`` then ``others``, without rows that equal their predecessor in ``same``."""
    rest = [rows[name] for name in same[len(head) :] + others]
    order = sort_rows([rows[name] for name in head], rest)
    first = np.ones(len(order), np.bool_)
    first[1:] = ~equal_to_previous([rows[name] for name in same], order)
    return order[first], int(len(order) - first.sum())


def _shapes(texts: bytes) -> Shapes | None:
    """Parsed shapes; ``None`` where the file holds something else."""
    dims, types, strides, concrete, moved_bytes, flops, *_ = *parsed(texts), None, None
    if not isinstance(dims, list) and moved_bytes is None:
        return None
    return Shapes(
        dims=_inputs(dims) if isinstance(dims, list) else (),
        types=tuple(map(str, types)) if isinstance(types, list) else (),
        strides=_inputs(strides) if isinstance(strides, list) else (),
        concrete=tuple(map(str, concrete)) if isinstance(concrete, list) else (),
        moved_bytes=moved_bytes,
        flops=flops,
    )


def _inputs(values: list[Any]) -> tuple[tuple[object, ...], ...]:
    """One shape per input; writers that put a string or null for "no tensor" mean the empty shape."""
    return tuple(_nested(value) if isinstance(value, list) else () for value in values)


def _nested(value: list[Any], deeper: bool = True) -> tuple[object, ...]:
    """A shape, or the shapes of a tensor list. What cannot be one becomes text; too many elements, no shape."""
    sides = tuple(
        _nested(i, deeper=False) if deeper and isinstance(i, list) else i if _is_size(i) else str(i) for i in value
    )
    return sides if math.prod(i for i in sides if isinstance(i, int)) <= LIMIT_NS else ()


def _is_size(value: object) -> bool:
    return isinstance(value, int) and abs(value) <= LIMIT_NS
