"""What is there to draw of the reported step as it runs without the profiler?

On a GPU the replayed records and, per host thread, what it was doing; an idle slice blames what its thread did when it
launched the record that ended it. On a CPU there is no replay: the cells of the scaled step alone, and no time line.
"""

from bisect import bisect_right
from collections.abc import Iterator

import numpy as np

from loraprof.analysis.analyse import Analysis
from loraprof.analysis.partition.host_state import STATES, Timeline
from loraprof.analysis.partition.ledger import Ledger
from loraprof.analysis.prediction.moved import Moved, moved
from loraprof.analysis.prediction.replayed import StepReplay
from loraprof.analysis.step.scene import HOST, TONES, Names, cells, lanes, partition_row, row
from loraprof.analysis.step.segments import device_segments
from loraprof.model.scene import Scene, SliceRow
from loraprof.model.trace import NONE, distinct
from loraprof.model.vocabulary import ROLES


def plain_scene(analysis: Analysis, ledger: Ledger, plain: Ledger, replay: StepReplay | None) -> Scene:
    """``plain``: the entries of the reported step, which is ``ledger``, without the profiler."""
    total_ns, names = int(plain.ns.sum()), Names()
    step = moved(analysis, ledger, replay, total_ns) if replay else None
    rows = list(_rows(analysis, step, names)) if step else []
    return Scene(ledger.window.name, total_ns, list(names.texts), TONES, rows, list(cells(analysis, plain)), 0)


def _rows(analysis: Analysis, step: Moved, names: Names) -> Iterator[SliceRow]:
    pieces = device_segments(analysis.trace, step.work, step.window, step.states, analysis.tau_ns, 0)
    split = partition_row(pieces, names)
    streams = list(_streams(analysis, step, names))
    hosts = list(_hosts(analysis, step, names))
    thread = analysis.trace.host.thread
    after = np.searchsorted(step.work.start, pieces.end)
    for i, record in enumerate(after.tolist()):
        if split.tone[i] < len(ROLES) or record >= len(step.work.rows) or step.work.launch[record] == NONE:
            continue
        place = next((n for n, (t, _) in enumerate(hosts) if t == int(thread[step.work.launch[record]])), None)
        if place is not None:
            found = bisect_right(hosts[place][1].start, int(step.work.call[record])) - 1
            if found != NONE:
                split.blame[i] = (1 + len(streams) + place) << 32 | found
    yield from (split, *streams, *(made for _, made in hosts))


def _streams(analysis: Analysis, step: Moved, names: Names) -> Iterator[SliceRow]:
    device, work = analysis.trace.device, step.work
    for stream in distinct(device.stream[work.rows]).tolist():
        at = np.flatnonzero((device.stream[work.rows] == stream) & (work.end > work.start))
        at = at[(work.end[at] > 0) & (work.start[at] < step.window.end)]
        levels = np.array(lanes(work.start[at].tolist(), work.end[at].tolist()), np.int64)
        for level in distinct(levels).tolist():
            some = at[levels == level]
            label = [names.of(analysis.trace.names[n]) for n in device.name[work.rows[some]].tolist()]
            tone = work.role[some].tolist()
            yield row(f"stream {stream}", "stream", level, step.window, work.start[some], work.end[some], label, tone)


def _hosts(analysis: Analysis, step: Moved, names: Names) -> Iterator[tuple[int, SliceRow]]:
    """What each thread that launched something was doing."""
    threads = distinct(analysis.trace.host.thread[step.work.launch[step.work.launch != NONE]])
    for thread in threads.tolist():
        if thread in step.states:
            yield thread, _host(f"thread {analysis.trace.threads[thread][1]}", step.states[thread], step, names)


def _host(title: str, line: Timeline, step: Moved, names: Names) -> SliceRow:
    start = np.maximum(line.at, 0)
    end = np.append(line.at[1:], step.window.end)
    kept = (end > start) & (start < step.window.end)
    label = [names.of(f"host: {STATES[state]}") for state in line.state[kept].tolist()]
    return row(title, "host", 0, step.window, start[kept], end[kept], label, [HOST] * len(label))
