"""What is there to draw of the reported step? Its partition in time, the device's streams, the host's threads.

A slice stands in the first line of its thread or stream that is free when it starts: records that nest stand as deep
as others enclose them, and those that cross are both there. Of more than ``MOST`` slices the deepest host records are
left out, and counted.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Final

import numpy as np

from loraprof.analysis.analyse import Analysis
from loraprof.analysis.partition.ledger import Ledger
from loraprof.analysis.step.segments import Segments, segments
from loraprof.analysis.trace.step_windows import Window
from loraprof.model.scene import PartitionCell, Scene, SliceRow
from loraprof.model.trace import NONE, Int64, distinct
from loraprof.model.vocabulary import CAUSES, CLASSES, PHASES, ROLES, HostKind

MOST: Final = 200_000  # slices
DRAWN: Final = (HostKind.OP, HostKind.ANNOTATION, HostKind.PYTHON, HostKind.RUNTIME, HostKind.OVERHEAD)
TONES: Final = [*ROLES, *(f"idle:{cause}" for cause in CAUSES), "host"]
HOST: Final = len(TONES) - 1


class Names:
    """Distinct texts in the order in which they were first asked for."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {}

    def of(self, text: str) -> int:
        return self.texts.setdefault(text, len(self.texts))


def scene_of(analysis: Analysis) -> Scene | None:
    """The reported step; ``None`` where the trace holds none."""
    if analysis.reported is None:
        return None
    ledger = analysis.ledgers[analysis.reported]
    names, window = Names(), ledger.window
    host, at, left_out = _host(analysis, window, names)
    rows = [_partition(analysis, window, names, at), *_streams(analysis, window, names), *host]
    parts = list(cells(analysis, ledger))
    return Scene(window.name, window.end - window.start, list(names.texts), TONES, rows, parts, left_out)


def _host(analysis: Analysis, window: Window, names: Names) -> tuple[list[SliceRow], dict[int, tuple[int, int]], int]:
    """Rows of threads by depth, and where each host record stands: its row (counted from the first) and its slice."""
    host = analysis.trace.host
    shown = np.isin(host.kind, [int(kind) for kind in DRAWN]) & (host.end > window.start) & (host.start < window.end)
    drawn = np.flatnonzero(shown & (host.end > host.start))
    threads = {thread: drawn[host.thread[drawn] == thread] for thread in distinct(host.thread[drawn]).tolist()}
    depths = {t: np.array(lanes(host.start[at].tolist(), host.end[at].tolist())) for t, at in threads.items()}
    room = max(MOST - len(analysis.trace.device), 1)
    levels = _levels(np.concatenate([*depths.values(), np.zeros(0, np.int64)]), room)
    rows: list[SliceRow] = []
    place: dict[int, tuple[int, int]] = {}
    for thread, on_thread in threads.items():
        title = f"thread {analysis.trace.threads[thread][1]}"
        for level in range(min(int(depths[thread].max()) + 1, levels)):
            at = on_thread[depths[thread] == level]
            place.update((row, (len(rows), i)) for i, row in enumerate(at.tolist()))
            label = [names.of(analysis.trace.names[n]) for n in host.name[at].tolist()]
            rows.append(row(title, "host", level, window, host.start[at], host.end[at], label, [HOST] * len(at)))
    return rows, place, len(drawn) - len(place)


def _levels(depth: Int64, room: int) -> int:
    """How many levels, from the outermost, hold no more than ``room`` records; at least one."""
    per_level = np.cumsum(np.bincount(depth.astype(np.int64), minlength=1))
    return max(1, int(np.searchsorted(per_level, room, side="right")))


def _partition(analysis: Analysis, window: Window, names: Names, at: dict[int, tuple[int, int]]) -> SliceRow:
    made = partition_row(_reported(analysis, window), names)
    launched = launched_after(analysis, _reported(analysis, window).end)
    first_host = 1 + sum(1 for _ in _streams(analysis, window, Names()))
    for i, call in enumerate(launched.tolist()):
        if made.tone[i] >= len(ROLES) and call in at:
            host_row, number = at[call]
            made.blame[i] = (host_row + first_host) << 32 | number
    return made


def partition_row(pieces: Segments, names: Names) -> SliceRow:
    """The partition in time order: busy under its role, idle under its cause."""
    busy = pieces.kind < len(CLASSES)
    tone = np.where(busy, pieces.role, pieces.kind - len(CLASSES) + len(ROLES))
    label = [names.of(TONES[t] if t < len(ROLES) else TONES[t].replace("idle:", "idle: ")) for t in tone.tolist()]
    return row("partition", "partition", 0, pieces.window, pieces.start, pieces.end, label, tone.tolist())


def _reported(analysis: Analysis, window: Window) -> Segments:
    return next(piece for piece in segments(analysis) if piece.window == window)


def launched_after(analysis: Analysis, end: Int64) -> Int64:
    """Per time: the launch record of the first device record that starts then or later; on a CPU the first op."""
    host, device = analysis.trace.host, analysis.trace.device
    if analysis.work is None:
        rows = np.flatnonzero((host.kind == HostKind.OP) & (host.thread == analysis.marks.thread))
        return np.append(rows, NONE)[np.searchsorted(host.start[rows], end)]
    return np.append(analysis.links.launch, NONE)[np.searchsorted(device.start, end)].astype(np.int64)


def _streams(analysis: Analysis, window: Window, names: Names) -> Iterator[SliceRow]:
    device, work = analysis.trace.device, analysis.work
    if work is None:
        return
    inside = (device.end > window.start) & (device.start < window.end) & (device.end > device.start)
    role = np.full(len(device), ROLES.index("other"), np.int64)
    role[work.rows] = work.role
    for index, stream in sorted({*zip(device.device[inside].tolist(), device.stream[inside].tolist(), strict=True)}):
        at = np.flatnonzero(inside & (device.device == index) & (device.stream == stream))
        lane = lanes(device.start[at].tolist(), device.end[at].tolist())
        for level in range(max(lane) + 1):
            some = at[np.array(lane) == level]
            label = [names.of(analysis.trace.names[n]) for n in device.name[some].tolist()]
            title = f"GPU {index} stream {stream}"
            yield row(title, "stream", level, window, device.start[some], device.end[some], label, role[some].tolist())


def lanes(start: list[int], end: list[int]) -> list[int]:
    """The first lane that is free when a slice starts; those that start together come longest first."""
    free: list[int] = []
    out = []
    for begin, stop in zip(start, end, strict=True):
        lane = next((i for i, until in enumerate(free) if until <= begin), len(free))
        free[lane : lane + 1] = [stop]
        out.append(lane)
    return out


def row(
    title: str, group: str, depth: int, window: Window, start: Int64, end: Int64, name: list[int], tone: list[int]
) -> SliceRow:
    first, last = np.maximum(start, window.start), np.minimum(end, window.end)
    since, ns = (first - window.start).tolist(), (last - first).tolist()
    return SliceRow(title, group, depth, since, ns, name, tone, [NONE] * len(name))  # type: ignore[arg-type]


def cells(analysis: Analysis, ledger: Ledger) -> Iterator[PartitionCell]:
    """The ledger's entries, summed by what they are called."""
    ns: Counter[tuple[int, int, int, int, int]] = Counter()
    events: Counter[tuple[int, int, int, int, int]] = Counter()
    columns = (ledger.kind, ledger.phase, ledger.role, ledger.module, ledger.name, ledger.ns, ledger.events)
    for *key, time, count in zip(*(c.tolist() for c in columns), strict=True):
        ns[tuple(key)] += time
        events[tuple(key)] += count
    for (kind, phase, role, module, name), time in ns.items():
        if not time:
            continue
        busy = kind < len(CLASSES)
        yield PartitionCell(
            busy=busy,
            phase=PHASES[phase],
            role=ROLES[role],
            module=analysis.attribution.paths[module] if module != NONE else "",
            name=(analysis.trace.names[name] if name != NONE else "?") if busy else CAUSES[kind - len(CLASSES)],
            ns=time,
            events=events[kind, phase, role, module, name],
        )
