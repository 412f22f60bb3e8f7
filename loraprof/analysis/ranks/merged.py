"""Several ranks' traces merged into one file: each process that marks steps of its own is a rank.

Device records carry no process. A device belongs to the process whose launch calls fit most of its records; where
processes share a device's number, a record belongs to the one whose call of its correlation came last before it.
"""

import re

import numpy as np
from msgspec.structs import replace

from loraprof.analysis.trace.step_windows import OPTIMIZER_STEP, STEP
from loraprof.model.trace import DeviceTable, HostTable, Int64, Trace, distinct
from loraprof.model.vocabulary import HostKind

_RANK = re.compile(r"rank[-_ ]?(\d+)", re.IGNORECASE)
_NEVER = np.iinfo(np.int64).min


def merged_ranks(trace: Trace) -> list[tuple[str, Trace]]:
    """(process, its trace) of each rank by number; empty where the trace is one rank's."""
    processes = _stepping(trace)
    if len(processes) < 2:
        return []
    groups = _groups(trace, processes)
    owner = _owners(trace, groups, len(processes))
    host, device = trace.host, trace.device
    return [
        (
            process,
            replace(
                trace,
                host=HostTable(**{n: getattr(host, n)[groups == i] for n in HostTable.__struct_fields__}),
                device=DeviceTable(**{n: getattr(device, n)[owner == i] for n in DeviceTable.__struct_fields__}),
                rank=i,
                world_size=len(processes),
            ),
        )
        for i, process in enumerate(processes)
    ]


def _stepping(trace: Trace) -> list[str]:
    """Processes with step annotations, or else with optimizer steps: by the rank in their names, else by number."""
    host = trace.host
    for pattern in (STEP, re.compile(f"^{OPTIMIZER_STEP}")):
        named = np.array([bool(pattern.match(n)) for n in trace.names], dtype=np.bool_)
        threads = distinct(host.thread[(host.kind == HostKind.ANNOTATION) & named[host.name]])
        if len(threads):
            return sorted({trace.threads[t][0] for t in threads.tolist()}, key=_number)
    return []


def _number(process: str) -> tuple[int, int, str]:
    ranked = _RANK.search(process)
    number = ranked[1] if ranked else process if process.isdigit() else "0"
    return (0 if ranked else 1), int(number), process


def _groups(trace: Trace, processes: list[str]) -> Int64:
    """Per host row: the rank of its process; other processes (data loaders) go with the rank's numbered before them."""
    numbers = [_number(p) for p in processes]
    of_process = {p: max(sum(n <= _number(p) for n in numbers) - 1, 0) for p, _ in trace.threads}
    return np.array([of_process[p] for p, _ in trace.threads], np.int64)[trace.host.thread]


def _owners(trace: Trace, groups: Int64, count: int) -> Int64:
    host, device = trace.host, trace.device
    called = np.full((count, len(device)), _NEVER)  # when each rank made the call of a record's correlation
    for i in range(count):
        rows = np.flatnonzero((groups == i) & (host.kind == HostKind.RUNTIME) & (host.correlation >= 0))
        rows = rows[np.argsort(host.correlation[rows], kind="stable")]
        if len(rows):
            at = np.searchsorted(host.correlation[rows], device.correlation).clip(max=len(rows) - 1)
            start = host.start[rows[at]]
            fits = (host.correlation[rows[at]] == device.correlation) & (start < device.start)
            called[i] = np.where(fits, start, _NEVER)
    owner: Int64 = called.argmax(axis=0)
    devices = distinct(device.device).tolist()
    if len(devices) < count:
        return owner
    for place, index in enumerate(devices):
        here = device.device == index
        fitting = (called[:, here] > _NEVER).sum(axis=1)
        best = np.flatnonzero(fitting == fitting.max())
        owner[here] = best[0] if len(best) == 1 else best[place % len(best)]
    return owner
