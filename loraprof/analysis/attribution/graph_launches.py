"""Which part of the model ran each kernel of a CUDA graph? All of them share the correlation of one launch.

In this order: what the script named the kernel's graph node when it captured it; the call list of the compiled graph
that was captured, by order; the same kernel in a step of this trace that ran without graphs, by name and order. The
last two are inferred. What is left counts, with the whole graph, where the graph was launched.
"""

from collections.abc import Iterator

import numpy as np
from msgspec import Struct

from loraprof.analysis.attribution.attribute import Attribution
from loraprof.analysis.attribution.roles import roles_of
from loraprof.analysis.trace.launch_links import Links
from loraprof.analysis.trace.step_windows import Marks
from loraprof.model.recording import Recording
from loraprof.model.trace import NONE, Bool, Int64, Ints, Trace, among, distinct, numbered
from loraprof.model.vocabulary import LOSS, ROLE

Found = tuple[int, int, int]  # module, phase, role


class GraphWork(Struct, frozen=True, eq=False):
    """Device records of graphs that have an owner of their own; ``rows`` -> Trace.device, sorted."""

    rows: Int64
    module: Int64
    phase: Int64
    role: Int64
    notes: tuple[str, ...]

    def into(self, rows: Int64, module: Ints, phase: Ints, role: Ints) -> None:
        """Overwrites the columns of the device records ``rows`` that are known here."""
        positions = np.flatnonzero(among(rows, self.rows))
        at = np.searchsorted(self.rows, rows[positions])
        module[positions], phase[positions], role[positions] = self.module[at], self.phase[at], self.role[at]


def graph_work(
    trace: Trace, links: Links, attribution: Attribution, marks: Marks, recording: Recording | None
) -> GraphWork | None:
    """None without a graph launch."""
    named = np.array(["GraphLaunch" in n for n in trace.names], dtype=np.bool_)
    linked = links.launch != NONE
    of_graph = linked.copy()
    of_graph[linked] = named[trace.host.name[links.launch[linked]]]
    if not of_graph.any():
        return None
    left = of_graph.copy()
    found: dict[int, Found] = {}
    notes = []
    for text, pairs in (
        ("by their graph nodes' names", _by_node(trace, links, attribution, recording, left)),
        ("by the order of the compiled graph's calls, inferred", _by_calls(trace, links, attribution, left)),
        (
            "by their order in a step without graphs, inferred",
            _by_order(trace, links, attribution, marks, of_graph, left),
        ),
    ):
        before = len(found)
        for row, owner in pairs:
            found[row] = owner
            left[row] = False
        if len(found) > before:
            notes.append(f"{len(found) - before} kernels of CUDA graphs were attributed {text}")
    if left.any():
        launches = len(distinct(links.launch[left]))
        notes.append(
            f"{int(left.sum())} kernels of {launches} graph launches have no module of their own: "
            "each graph counts where it was launched"
        )
    rows = np.array(sorted(found), dtype=np.int64)
    owners = np.array([found[row] for row in rows.tolist()], dtype=np.int64).reshape(-1, 3)
    return GraphWork(rows, owners[:, 0], owners[:, 1], owners[:, 2], tuple(notes))


def _by_node(
    trace: Trace, links: Links, attribution: Attribution, recording: Recording | None, left: Bool
) -> Iterator[tuple[int, Found]]:
    if recording is None or not recording.graph_nodes:
        return
    paths, roles = {m.path: m for m in recording.modules}, roles_of(recording.modules, recording)
    for row in np.flatnonzero(left).tolist():
        info = paths.get(recording.graph_nodes.get(int(trace.device.graph_node[row]), ""))
        if info is not None:
            phase = int(attribution.phase[links.launch[row]])
            yield row, (info.id, phase, ROLE[roles.of(info.id, "")])


def _by_calls(trace: Trace, links: Links, attribution: Attribution, left: Bool) -> Iterator[tuple[int, Found]]:
    """Graphs launched from inside generated code replay that code's calls."""
    if attribution.compiled is None:
        return
    scopes = attribution.compiled.scopes
    inside = np.zeros(len(trace.host), dtype=np.bool_)
    inside[list(scopes)] = True
    nearest = attribution.tree.nearest(inside)
    device = trace.device
    launches = links.launch[left]
    for launch in distinct(launches[nearest[launches] != NONE]).tolist():
        rows = np.flatnonzero(left & (links.launch == launch))
        rows = rows[np.argsort(device.start[rows], kind="stable")]
        scope = scopes[int(nearest[launch])]
        placed = attribution.compiled.graphs.place_kernels(scope, [trace.names[i] for i in device.name[rows]])
        for row, place in zip(rows.tolist(), placed, strict=True):
            if place is not None:
                module = attribution.paths.index(LOSS) if isinstance(place.module, str) else place.module
                yield row, (module, int(attribution.phase[launch]), place.role)


def _by_order(
    trace: Trace, links: Links, attribution: Attribution, marks: Marks, of_graph: Bool, left: Bool
) -> Iterator[tuple[int, Found]]:
    """The n-th kernel of a name in a step is the n-th of that name in the step without graphs, where both have as
    many."""
    device, launch = trace.device, links.launch
    step = np.full(len(device), NONE, dtype=np.int64)
    linked = np.flatnonzero(launch != NONE)
    called = trace.host.start[launch[linked]]
    at = np.searchsorted(np.array(marks.start), called, side="right") - 1
    within = (at >= 0) & (called < np.array([*marks.end, 0])[at])
    step[linked[within]] = at[within]
    graphed = distinct(step[of_graph & (step != NONE)])
    plain = step[~of_graph & (step != NONE) & ~np.isin(step, graphed)]
    if not len(plain) or not left.any():
        return
    reference = int(np.bincount(plain).argmax())
    key = numbered(device.device, device.name)

    def ordered(index: int) -> Int64:
        rows = np.flatnonzero(step == index)
        return rows[np.lexsort((device.start[rows], key[rows]))]

    theirs = ordered(reference)
    names, first, count = np.unique(key[theirs], return_index=True, return_counts=True)
    for index in graphed.tolist():
        ours = ordered(index)
        positions, begin, many = np.unique(key[ours], return_index=True, return_counts=True)
        _, a, b = np.intersect1d(positions, names, return_indices=True)
        for i in np.flatnonzero(many[a] == count[b]).tolist():
            rows = ours[begin[a[i]] : begin[a[i]] + many[a[i]]]
            same = theirs[first[b[i]] : first[b[i]] + count[b[i]]]
            for row, other in zip(rows.tolist(), launch[same].tolist(), strict=True):
                if left[row]:
                    yield (
                        row,
                        (int(attribution.module[other]), int(attribution.phase[other]), int(attribution.role[other])),
                    )
