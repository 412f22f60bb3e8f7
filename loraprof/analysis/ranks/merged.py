"""Several ranks' traces merged into one file: each process that marks steps of its own is a rank.

Device records carry no process. A device belongs to the process whose launch calls fit most of its records; where
processes share a device's number, records of one correlation go to the calls of it in the order in which both began,
or, where they are not as many, to the call that came last before each.
"""

import re

import numpy as np
from msgspec.structs import replace

from loraprof.analysis.trace.step_windows import OPTIMIZER_STEP, STEP
from loraprof.model.trace import Bool, DeviceTable, HostTable, Int64, Trace, distinct
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
    device = trace.device
    began = np.stack([_began(trace, groups == i) for i in range(count)])
    called = np.where(began < device.start, began, _NEVER)
    owner: Int64 = called.argmax(axis=0)
    devices = distinct(device.device).tolist()
    if len(devices) < count:
        return _in_turn(trace, began, owner)
    for place, index in enumerate(devices):
        here = device.device == index
        fitting = (called[:, here] > _NEVER).sum(axis=1)
        best = np.flatnonzero(fitting == fitting.max())
        owner[here] = best[0] if len(best) == 1 else best[place % len(best)]
    return owner


def _began(trace: Trace, own: Bool) -> Int64:
    """Per device record: when the process with the ``own`` host rows made the call of its correlation."""
    host, device = trace.host, trace.device
    rows = np.flatnonzero(own & (host.kind == HostKind.RUNTIME) & (host.correlation >= 0))
    rows = rows[np.argsort(host.correlation[rows], kind="stable")]
    if not len(rows):
        return np.full(len(device), _NEVER)
    at = np.searchsorted(host.correlation[rows], device.correlation).clip(max=len(rows) - 1)
    return np.where(host.correlation[rows[at]] == device.correlation, host.start[rows[at]], _NEVER)


def _in_turn(trace: Trace, began: Int64, owner: Int64) -> Int64:
    """``owner``, but of a correlation with as many records as calls the n-th record goes to the process that called it
    n-th, where that was before the record began."""
    device = trace.device
    order = np.lexsort((device.start, device.correlation))
    _, first, size = np.unique(device.correlation[order], return_index=True, return_counts=True)
    turn, records = np.zeros(len(device), np.int64), np.zeros(len(device), np.int64)
    turn[order] = np.arange(len(device)) - np.repeat(first, size)
    records[order] = np.repeat(size, size)
    calls = (began > _NEVER).sum(axis=0)
    some = np.flatnonzero((calls == records) & (calls > 1))
    nth = np.argsort(began[:, some], axis=0, kind="stable")[len(began) - calls[some] + turn[some], np.arange(len(some))]
    fits = began[nth, some] < device.start[some]
    owner[some[fits]] = nth[fits]
    return owner
