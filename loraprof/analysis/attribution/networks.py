"""Which network does a module belong to, and where does the step sample from one?

A network is what the script calls on its own, with parameters. Sampling: several calls in a row of a network that is
trained, without gradient: none of them made an autograd node, so the numbers before and after it are the same.
"""

from typing import Final

import numpy as np
from msgspec import Struct

from loraprof.model.recording import Recording
from loraprof.model.trace import NONE, Bool, Int32, Int64, Trace
from loraprof.model.vocabulary import HostKind

SAMPLED: Final = 4  # calls in a row: a loop over tokens; a reference or a pass over micro-batches makes fewer


class Network(Struct, frozen=True):
    """``root``: of its modules (``ModuleInfo.root``); ``adapters``: active adapted layers."""

    name: str
    root: int
    trained: bool
    adapters: int


def networks_of(recording: Recording | None) -> tuple[Network, ...]:
    """In the order they were first called; none of a trace alone."""
    if recording is None:
        return ()
    modules = recording.modules
    holding = {modules[p.module].root for p in recording.parameters}
    trained = {modules[p.module].root for p in recording.parameters if p.trainable}
    sites: dict[int, int] = {m.site: m.root for m in reversed(modules) if m.site is not None}
    sites |= {one[0]: modules[o.module].root for o in recording.adapter_ops for one in o.labels if one is not None}
    active = [root for i, root in sites.items() if recording.sites[i].active]
    first = {m.root: m for m in reversed(modules)}
    names: dict[int, str] = {}
    for root in sorted(holding):
        name, n = first[root].path or first[root].cls, 2
        while name in names.values():
            name, n = f"{first[root].cls}_{n}", n + 1
        names[root] = name
    trained |= set(active)  # A and B may be tensors that no module holds
    return tuple(Network(name, root, root in trained, active.count(root)) for root, name in names.items())


def network_of(recording: Recording | None, networks: tuple[Network, ...], count: int) -> Int32:
    """Per module (``count`` of them, those that are none included) the number of its network, -1 none."""
    out = np.full(count, NONE, dtype=np.int32)
    if recording is not None and networks:
        number = {one.root: i for i, one in enumerate(networks)}
        out[: len(recording.modules)] = [number.get(m.root, NONE) for m in recording.modules]
    return out


def sampling(trace: Trace, recording: Recording | None, networks: tuple[Network, ...], opens: Int64) -> Bool:
    """Host rows within calls that sample. ``opens``: per name, the module that a row of this name opens."""
    flag = np.zeros(len(trace.host), dtype=np.bool_)
    if recording is None:
        return flag
    first = {m.root: m.id for m in reversed(recording.modules)}
    opened = np.where(trace.host.kind == HostKind.MARKER, opens[trace.host.name], NONE)
    for one in networks:
        rows = np.flatnonzero(opened == first[one.root])
        calls = [c for c in recording.calls if c.module == first[one.root]]
        if one.trained and len(calls) <= len(rows) <= len(calls) + 1:  # the profiler may stop within a further call
            for run in _runs([c.after == c.before and not c.recompute for c in calls]):
                for row in rows[run]:
                    _cover(trace, int(row), flag)
    return flag


def _runs(silent: list[bool]) -> list[slice]:
    """Where at least SAMPLED in a row are."""
    out, begin = [], None
    for i, one in enumerate([*silent, False]):
        if one and begin is None:
            begin = i
        elif not one and begin is not None:
            if i - begin >= SAMPLED:
                out.append(slice(begin, i))
            begin = None
    return out


def _cover(trace: Trace, row: int, flag: Bool) -> None:
    host = trace.host
    rows: Int64 = np.flatnonzero(
        (host.thread == host.thread[row]) & (host.start >= host.start[row]) & (host.end <= host.end[row])
    )
    flag[rows] = True
