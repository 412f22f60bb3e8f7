"""The trace room against what its sentences say, row by row in plain loops, over small tables full of ties."""

import random
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest
from builders import Device, Host, call, copy, kernel, marker, memset, note, op, overhead, step, trace_of

from loraprof.analysis.trace import call_tree, intervals
from loraprof.analysis.trace.call_tree import tree_of
from loraprof.analysis.trace.launch_links import Links, link
from loraprof.analysis.trace.step_windows import Marks, cpu_windows, finished, marks_of, windows
from loraprof.model.trace import NONE, Int64, Trace, taken
from loraprof.model.vocabulary import HostKind

SEEDS = range(300)
Piece = tuple[int, int]


def column(values: Iterable[int]) -> Int64:
    return np.array([*values], np.int64)


def columns(pieces: list[Piece]) -> tuple[Int64, Int64]:
    return column(a for a, _ in pieces), column(b for _, b in pieces)


def ranges(rng: random.Random, most: int = 8, high: int = 10) -> list[Piece]:
    """Any intervals, many empty, many that share an edge; sorted as tables are."""
    drawn = [tuple(sorted(rng.choices(range(high + 1), k=2))) for _ in range(rng.randrange(most))]
    return sorted(((a, b) for a, b in drawn), key=lambda one: (one[0], -one[1]))


def disjoint(rng: random.Random) -> list[Piece]:
    cuts = sorted(rng.sample(range(20), rng.randrange(10)))
    return [piece for piece in pairwise(cuts) if rng.random() < 0.6]


def covered(pieces: list[Piece]) -> set[int]:
    return {t for a, b in pieces for t in range(a, b)}


@pytest.mark.parametrize("seed", range(0, 300, 50))
def test_covers(seed: int) -> None:
    for one in range(seed, seed + 50):
        rng = random.Random(one)
        pieces, low, high = ranges(rng), rng.randrange(-3, 6), rng.randrange(5, 14)
        instants = covered(pieces)
        cover = intervals.union(*columns(pieces))
        edges = [t for t in range(-1, 12) if (t in instants) != (t - 1 in instants)]
        assert [*zip(cover.start.tolist(), cover.end.tolist(), strict=True)] == [
            *zip(edges[::2], edges[1::2], strict=True)
        ]
        asked = [(rng.randrange(-2, 13), rng.randrange(-2, 13)) for _ in range(6)]
        assert cover.measure(*columns(asked)).tolist() == [len(instants & {*range(a, b)}) for a, b in asked]
        free = set(range(low, high)) - instants
        begin, stop = intervals.gaps(cover, low, high)
        assert (stop > begin).all()
        assert (begin[1:] > stop[:-1]).all()
        assert covered([*zip(begin.tolist(), stop.tolist(), strict=True)]) == free
        begin, stop = intervals.owned(*columns(pieces))
        reach = -1
        for (a, b), got in zip(pieces, zip(begin.tolist(), stop.tolist(), strict=True), strict=True):
            assert {*range(*got)} == {t for t in range(a, b) if t >= reach}
            assert got[0] <= got[1]
            reach = max(reach, b)


@pytest.mark.parametrize("seed", range(0, 300, 50))
def test_what_two_lists_share(seed: int) -> None:
    for one in range(seed, seed + 50):
        rng = random.Random(one)
        first, second = disjoint(rng), disjoint(rng)
        low, high, row, other = intervals.meet(*columns(first), *columns(second))
        truth = [
            (max(a, c), min(b, d), i, j)
            for i, (a, b) in enumerate(first)
            for j, (c, d) in enumerate(second)
            if max(a, c) < min(b, d)
        ]
        assert [*zip(low.tolist(), high.tolist(), row.tolist(), other.tolist(), strict=True)] == truth


def parents(rows: list[Piece]) -> list[int]:
    """The latest-started one before it that is open."""
    return [
        max((j for j in range(i) if rows[j][1] > s and rows[j][0] < rows[j][1]), default=NONE)
        for i, (s, _) in enumerate(rows)
    ]


@pytest.mark.parametrize("many", [0, 1, 200])
@pytest.mark.parametrize("crossing", [False, True])
def test_nesting(many: int, crossing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "MANY_LEVELS", many)
    for seed in SEEDS:
        rows = ranges(random.Random(seed))
        truth = parents(rows)
        nested = all(j == NONE or rows[i][1] <= rows[j][1] for i, j in enumerate(truth))
        if nested == crossing:
            continue
        depth = list[int]()
        for j in truth:
            depth.append(0 if j == NONE else depth[j] + 1)
        parent, level, found = intervals.nesting(*columns(rows))
        assert (parent.tolist(), level.tolist(), found) == (truth, depth, nested)
        owner = {t: max(i for i, (a, b) in enumerate(rows) if a <= t < b) for t in covered(rows)}
        slices = [*zip(*(one.tolist() for one in intervals.innermost(*columns(rows))), strict=True)]
        assert all(a < b for a, b, _ in slices)
        assert {t: i for a, b, i in slices for t in range(a, b)} == owner


def test_ranges_that_outlast_what_they_began_in() -> None:
    for seed in SEEDS:
        rng = random.Random(seed)
        rows = ranges(rng)
        ranged = np.array([rng.random() < 0.6 for _ in rows], np.bool_)
        truth = [
            bool(ranged[i]) and any(not ranged[j] and s < rows[j][1] < e for j in range(i))
            for i, (s, e) in enumerate(rows)
        ]
        assert intervals.outlasting(*columns(rows), ranged).tolist() == truth


MAKES = (op, note, overhead, step, call, marker)


def hosts(rng: random.Random) -> list[Host]:
    """Two threads of records that nest or cross; frames of modules and of Python, steps and overhead among them."""
    out = []
    for number in range(rng.randrange(14)):
        start = rng.randrange(12)
        end, thread = start + rng.choice((0, 1, 2, 4, 8)), rng.choice((1, 2))
        match rng.randrange(7):
            case 0:
                out.append(
                    Host(HostKind.PYTHON, rng.choice(("nn.Module: Linear_0", "train.py(3): go")), start, end, thread)
                )
            case 1:
                out.append(overhead("Buffer Flush", start, end, thread))
            case 2:
                out.append(step(number, start, end, thread))
            case 3:
                out.append(note("range", start, end, thread))
            case 4:
                out.append(call("cudaEventRecord", start, end, thread))
            case _:
                out.append(op(f"aten::o{number % 3}", start, end, thread))
    return out


def takes_part(trace: Trace, row: int) -> bool:
    kind, name = trace.host.kind[row], trace.names[trace.host.name[row]]
    if kind == HostKind.ANNOTATION:
        return not name.startswith("ProfilerStep")
    return kind != HostKind.OVERHEAD and (kind != HostKind.PYTHON or name.startswith("nn.Module: "))


def climbed(trace: Trace) -> tuple[list[int], int]:
    """Parents by the sentences: a range that outlasts what it began in has no place where a thread's rows cross."""
    host, parent, crossing = trace.host, [NONE] * len(trace.host), 0
    for thread in range(len(trace.threads)):
        rows = [i for i in np.flatnonzero(host.thread == thread).tolist() if takes_part(trace, i)]
        pieces = [(int(host.start[i]), int(host.end[i])) for i in rows]
        if any(j != NONE and pieces[i][1] > pieces[j][1] for i, j in enumerate(parents(pieces))):
            crossing += 1
            loose = [host.kind[i] in (HostKind.ANNOTATION, HostKind.PYTHON) for i in rows]
            gone = {
                i
                for i, (s, e) in enumerate(pieces)
                if loose[i] and any(not loose[j] and s < pieces[j][1] < e for j in range(i))
            }
            rows = [row for i, row in enumerate(rows) if i not in gone]
            pieces = [piece for i, piece in enumerate(pieces) if i not in gone]
        for i, j in enumerate(parents(pieces)):
            parent[rows[i]] = NONE if j == NONE else rows[j]
        for row in set(np.flatnonzero(host.thread == thread).tolist()) - set(rows):
            parent[row] = -2  # takes no part
    return parent, crossing


@pytest.mark.parametrize("many", [0, 1, 200])
def test_trees(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_tree, "MANY_LEVELS", many)
    for seed in range(120):
        rng = random.Random(seed)
        trace = trace_of(hosts(rng))
        host, tree = trace.host, tree_of(trace)
        truth, crossing = climbed(trace)
        assert tree.crossing == crossing
        assert tree.parent.tolist() == [max(p, NONE) for p in truth]
        chains = list[list[int]]()
        for row, above in enumerate(truth):
            chain = [] if above == -2 else [row]
            while above >= 0:
                chain.append(above)
                above = truth[above]
            chains.append(chain)
        assert tree.depth.tolist() == [len(chain) - 1 for chain in chains]
        assert [rows.tolist() for rows in tree.levels] == [
            [i for i, chain in enumerate(chains) if len(chain) == d + 1]
            for d in range(max(map(len, chains), default=0))
        ]
        flag = np.array([rng.random() < 0.4 for _ in chains], np.bool_)
        assert tree.nearest(flag).tolist() == [next((i for i in chain if flag[i]), NONE) for chain in chains]
        low, high = sorted(rng.choices(range(16), k=2))
        near = tree.during(host, low, high)
        begun = (host.start >= low) & (host.start <= high)
        assert np.array_equal(near.nearest(flag)[begun], tree.nearest(flag)[begun])
        assert all((host.end[rows] >= low).all() and (host.start[rows] <= high).all() for rows in near.levels)
        some = [i for i, chain in enumerate(chains) if chain and rng.random() < 0.5]
        longest = max((len(chains[i]) for i in some), default=1)
        assert [rows.tolist() for rows in tree.around(column(some))] == [
            [chains[i][min(d, len(chains[i]) - 1)] for i in some] for d in range(longest)
        ]
        thread, (low, high) = rng.randrange(max(len(trace.threads), 1)), sorted(rng.choices(range(16), k=2))
        expected = [
            i
            for i in np.flatnonzero(host.thread == thread).tolist()
            if host.start[i] < high and host.end[i] > low and (chains[i] or host.start[i] >= low)
        ]
        assert tree.overlapping(host, thread, low, high).tolist() == expected


def test_a_tree_deeper_than_sixteen_bits() -> None:
    tree = tree_of(trace_of([op("x", i, 70_000 - i) for i in range(33_000)]))
    assert [rows.tolist() for rows in tree.levels] == [[i] for i in range(33_000)]


CALLS = ("cudaLaunchKernel", "cudaMemcpyAsync", "cudaMemsetAsync", "cudaEventRecord", "cudaLaunchHostFunc")


def submitted(rng: random.Random) -> tuple[list[Host], list[Device]]:
    """Calls and records whose correlations agree, are shared, are lost; captures among them."""
    calls: list[Host] = []
    for _ in range(rng.randrange(9)):
        start, number = rng.randrange(10), rng.choice((-1, 0, 2, 3, 4, 5))
        calls.append(call(rng.choice(CALLS), start, start + rng.randrange(3), rng.choice((1, 2)), number))
    for name in ("cudaStreamBeginCapture", "cudaStreamEndCapture") * rng.randrange(3):
        start = rng.randrange(10)
        calls.append(call(name, start, start + 1, rng.choice((1, 2))))
    if rng.random() < 0.5:
        calls.append(op("aten::mm", 0, 9))
    records = []
    for _ in range(rng.randrange(7)):
        start = rng.randrange(12)
        made = rng.choice((kernel, copy, memset))
        records.append(made(start, start + rng.randrange(4), correlation=rng.choice((0, 1, 2, 3, 4, 6))))
    return calls, records


def joined(trace: Trace) -> Links:
    host, device = trace.host, trace.device
    names = [trace.names[n] for n in host.name]
    calls = [i for i in range(len(host)) if host.kind[i] == HostKind.RUNTIME and host.correlation[i] >= 0]
    calls.sort(key=lambda i: (host.start[i], i))
    by_number = {int(n): [i for i in calls if host.correlation[i] == n] for n in device.correlation}
    launch = []
    for start, number in zip(device.start.tolist(), device.correlation.tolist(), strict=True):
        before = [i for i in by_number[number] if host.start[i] < start]
        launch.append((before[-1:] or by_number[number][:1] or [NONE])[0])
    must = [
        i for i in calls
        if ("Launch" in names[i] and "HostFunc" not in names[i]) or ("Memcpy" in names[i] and "Async" in names[i])
    ]  # fmt: skip
    lost = [i for i in must if host.correlation[i] not in device.correlation]
    captured = 0
    for i in lost:
        edges = [j for j in range(i) if "Capture" in names[j] and host.thread[j] == host.thread[i]]
        captured += bool(edges) and "Begin" in names[edges[-1]]
    first = min((int(host.correlation[i]) for i in calls), default=0)
    missing = [i for i, row in enumerate(launch) if row == NONE]
    return Links(
        launch=column(launch),
        is_launch=np.array([i in must or i in launch for i in range(len(host))], np.bool_),
        launches_without_kernel=len(lost) - captured,
        kernels_without_launch=len(missing),
        orphans=sum(bool(device.correlation[i] < first) for i in missing),
        negative_latency=sum(bool(row != NONE and host.start[row] >= device.start[i]) for i, row in enumerate(launch)),
        ambiguous=sum(len(rows) > 1 for rows in by_number.values()),
        captured=captured,
    )


def test_links() -> None:
    for seed in SEEDS:
        trace = trace_of(*submitted(random.Random(seed)))
        found, truth = link(trace), joined(trace)
        for name in Links.__struct_fields__:
            one, two = getattr(found, name), getattr(truth, name)
            assert np.array_equal(one, two), (seed, name)


def test_windows_tile_and_end_with_the_last_record_that_the_step_launched() -> None:
    for seed in SEEDS:
        rng = random.Random(seed)
        calls, records = submitted(rng)
        edges = sorted(rng.sample(range(14), 3))
        pause = rng.randrange(2)
        steps = [step(i, a, b - pause * (b - a > 1)) for i, (a, b) in enumerate(pairwise(edges))]
        trace = trace_of([*calls, *steps], records)
        links, on_device = link(trace), np.array([rng.random() < 0.8 for _ in records], np.bool_)
        host, device, at = trace.host, trace.device, edges[0]
        found = windows(marks_of(trace), trace, links, on_device)
        for one, mark in zip(found, steps, strict=True):
            ends = [
                int(device.end[i])
                for i, row in enumerate(links.launch.tolist())
                if row != NONE and on_device[i] and mark.start <= host.start[row] < mark.end
            ]
            end = max(at, max(ends, default=mark.end))
            assert (one.name, one.noted_start, one.noted_end) == (mark.name, mark.start, mark.end)
            assert (one.start, one.end, one.first) == (at, end, one is found[0])
            at = end


def test_steps_that_overlap_or_are_missing_are_told() -> None:
    def note_of(*steps: tuple[int, int, int]) -> str | None:
        return marks_of(trace_of([step(*one) for one in steps])).note

    assert note_of((3, 0, 10), (4, 10, 20), (5, 20, 30)) is None
    assert (
        note_of((0, 0, 11), (1, 10, 20))
        == "1 step annotations overlap the one before: their work is counted with the earlier step"
    )
    assert "2 step annotations overlap" in (note_of((0, 0, 11), (1, 10, 20), (2, 19, 30), (3, 30, 40)) or "")
    assert note_of((0, 0, 10), (2, 10, 20), (3, 20, 30), (3, 30, 40)) == "steps are missing: their numbers jump 2 times"


def test_steps_inferred() -> None:
    rows = [op("aten::mm", 5, 8, thread=2), op("aten::mm", 6, 9, thread=2), op("aten::mm", 7, 30, thread=1)]
    assert marks_of(trace_of([note("x", 0, 99)])) == Marks((), (), (), NONE, "the trace holds no work")
    whole = Marks(("trace",), (5,), (40,), 1, "no step annotations: the whole trace is one window")
    assert marks_of(trace_of(rows, [kernel(20, 40)])) == whole
    assert marks_of(trace_of([*rows, note("Optimizer.step#SGD.step", 10, 12)], [kernel(20, 40)])) == whole
    two = [note("Optimizer.step#SGD.step", 10, 12), note("Optimizer.step#SGD.step", 20, 25)]
    marks = marks_of(trace_of([*rows, *two]))
    assert (marks.names, marks.start, marks.end, marks.thread) == (
        ("OptimizerStep#0", "OptimizerStep#1"), (5, 12), (12, 25), 0,
    )  # fmt: skip
    apart = [note("Optimizer.step#SGD.step", 10, 12, 2), note("Optimizer.step#SGD.step", 20, 25, 1)]
    assert marks_of(trace_of([*rows, *apart])).thread == 1
    assert marks_of(trace_of([], [kernel(20, 40)])).thread == NONE


def test_a_step_that_did_not_come_to_its_end_is_left_out() -> None:
    marks = Marks(("a", "b"), (0, 5), (5, 9), 0, None)
    assert finished(marks, None) is finished(marks, 2) is marks
    one = finished(marks, 1)
    assert (one.names, one.start, one.end) == (("a",), (0,), (5,))
    assert one.note == "the script ended within b: that step is left out"


def test_windows_of_a_cpu_are_the_annotations() -> None:
    found = cpu_windows(Marks(("a", "b", "c", "d"), (5, 8, 8, 20), (10, 9, 15, 30), 3, None))
    assert [(w.start, w.end, w.noted_start, w.noted_end) for w in found] == [
        (5, 10, 5, 10), (10, 10, 8, 9), (10, 15, 8, 15), (20, 30, 20, 30),
    ]  # fmt: skip


def test_what_an_id_column_points_at() -> None:
    assert taken(column([7, 8]), column([1, NONE, 0])).tolist() == [8, NONE, 7]
    assert taken(column([]), column([NONE, 0]), 5).tolist() == [5, 5]
