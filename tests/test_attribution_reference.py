"""Attribution against plain loops over small random inputs: whose a node is, what lies between, what is a pair."""

import random
import re
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from builders import Host, call, kernel, marker, note, op, trace_of
from ledgers import column
from msgspec.structs import replace
from recordings import recording

from loraprof.analysis.attribution import forward
from loraprof.analysis.attribution.attribute import attribute
from loraprof.analysis.attribution.graph_launches import graph_work
from loraprof.analysis.attribution.names import names_of
from loraprof.analysis.attribution.networks import Network, sampling
from loraprof.analysis.attribution.roles import Context
from loraprof.analysis.attribution.sequence import forward_owner, interval_owner, logical_threads
from loraprof.analysis.attribution.surroundings import place_between
from loraprof.analysis.attribution.unmarked import order
from loraprof.analysis.trace.call_tree import Tree, tree_of
from loraprof.analysis.trace.launch_links import link
from loraprof.analysis.trace.step_windows import marks_of
from loraprof.model.recording import ModuleCall, ModuleInfo
from loraprof.model.trace import NONE, Shapes, Trace
from loraprof.model.vocabulary import GRAD_CLIP, LOSS, OPTIMIZER, PHASE, ROLE, ROLES, HostKind

SEEDS = range(150)


def numbered(rng: random.Random) -> tuple[list[Host], list[Host]]:
    """Forward ops of two threads, some of one number, and nodes that name a logical thread; times in any order."""
    ops, nodes = list[Host](), list[Host]()
    for _ in range(rng.randrange(1, 9)):
        start = rng.randrange(20)
        ops.append(op("aten::f", start, start + rng.randrange(1, 6), rng.choice((1, 2)), rng.randrange(4)))
    for _ in range(rng.randrange(1, 7)):
        start = rng.randrange(30)
        nodes.append(op("node", start, start + 1, 3, rng.randrange(5), fwd_thread=rng.choice((1, 2))))
    return ops, nodes


def test_whose_forward_op_a_node_is_of() -> None:
    for seed in SEEDS:
        ops, called = numbered(random.Random(seed))
        trace = trace_of([*ops, *called])
        host = trace.host
        forward = np.flatnonzero(host.fwd_thread == 0)
        nodes = np.flatnonzero(host.fwd_thread > 0)
        threads = logical_threads(trace, forward, nodes)
        for logical in {*host.fwd_thread[nodes].tolist()}:
            asked = {int(host.sequence[n]) for n in nodes if host.fwd_thread[n] == logical}
            shared = {t: len(asked & {int(host.sequence[o]) for o in forward if host.thread[o] == t}) for t in (0, 1)}
            best = max(shared, key=lambda t: (shared[t], -t))
            assert threads.get(logical) == (best if shared[best] else None)
        found = forward_owner(trace, forward, nodes)
        for node, owner in zip(nodes.tolist(), found.tolist(), strict=True):
            thread = threads.get(int(host.fwd_thread[node]))
            fit = [o for o in forward.tolist() if host.thread[o] == thread and host.sequence[o] == host.sequence[node]]
            fit.sort(key=lambda o: (host.start[o], -host.end[o]))
            before = [o for o in fit if host.start[o] < host.start[node]]
            assert owner == ((before or fit or [NONE])[-1]), seed


def test_whose_recorded_call_a_node_is_of() -> None:
    """The shortest interval that holds its number; of equals the one that returned first."""
    for seed in SEEDS:
        rng = random.Random(seed)
        several = rng.random() < 0.5
        calls = []
        for number in range(rng.randrange(7)):
            low = rng.randrange(6)
            calls.append(
                ModuleCall(number, rng.choice((1, 2)) if several else 1, low, low + rng.randrange(4), False, 0)
            )
        rows = [op("aten::f", i, i + 1, rng.choice((1, 2)), rng.randrange(8)) for i in range(8)]
        rows += [op("node", 20 + i, 21 + i, 3, rng.randrange(-1, 10), fwd_thread=rng.choice((1, 2))) for i in range(6)]
        trace = trace_of(rows)
        host = trace.host
        nodes = np.flatnonzero(host.fwd_thread > 0)
        forward = np.flatnonzero((host.sequence >= 0) & (host.fwd_thread == 0))
        threads = logical_threads(trace, forward, nodes)
        used = [c for c in calls if c.after > c.before]
        many = len({c.thread for c in used}) > 1
        for node, owner in zip(nodes.tolist(), interval_owner(trace, calls, nodes).tolist(), strict=True):
            own = threads.get(int(host.fwd_thread[node]))
            fit = [
                (c.after - c.before, i, c.module)
                for i, c in enumerate(used)
                if c.before <= host.sequence[node] < c.after
                and (not many or (own is not None and trace.threads[own][1] == str(c.thread)))
            ]
            assert owner == (min(fit)[2] if fit else NONE), seed


def test_numbers_may_be_of_any_size() -> None:
    """What is held does not grow with them."""
    calls = [ModuleCall(0, 1, 0, 2**53, False, 0), ModuleCall(1, 1, 2**52, 2**52 + 1, False, 0)]
    trace = trace_of([op("node", i, i + 1, 1, number) for i, number in enumerate((7, 2**52, 2**53))])
    assert interval_owner(trace, calls, np.arange(3)).tolist() == [0, 1, NONE]


def test_work_outside_has_the_place_of_its_neighbours() -> None:
    """forward, here, backward: the loss; backward, a norm, here, optimizer: clipping; AMP's ops: the optimizer."""
    special = {OPTIMIZER: 90, GRAD_CLIP: 91, LOSS: 92}
    names = ("aten::linalg_vector_norm", "aten::mul", "aten::_amp_update_scale_", "aten::sum")
    for seed in SEEDS:
        rng = random.Random(seed)
        rows, what = list[Host](), list[str]()
        for at in range(rng.randrange(1, 12)):
            kind = rng.choice(("opened", "node", "optimizer", "out", "out", "out"))
            made = note if kind == "optimizer" else op
            rows.append(made(rng.choice(names), 10 * at, 10 * at + 5))
            what.append(kind)
        trace = trace_of(rows)
        index = np.arange(len(rows))
        flags = {kind: np.array([w == kind for w in what], np.bool_) for kind in ("opened", "node", "optimizer", "out")}
        marks = (flags["opened"], *(np.where(flags[k], index, NONE).astype(np.int32) for k in ("node", "optimizer")))
        held = np.array([rng.random() < 0.2 for _ in rows], np.bool_)
        module = np.where(held, 5, NONE).astype(np.int32)
        phase, role = np.zeros(len(rows), np.int8), np.zeros(len(rows), np.int8)
        expected = []
        for i, kind in enumerate(what):
            place = (int(module[i]), 0, 0)
            before = next((j for j in range(i - 1, -1, -1) if what[j] != "out"), None)
            after = next((what[j] for j in range(i + 1, len(what)) if what[j] != "out"), None)
            earlier = what[before] if before is not None else None
            if kind == "out" and any(w != "out" for w in what):
                own = rows[i].name
                gap = [j for j in range((before or 0), i + 1) if what[j] == "out" and not held[j]]
                normed = any("norm" in rows[j].name for j in gap)
                if (earlier, after) == ("opened", "node"):
                    place = (92, PHASE["forward"], ROLE["loss"])
                elif (earlier, after) == ("node", "optimizer") and not held[i] and normed:
                    place = (91, PHASE["optimizer"], ROLE["grad_clip"])
                if "_amp_" in own:
                    place = (90, PHASE["optimizer"], ROLE["optimizer"])
            expected.append(place)
        place_between(trace, names_of(trace), flags["out"], marks, special, module, phase, role)  # type: ignore[arg-type]
        assert [*zip(module.tolist(), phase.tolist(), role.tolist(), strict=True)] == expected, seed


PATHS = ("", "a", "lm_head", "b", "c")  # the third is a head by its path, the fourth is told to be one


class Asked:
    """Gives each question a role of its own."""

    table = tuple(ModuleInfo(id=i, path=path, cls="") for i, path in enumerate(PATHS))
    heads = frozenset({3})
    adapter_ops = ()
    behaviour: list[int]

    def of(self, *asked: object) -> str:
        return ROLES[crc32(repr(asked).encode()) % len(ROLES)]


def nested(rng: random.Random, rows: list[Host], at: int, depth: int) -> int:
    """Module calls, ops and launch calls within each other; the time at which they end."""
    begin = at
    at += rng.randrange(2)
    for _ in range(rng.randrange(1, 4) if depth < 4 else 0):
        at = nested(rng, rows, at, depth + 1)
    at += rng.randrange(1, 3)
    what = rng.choice(("module", "module", "op", "op", "op", "call"))
    if what == "module":
        rows.append(marker(f"m{rng.randrange(len(PATHS))}", begin, at))
    elif what == "op":
        rows.append(op(rng.choice(("aten::mm", "aten::add", "aten::bmm", "aten::softmax")), begin, at))
    else:
        rows.append(call("cudaLaunchKernel", begin, at))
    return at


def test_what_is_asked_of_each_row_of_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "behaviour_of", lambda trace, roles, module, tops: tops.tolist())
    shapes = (Shapes(((1,),), ("float",)), Shapes(((2,),), ("float",)))
    for seed in SEEDS[:20]:
        rng = random.Random(seed)
        events = list[Host]()
        at = 0
        for _ in range(rng.randrange(1, 5)):
            at = nested(rng, events, at, 0)
        trace = trace_of(events)
        host = replace(trace.host, shapes=np.array([rng.randrange(-1, 2) for _ in events]))
        trace, tree, roles = replace(trace, host=host, shapes=shapes), tree_of(trace), Asked()
        around: Any = tree.nearest(host.kind == HostKind.MARKER)
        module = np.full(len(host), NONE, np.int32)
        for row in range(len(host)):
            if around[row] != NONE and rng.random() < 0.95:  # the others are of compiled code
                module[row] = int(trace.names[host.name[around[row]]].rpartition("m")[2])
        asked = [r for r in range(len(host)) if module[r] != NONE and host.kind[r] != HostKind.MARKER]

        def top(row: int, trace: Trace = trace, tree: Tree = tree) -> int:
            found = NONE
            while row != NONE and not (found != NONE and trace.host.kind[row] != HostKind.OP):
                found = row if trace.host.kind[row] == HostKind.OP else found
                row = int(tree.parent[row])
            return found

        head = {i for i, path in enumerate(PATHS) if "head" in path or i in Asked.heads}
        opened = [r for r in range(len(host)) if around[r] == r and int(module[r]) in head]
        role = dict.fromkeys(range(len(host)), ROLE["other"])
        for ends in (opened, None):
            if ends is None:
                called = [r for r in asked if role[r] == ROLE["head"] and int(module[r]) not in head]
                if not called:
                    break
                ends, spared = opened + called, [r for r in asked if role[r] == ROLE["head"]]
            else:
                spared = []
            for row in asked:
                begin, start = host.start[around[row]], host.start[row]
                late = any(begin <= host.end[e] <= start for e in ends) and int(module[row]) not in head
                beside = [r for r in asked if around[r] == around[row] and re.search("bmm|soft", _name(trace, r))]
                core = all(start < host.start[r] for r in beside)
                above = top(row)
                named = (_name(trace, above), trace.shapes_of(above)) if above not in (row, NONE) else ("", None)
                context = Context(late and row not in spared, core, *named)
                said = roles.of(int(module[row]), _name(trace, row), trace.shapes_of(row), context)
                role[row] = ROLE[said]  # type: ignore[index]
        found = forward.forward_roles(trace, roles, module, around, tree)  # type: ignore[arg-type]
        assert found.tolist() == [*role.values()], seed
        assert roles.behaviour == [r for r in asked if top(r) == r]


def _name(trace: Trace, row: int) -> str:
    return trace.names[trace.host.name[row]]


def test_how_far_a_flag_holds_and_its_neighbours() -> None:
    for seed in SEEDS:
        rng = random.Random(seed)
        size = rng.randrange(1, 10)
        run = sorted(rng.choices(range(3), k=size))
        flag = [rng.random() < 0.6 for _ in range(size)]
        at = [i for i in range(size) if rng.random() < 0.5]
        before, after = order._neighbours(np.array(flag), column(run))
        for i in range(size):
            left = [j for j in range(i) if flag[j]][-1:]
            right = [j for j in range(i + 1, size) if flag[j]][:1]
            assert before[i] == (left[0] if left and run[left[0]] == run[i] else NONE)
            assert after[i] == (right[0] if right and run[right[0]] == run[i] else size)
        back = order._back(np.array(flag), column(run), column(at))
        for place, first in zip(at, back.tolist(), strict=True):
            low = place
            while low > 0 and run[low - 1] == run[low] and flag[low - 1]:
                low -= 1
            assert first == low, seed
        ranges = [sorted(rng.choices(range(size + 1), k=2)) for _ in range(rng.randrange(4))]
        covered = order._covered(size, column([a for a, _ in ranges]), column([b for _, b in ranges]))
        assert covered.tolist() == [any(a <= i < b for a, b in ranges) for i in range(size)]


@pytest.mark.parametrize(("rows", "silent", "sampled"), [(4, 4, 4), (5, 4, 4), (6, 4, 0), (3, 4, 0), (4, 3, 0)])
def test_calls_without_gradient_in_a_row_sample(rows: int, silent: int, sampled: int) -> None:
    """Four of the trained network's at least; the trace may hold one call more than the recording."""
    modules = [ModuleInfo(id=0, path="a", cls="A"), ModuleInfo(id=1, path="a.b", cls="B")]
    calls = [ModuleCall(0, 1, 5, 5 + (i >= silent), False, 0) for i in range(4)]
    calls += [ModuleCall(1, 1, 5, 6, False, 0)] * 3  # of a module within it
    made = replace(recording(), modules=modules, calls=calls)
    trace = trace_of(
        [one for i in range(rows) for one in (marker("m0", 10 * i, 10 * i + 8), op("x", 10 * i + 2, 10 * i + 5))]
    )
    opens = column([0 if name == "loraprof::m0" else NONE for name in trace.names])
    flag = sampling(trace, made, (Network("a", 0, True, 1),), opens)
    assert int(flag.sum()) == 2 * sampled
    assert not sampling(trace, made, (Network("a", 0, False, 1),), opens).any()
    assert not sampling(trace, None, (), opens).any()


def test_kernels_of_a_graph_are_those_of_the_step_without_one() -> None:
    """By their order among those of one name, where both steps have as many; a step that is no graph's is no model."""
    calls = (("A_0", 10), ("B_0", 20), ("B_0", 30))
    frames = [Host(HostKind.PYTHON, f"nn.Module: {name}", at, at + 9) for name, at in calls]
    work = [op("aten::mm", at + 1, at + 8) for at in (10, 20, 30)]
    launched = call("cudaGraphLaunch", 110, 115, correlation=500)
    plain = [kernel(at + 40, at + 45, (at + 2, at + 3), name=name) for name, at in (("x", 10), ("y", 20), ("x", 30))]
    graph = [kernel(at, at + 5, name=name, correlation=500) for name, at in (("x", 120), ("x", 130), ("y", 140))]
    steps = [note("ProfilerStep#0", 0, 90), note("ProfilerStep#1", 90, 190)]
    more = kernel(150, 155, name="y", correlation=500)
    for extra, expected in (([], ["A_0", "B_0", "B_0"]), ([more], ["A_0", "B_0"])):
        trace = trace_of([*steps, *frames, *work, launched], [*plain, *graph, *extra])
        attribution, links = attribute(trace), link(trace)
        found = graph_work(trace, links, attribution, marks_of(trace), None)
        assert found is not None
        assert trace.device.start[found.rows].tolist() == [120, 130, 140][: len(expected)]
        assert [attribution.paths[m] for m in found.module.tolist()] == expected
        assert set(found.phase.tolist()) == {PHASE["forward"]}
    early = trace_of([*steps[1:], *frames, *work, launched], [*plain, *graph])  # the other step is not in the trace
    none = graph_work(early, link(early), attribute(early), marks_of(early), None)
    assert none is not None
    assert len(none.rows) == 0
    alone = trace_of(work, plain)
    assert graph_work(alone, link(alone), attribute(alone), marks_of(alone), None) is None
