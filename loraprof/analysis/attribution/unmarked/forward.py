"""Forward work of a trace without modules: which calls it is, whose role they have, and the adapted layers among them.

A call is the outermost op of a namespace: what a Python ``autograd.Function`` calls counts by itself. Calls of one
thread between two backward passes or optimizer steps are a run; it is forward work from its first product, norm,
embedding or loss on.
"""

import numpy as np
from msgspec import Struct

from loraprof.analysis.attribution.unmarked.adapters import Pairs, pairs_of
from loraprof.analysis.attribution.unmarked.calls import Calls, Sort, calls_of
from loraprof.analysis.attribution.unmarked.layers import layers_of
from loraprof.analysis.attribution.unmarked.order import norms_of, roles_in_order
from loraprof.analysis.trace.call_tree import Tree
from loraprof.analysis.trace.step_windows import DATA, STEP
from loraprof.model.recording import AdapterSite, ModuleInfo
from loraprof.model.trace import NONE, Bool, Int32, Int64, Trace
from loraprof.model.vocabulary import HostKind

_BEGINS = [Sort.PRODUCT, Sort.CORE, Sort.EMBEDDING, Sort.NORM, Sort.LOSS]


class Unmarked(Struct, frozen=True, eq=False):
    """``call`` is, per host row, its place among the calls of forward work, -1 where it has none."""

    calls: Calls
    pairs: Pairs
    role: np.ndarray[tuple[int], np.dtype[np.int8]]  # per call
    layer: Int64  # per call of an adapted layer: which one, -1 elsewhere
    call: Int64
    sites: tuple[AdapterSite, ...]

    @property
    def table(self) -> list[ModuleInfo]:
        """The adapted layers as modules: their sums of gradients are placed by them."""
        return [ModuleInfo(id=i, path=site.path, cls="", site=i) for i, site in enumerate(self.sites)]


def unmarked(trace: Trace, tree: Tree, around: tuple[Int32, Int32], recomputed: Bool) -> Unmarked:
    """``around``: per host row the backward node and the optimizer range around it, -1 none. ``again``: rows inside
    nodes that a checkpoint runs again."""
    evaluate, optimizer = around
    outside = ((evaluate == NONE) | recomputed) & (optimizer == NONE)
    call, rows = _calls(trace, tree, outside)
    calls = calls_of(trace, rows, _runs(trace, rows, evaluate, optimizer))
    norms = norms_of(calls)
    kept = _forward(calls, norms)
    calls, norms = calls.take(kept), norms[kept]
    pairs = pairs_of(calls, norms)
    layer, sites = layers_of(trace, calls, pairs)
    place = np.full(len(trace.host) + 1, NONE, np.int64)
    place[calls.row] = np.arange(len(calls))
    return Unmarked(calls, pairs, roles_in_order(calls, pairs, norms), layer, place[call], sites)


def _calls(trace: Trace, tree: Tree, outside: Bool) -> tuple[Int32, Int64]:
    """Per host row the call around it, -1 none; and all calls."""
    host = trace.host
    spaced = np.array(["::" in n for n in trace.names], dtype=np.bool_)[host.name]
    op = (host.kind == HostKind.OP) & outside
    named = op & spaced
    loader = np.array([bool(DATA.search(n)) for n in trace.names], dtype=np.bool_)
    loads = tree.nearest(loader[host.name] & (host.kind == HostKind.ANNOTATION)) != NONE
    calling = tree.nearest(op & ~spaced)
    holds = np.zeros(len(host) + 1, np.bool_)
    holds[calling[named]] = True  # functions that call ops of a namespace are looked through
    flag = (named | (op & ~spaced & ~holds[:-1])) & ~loads
    inner = np.flatnonzero(flag & (tree.parent != NONE))
    around = tree.nearest(flag)
    flag[inner[around[tree.parent[inner]] != NONE]] = False
    return tree.nearest(flag), np.flatnonzero(flag)


def _runs(trace: Trace, rows: Int64, evaluate: Int32, optimizer: Int32) -> Int64:
    """Each call's run: by the backward nodes, optimizer ranges and steps that began before it, and by its thread."""
    host, index = trace.host, np.arange(len(trace.host))
    stepping = np.array([bool(STEP.match(n)) for n in trace.names], dtype=np.bool_)[host.name]
    stepping &= host.kind == HostKind.ANNOTATION
    edges = np.sort(host.start[(evaluate == index) | (optimizer == index) | stepping])
    run: Int64 = np.searchsorted(edges, host.start[rows], side="right") * len(trace.threads)
    return run + host.thread[rows]


def _forward(calls: Calls, norms: Bool) -> Bool:
    """Which are forward work."""
    if not len(calls):
        return norms
    fresh = np.append(True, calls.run[1:] != calls.run[:-1])
    number = np.cumsum(fresh) - 1
    first = np.full(int(number[-1]) + 1, len(calls))
    begins = np.flatnonzero(norms | np.isin(calls.sort, _BEGINS))
    np.minimum.at(first, number[begins], begins)
    forward: Bool = np.arange(len(calls)) >= first[number]
    return forward
