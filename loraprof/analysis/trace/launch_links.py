"""Which launch call started each device record, and does every one have its partner (closure C2, C3)?

Launch record and device records share ``correlation``: one to one for kernels, copies and memsets, one to many
for a graph launch. ``External id`` is not unique and never used.
"""

import numpy as np
from msgspec import Struct

from loraprof.model.trace import NONE, Bool, Int64, Trace, among, distinct, taken
from loraprof.model.vocabulary import HostKind


class Links(Struct, frozen=True, eq=False):
    """Rows of the host table per device record, and the closure figures that follow from the join."""

    launch: Int64  # per device record: host row of its launch call, -1 none
    is_launch: Bool  # per host row: a call that submits device work
    launches_without_kernel: int
    kernels_without_launch: int
    orphans: int  # of those: launched before the trace began
    negative_latency: int  # device records that start at or before their launch call
    ambiguous: int  # correlations shared by several launch calls
    captured: int = 0  # launch calls that a stream capture took into a graph: nothing ran


def is_launch_name(name: str) -> bool:
    """A CUDA or HIP call that must leave a device record.

    Not cudaMemsetAsync: a memset of zero bytes leaves none, seen 235 times in one healthy trace.
    """
    if "Launch" in name:
        return "HostFunc" not in name
    return "Memcpy" in name and "Async" in name


def link(trace: Trace) -> Links:
    host, device = trace.host, trace.device
    named = np.array([is_launch_name(n) for n in trace.names], dtype=np.bool_)
    runtime = np.flatnonzero((host.kind == HostKind.RUNTIME) & (host.correlation >= 0))
    order = runtime[np.lexsort((host.start[runtime], host.correlation[runtime]))]
    launch, ambiguous = _join(host.correlation[order], host.start[order], order, device.correlation, device.start)
    is_launch = np.zeros(len(host), dtype=np.bool_)
    is_launch[launch[launch != NONE]] = True
    calls = np.flatnonzero((host.kind == HostKind.RUNTIME) & named[host.name] & (host.correlation >= 0))
    without = calls[~among(host.correlation[calls], device.correlation)]
    captured = _captured(trace, without)
    without = without[~captured]
    is_launch[calls] = True
    missing = launch == NONE
    first = int(host.correlation[order].min()) if len(order) else 0
    orphans = int(((device.correlation >= 0) & (device.correlation < first)).sum())
    late = ~missing & (taken(host.start, launch) >= device.start)
    return Links(
        launch=launch,
        is_launch=is_launch,
        launches_without_kernel=len(without),
        captured=int(captured.sum()),
        kernels_without_launch=int(missing.sum()),
        orphans=orphans,
        negative_latency=int(late.sum()),
        ambiguous=ambiguous,
    )


def _captured(trace: Trace, calls: Int64) -> Bool:
    """Which calls lie between their thread's begin and end of a stream capture."""
    host = trace.host
    edge = np.array(
        [1 if "StreamBeginCapture" in n else -("StreamEndCapture" in n) for n in trace.names], dtype=np.int64
    )
    rows = np.flatnonzero((host.kind == HostKind.RUNTIME) & (edge[host.name] != 0))  # by thread and start, as all rows
    last = np.searchsorted(rows, calls) - 1
    if not len(rows):
        return np.zeros(len(calls), np.bool_)
    before = rows[last]
    found: Bool = (last >= 0) & (host.thread[before] == host.thread[calls]) & (edge[host.name[before]] > 0)
    return found


def _join(keys: Int64, starts: Int64, rows: Int64, wanted: Int64, when: Int64) -> tuple[Int64, int]:
    """Row whose key matches; where several do, the last that started before the record, else the first."""
    if not len(keys):
        return np.full(len(wanted), NONE, dtype=np.int64), 0
    low = np.searchsorted(keys, wanted, side="left")
    high = np.searchsorted(keys, wanted, side="right")
    found = (high > low) & (wanted >= 0)
    pick = np.minimum(low, len(keys) - 1)
    several = np.flatnonzero(found & (high - low > 1))
    for i in several.tolist():
        before = np.searchsorted(starts[low[i] : high[i]], when[i], side="left") - 1
        pick[i] = low[i] + max(int(before), 0)
    return np.where(found, rows[pick], NONE), len(distinct(wanted[several]))
