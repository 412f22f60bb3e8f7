"""Which record encloses which, against a look at every pair; also where ranges cross."""

import random

import numpy as np
import pytest
from builders import Host, call, note, op, overhead, trace_of

from loraprof.analysis.trace.call_tree import Tree, tree_of
from loraprof.model.trace import Trace
from loraprof.model.vocabulary import HostKind


def random_trace(seed: int, crossing: bool) -> Trace:
    """Two threads of ops in annotations with calls inside, some empty, and overheads that take no part."""
    rng = random.Random(seed)
    host: list[Host] = []

    def fill(thread: int, low: int, high: int, depth: int) -> None:
        at = low
        while at < high:
            begin = rng.randint(at, high)
            end = rng.randint(begin, high)
            make = rng.choice([op, op, call, note])
            host.append(make(f"{make.__name__}{depth}", begin, end, thread))  # type: ignore[operator]
            if depth and end > begin:
                fill(thread, begin, end, depth - 1)
            at = max(end + rng.randint(0, 2), at + 1)

    for thread in (1, 2):
        fill(thread, 0, 60, 3)
        host.extend(overhead("o", t, t + 3, thread) for t in rng.sample(range(60), 3))
        if crossing:
            host.extend(op("x", *sorted((rng.randint(0, 60), rng.randint(0, 60))), thread) for _ in range(4))  # type: ignore[call-arg]
    return trace_of(host)


CASES = pytest.mark.parametrize(("seed", "crossing"), [(s, c) for s in range(25) for c in (False, True)])


@CASES
def test_overlapping_finds_what_shares_time(seed: int, crossing: bool) -> None:
    trace = random_trace(seed, crossing)
    tree, host = tree_of(trace), trace.host
    for low in range(0, 62, 3):
        for length in (1, 7, 30):
            for thread in range(len(trace.threads)):
                found = tree.overlapping(host, thread, low, low + length)
                inside = (host.thread == thread) & (host.start < low + length) & (host.end > low)
                assert found[tree.depth[found] >= 0].tolist() == np.flatnonzero(inside & (tree.depth >= 0)).tolist()
    assert not len(tree.overlapping(host, -1, 0, 99))


@CASES
def test_parents_are_open_and_on_the_same_thread(seed: int, crossing: bool) -> None:
    trace = random_trace(seed, crossing)
    tree, host = tree_of(trace), trace.host
    rows = np.flatnonzero(tree.parent >= 0)
    above = tree.parent[rows]
    assert np.all(host.thread[rows] == host.thread[above])
    assert np.all((host.start[above] <= host.start[rows]) & (host.start[rows] <= host.end[above]))
    assert np.all(tree.depth[rows] == tree.depth[above] + 1)
    outside = (tree.depth < 0) & (host.kind != HostKind.OVERHEAD)
    assert np.all(host.kind[outside] == HostKind.ANNOTATION)
    if not crossing:
        assert not outside.any()
        assert tree.crossing == 0
        assert np.all(host.end[rows] <= host.end[above])


def enclosing(tree: Tree, row: int) -> list[int]:
    chain = [row]
    while tree.parent[chain[-1]] >= 0:
        chain.append(int(tree.parent[chain[-1]]))
    return chain


@CASES
def test_nearest_and_around_climb_the_same_chain(seed: int, crossing: bool) -> None:
    trace = random_trace(seed, crossing)
    tree = tree_of(trace)
    flag = trace.host.kind == HostKind.ANNOTATION
    rows = np.flatnonzero(tree.depth >= 0)
    seen = np.zeros(len(rows), np.bool_)
    for level in tree.around(rows):
        seen |= flag[level]
    nearest = tree.nearest(flag)
    for i, row in enumerate(rows.tolist()):
        wanted = next((r for r in enclosing(tree, row) if flag[r]), -1)
        assert nearest[row] == wanted
        assert seen[i] == (wanted >= 0)
