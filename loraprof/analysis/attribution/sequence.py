"""Which forward work does a backward node differentiate? The two independent rules.

An op that creates no autograd node carries the number the next node will get, so frozen layers share numbers:
the owner is the *last* forward op with a number (rule (a)), not the first. Rule (b) needs no profiler: the
innermost recorded module call with ``before <= number < after``. Numbers count per forward thread.
"""

import numpy as np

from loraprof.model.recording import ModuleCall
from loraprof.model.trace import NONE, Bool, HostTable, Int64, Trace, distinct
from loraprof.model.vocabulary import HostKind


def counted(host: HostTable) -> Bool:
    """Forward ops to which autograd gave a number."""
    flag: Bool = (host.kind == HostKind.OP) & (host.sequence >= 0) & (host.fwd_thread == 0)
    return flag


def logical_threads(trace: Trace, ops: Int64, nodes: Int64) -> dict[int, int]:
    """Kineto's logical forward thread -> thread of the trace, by the numbers they share."""
    host = trace.host
    threads = distinct(host.thread[ops])
    out: dict[int, int] = {}
    for logical in distinct(host.fwd_thread[nodes]).tolist():
        candidates = distinct(host.sequence[nodes[host.fwd_thread[nodes] == logical]])
        shared = [int(np.isin(candidates, host.sequence[ops[host.thread[ops] == t]]).sum()) for t in threads.tolist()]
        if any(shared):
            out[logical] = int(threads[int(np.argmax(shared))])
    return out


def forward_owner(trace: Trace, ops: Int64, nodes: Int64) -> Int64:
    """Rule (a): per node the last (then innermost) forward op with its number that began before it, -1 none.

    Where none began before, the last of all: numbers that start over are told apart by time, clocks may be off.
    """
    host = trace.host
    out = np.full(len(nodes), NONE, dtype=np.int64)
    threads = logical_threads(trace, ops, nodes)
    for logical, thread in threads.items():
        candidates = ops[host.thread[ops] == thread]
        candidates = candidates[np.lexsort((-host.end[candidates], host.start[candidates]))]
        which = np.flatnonzero(host.fwd_thread[nodes] == logical)
        earlier = np.searchsorted(host.start[candidates], host.start[nodes[which]])
        order = np.argsort(host.sequence[candidates], kind="stable")  # of one number by time
        candidates, key = candidates[order], host.sequence[candidates[order]] * (len(candidates) + 1) + order
        wanted = host.sequence[nodes[which]]
        for limit in (len(candidates), earlier):
            at = np.searchsorted(key, wanted * (len(candidates) + 1) + limit) - 1
            hit = (at >= 0) & (np.append(host.sequence[candidates], NONE)[at] == wanted)
            out[which[hit]] = candidates[at[hit]]
    return out


def interval_owner(trace: Trace, calls: list[ModuleCall], nodes: Int64) -> Int64:
    """Rule (b): per node the module of the shortest recorded call interval that holds its number, -1 none."""
    host = trace.host
    out = np.full(len(nodes), NONE, dtype=np.int64)
    numbers = host.sequence[nodes]
    by_thread: dict[int, list[ModuleCall]] = {}
    for call in calls:
        if call.after > call.before:
            by_thread.setdefault(call.thread, []).append(call)
    # One forward thread is the rule; with several, a node belongs to the thread named in its own record.
    several = len(by_thread) > 1
    for thread, candidates in by_thread.items():
        before, after = (np.array([getattr(c, edge) for c in candidates], np.int64) for edge in ("before", "after"))
        edges = distinct(np.concatenate((before, after)))
        paint = np.full(len(edges), NONE, dtype=np.int64)  # from each edge to the next
        first, last = np.searchsorted(edges, before).tolist(), np.searchsorted(edges, after).tolist()
        # Longest first, and of equals the outer (recorded later, when it returned) first: the innermost paints over.
        for i in np.lexsort((-np.arange(len(candidates)), before - after)).tolist():
            paint[first[i] : last[i]] = candidates[i].module
        inside = (numbers >= edges[0]) & (numbers < edges[-1])
        if several:
            inside &= _thread_of(trace, nodes, thread)
        out[inside] = paint[np.searchsorted(edges, numbers[inside], side="right") - 1]
    return out


def _thread_of(trace: Trace, nodes: Int64, native: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    host = trace.host
    mapped = logical_threads(trace, np.flatnonzero(counted(host)), nodes)
    wanted = [k for k, t in mapped.items() if trace.threads[t][1] == str(native)]
    return np.isin(host.fwd_thread[nodes], wanted)
