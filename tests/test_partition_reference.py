"""Entries of a step against a count of every nanosecond: whose it is, what it is charged to, how often it counts."""

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from builders import Device, Host, call, comm, copy, kernel, memset, note, op, overhead, step, trace_of

from loraprof.analysis.analyse import analyse
from loraprof.analysis.attribution.attribute import Attribution, attribute
from loraprof.analysis.partition.cpu import split_cpu, split_unread
from loraprof.analysis.partition.gpu import DeviceWork, device_work, gaps_of, split, turnaround_floor
from loraprof.analysis.partition.host_state import PYTHON, STATES, Timeline, classify, idle_causes, measure, states_of
from loraprof.analysis.partition.ledger import Ledger, idle_kind
from loraprof.analysis.trace.launch_links import Links, link
from loraprof.analysis.trace.step_windows import Window
from loraprof.model.trace import NONE, Trace
from loraprof.model.vocabulary import CLASSES, PHASE, ROLE, Cause, DeviceClass, HostKind

SEEDS = range(100)
END = 40
LOADER = "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__"
CALLS = ("cudaStreamSynchronize", "cudaMalloc", "cudaEventRecord")


def hosts(rng: random.Random, count: int) -> list[Host]:
    out = []
    for number in range(count):
        start = rng.randrange(END)
        end, thread = start + rng.randrange(1, 9), rng.choice((1, 1, 2))
        match rng.randrange(6):
            case 0:
                out.append(call(rng.choice(CALLS), start, end, thread, correlation=1000 + number))
            case 1:
                out.append(note(LOADER, start, end, thread))
            case 2:
                out.append(overhead(rng.choice(("Buffer Flush", "Lazy Function Loading")), start, end, thread))
            case 3:
                out.append(note("gloo:all_reduce", start, end, 2))
            case _:
                out.append(op(f"aten::o{number % 4}", start, end, thread))
    return out


def devices(rng: random.Random) -> list[Device]:
    """Records of all classes, some of no length, some without a call or before it; two kinds of names beside."""
    out = []
    for _ in range(rng.randrange(9)):
        start = rng.randrange(END)
        called = start - rng.randrange(-1, 12)
        launch = None if rng.random() < 0.15 else (called, called + rng.randrange(4))
        made = rng.choice((kernel, kernel, comm, copy, memset))
        end = start + rng.choice((0, 1, 3, 6))
        out.append(made(start, end, launch, stream=rng.choice((7, 8)), thread=rng.choice((1, 2))))
    if rng.random() < 0.3:
        out.append(kernel(5, 9, (1, 2), name="kDequantizeBlockwise<float>"))
    return out


def made(seed: int) -> tuple[Trace, Links, Attribution, Window]:
    rng = random.Random(seed)
    trace = trace_of([op("aten::first", 0, 1), *hosts(rng, rng.randrange(12))], devices(rng))
    low, high = sorted(rng.sample(range(-2, END + 8), 2))
    return trace, link(trace), attribute(trace), Window("w", low, high, low, high, 0, first=rng.random() < 0.5)


def shares(work: DeviceWork, i: int, window: Window) -> bool:
    start, end = int(work.start[i]), int(work.end[i])
    if start < end:
        return start < window.end and end > window.start
    return window.start < start <= window.end or (window.first and start == window.start)


def busy_of(trace: Trace, work: DeviceWork, window: Window) -> tuple[list[tuple[int, ...]], Counter[tuple[str, str]]]:
    """(class, phase, role, module, name, op, record, ns, whole ns, events) of each record, and what hides what."""
    near = [i for i in range(len(work.rows)) if shares(work, i, window)]
    spent, hidden = Counter[int](), Counter[tuple[str, str]]()
    for t in range(window.start, window.end):
        here = [i for i in near if work.start[i] <= t < work.end[i]]
        kinds = sorted({int(work.kind[i]) for i in here})
        if here:
            spent[next(i for i in here if work.kind[i] == kinds[0])] += 1
        for under in kinds[1:]:
            hidden[CLASSES[kinds[0]], CLASSES[under]] += 1
    out = []
    for i in near:
        row, launch = int(work.rows[i]), int(work.launch[i])
        whole = min(int(work.end[i]), window.end) - max(int(work.start[i]), window.start)
        counted = int(window.first or work.start[i] >= window.start)
        around = int(work.op[i])
        columns = (work.kind[i], work.phase[i], work.role[i], work.module[i], trace.device.name[row])
        out.append((*map(int, columns), around, row, spent[i], whole, counted))
        assert launch == NONE or work.call[i] == trace.host.start[launch]
    return out, hidden


def rows_of(ledger: Ledger, busy: bool) -> list[tuple[int, ...]]:
    columns = (ledger.kind, ledger.phase, ledger.role, ledger.module, ledger.name, ledger.op, ledger.record)
    rows = zip(
        *(c[ledger.busy == busy].tolist() for c in (*columns, ledger.ns, ledger.full_ns, ledger.events)), strict=True
    )
    return [*rows]


def charged(
    trace: Trace, work: DeviceWork, window: Window, states: dict[int, Timeline], tau: int
) -> list[tuple[int, ...]]:
    """(cause, phase, role, module, ns) of what each gap is charged, as the sentences say."""
    near = [i for i in range(len(work.rows)) if shares(work, i, window)]
    free = [t for t in range(window.start, window.end) if not any(work.start[i] <= t < work.end[i] for i in near)]
    out = []
    edges = [t for t in range(window.start, window.end + 1) if (t in free) != (t - 1 in free)]
    for low, high in zip(edges[::2], edges[1::2], strict=True):
        starting = [i for i in range(len(work.rows)) if work.start[i] == high]
        ender = min(starting, key=lambda i: (trace.device.correlation[work.rows[i]], i), default=None)
        launch = NONE if ender is None else int(work.launch[ender])
        pieces = Counter[Cause]()
        start, end = int(trace.host.start[launch]), min(int(trace.host.end[launch]), high)
        if launch == NONE or start >= high:
            pieces["unknown"] = high - low
        elif start <= low:
            pieces["turnaround"] = min(tau, high - low)
            pieces["queued"] = high - low - pieces["turnaround"]
        else:
            pieces["launch_api"], pieces["launch_latency"] = end - start, high - end
            line = states[int(trace.host.thread[launch])]
            for cause, ns in zip(
                idle_causes(trace), measure(line, np.array([low]), np.array([start]))[:, 0].tolist(), strict=True
            ):
                pieces[cause] += ns
        owner = (PHASE["other"], ROLE["other"], NONE)
        if ender is not None:
            owner = (int(work.phase[ender]), int(work.role[ender]), int(work.module[ender]))
        out += [(idle_kind(cause), *owner, ns) for cause, ns in pieces.items() if ns]
    return sorted(out)


@pytest.mark.parametrize("first", range(0, 100, 20))
def test_a_gpu_s_entries(first: int) -> None:
    for seed in SEEDS[first : first + 20]:
        trace, links, attribution, window = made(seed)
        work = device_work(trace, links, attribution, trace.device.device == 0)
        states = states_of(trace, links, 0)
        ledger = split(trace, work, window, states, 2)
        busy, hidden = busy_of(trace, work, window)
        assert rows_of(ledger, busy=True) == busy, seed
        assert {(o.over, o.under): o.ns for o in ledger.overlap} == hidden, seed
        idle = rows_of(ledger, busy=False)
        assert {row[4:7] for row in idle} <= {(NONE, NONE, NONE)}
        assert all(row[7] == row[8] for row in idle)
        assert {row[9] for row in idle} <= {1}
        split_up = Counter[tuple[int, ...]]()
        for row in charged(trace, work, window, states, 2):
            split_up[row[:4]] += row[4]
        found = Counter[tuple[int, ...]]()
        for row in idle:
            found[row[:4]] += row[7]
        assert found == split_up, seed
        assert int(ledger.ns.sum()) == window.end - window.start


def test_roles_of_records() -> None:
    """A collective communicates, whoever launched it; a copy within a module is the module's; weights are unpacked."""
    host = [Host(HostKind.PYTHON, "nn.Module: Linear_0", 0, 50), op("aten::mm", 1, 40), op("aten::far", 60, 90)]
    device = [
        kernel(100, 110, (2, 3)), comm(120, 130, (4, 5)), copy(140, 150, (6, 7)), copy(160, 170, (62, 63)),
        kernel(180, 190, (8, 9), name="kDequantizeBlockwise<float>"), kernel(200, 210),
    ]  # fmt: skip
    trace = trace_of(host, device)
    attribution = attribute(trace)
    work = device_work(trace, link(trace), attribution, trace.device.device == 0)
    own = int(attribution.role[trace.host.name.tolist().index(trace.names.index("aten::mm"))])
    roles = [own, ROLE["comm"], own, ROLE["copy"], ROLE["dequant"], ROLE["other"]]
    assert work.role.tolist() == roles
    assert [trace.names[trace.host.name[i]] if i != NONE else "" for i in work.op.tolist()] == (
        ["aten::mm"] * 3 + ["aten::far", "aten::mm", ""]
    )
    assert (work.call[-1], work.called[-1]) == (0, 0)
    assert [CLASSES[k] for k in work.kind.tolist()] == ["compute", "comm", "copy", "copy", "compute", "compute"]


@pytest.mark.parametrize(("first", "second", "busiest"), [(10, 100, 1), (100, 10, 0), (50, 50, 0)])
def test_the_busiest_of_several_devices_is_reported(first: int, second: int, busiest: int) -> None:
    lengths = enumerate((first, second, 5))
    device = [kernel(1000, 1000 + ns, (10 * i, 10 * i + 2), device=i) for i, ns in lengths]
    found = analyse(trace_of([step(0, 0, 2000)], device))
    assert found.work is not None
    assert found.trace.device.device[found.work.rows].tolist() == [busiest]
    assert sorted(found.others) == [i for i in range(3) if i != busiest]
    assert found.steps[0].ns(kind="busy") == max(first, second)
    assert {i: steps[0].ns(kind="busy") for i, steps in found.others.items()}[2] == 5


def test_what_ends_a_gap() -> None:
    """Of two records that start there the one with the lower correlation; none where nothing starts."""
    records = [kernel(10, 20, (1, 3), correlation=9, stream=8), kernel(10, 15, (4, 6), correlation=5, stream=7)]
    trace = trace_of([], [*records, kernel(50, 60, (30, 55), correlation=7)])
    work = device_work(trace, link(trace), attribute(trace), trace.device.device == 0)
    gaps = gaps_of(trace, work, np.array([0, 20, 60]), np.array([10, 50, 99]))
    assert trace.device.correlation[work.rows[gaps.ender[:2]]].tolist() == [5, 7]
    assert gaps.ender[2] == NONE
    assert (gaps.call.tolist(), gaps.called.tolist()) == ([4, 30, 0], [6, 50, 0])
    assert (gaps.unknown.tolist(), gaps.queued.tolist()) == ([False, False, True], [False, False, False])


def test_the_turnaround_floor() -> None:
    for seed in SEEDS:
        rng = random.Random(seed)
        records = []
        for _ in range(rng.randrange(1, 12)):
            start, called = rng.randrange(60), rng.randrange(60)
            launch = None if rng.random() < 0.2 else (called, called + rng.randrange(3))
            records.append(
                kernel(start, start + rng.randrange(8), launch, stream=rng.choice((7, 8)), device=rng.choice((0, 1)))
            )
        trace = trace_of([], records)
        links, device = link(trace), trace.device
        order = sorted(
            range(len(device)),
            key=lambda i: (device.device[i], device.stream[i], device.start[i], device.correlation[i]),
        )
        waits = sorted(
            int(device.start[b] - device.end[a])
            for a, b in pairwise(order)
            if (device.device[a], device.stream[a]) == (device.device[b], device.stream[b])
            and links.launch[b] != NONE
            and trace.host.end[links.launch[b]] < device.end[a] <= device.start[b]
        )
        assert turnaround_floor(trace, links) == (waits[int(0.05 * (len(waits) - 1))] if waits else 0)
        assert turnaround_floor(trace_of([], records, rocm=True), links) == 0


def loads(trace: Trace, row: int) -> bool:
    return trace.names[trace.host.name[row]] == LOADER


def cpu_rows(
    trace: Trace, attribution: Attribution, window: Window
) -> tuple[Counter[tuple[int, ...]], Counter[tuple[int, ...]]]:
    """ns of each op, and of each (cause, op it is charged to), counted one by one."""
    host, parent = trace.host, attribution.tree.parent
    rows = [
        i
        for i in range(len(host))
        if host.thread[i] == window.thread and (host.kind[i] == HostKind.OP or loads(trace, i))
    ]
    rows = [i for i in rows if host.start[i] < window.end and host.end[i] > window.start]
    owner = list[int]()
    for t in range(window.start, window.end):
        here = [i for i in rows if host.start[i] <= t < host.end[i]]
        # clipped to the window those that began before it start together, the longest first
        shown = {i: (max(int(host.start[i]), window.start), -min(int(host.end[i]), window.end), i) for i in here}
        owner.append(max(shown, key=shown.__getitem__, default=NONE))

    def data(row: int) -> bool:
        while row != NONE:
            if loads(trace, row):
                return True
            row = int(parent[row])
        return False

    slices = list[tuple[int, int, int]]()  # (begin, end, owner)
    for t, row in enumerate(owner, window.start):
        if slices and slices[-1][2] == row:
            slices[-1] = (slices[-1][0], t + 1, row)
        else:
            slices.append((t, t + 1, row))

    def following(t: int) -> int:
        return next((row for begin, _, row in slices if begin >= t and row != NONE and not data(row)), NONE)

    ops, idle = Counter[tuple[int, ...]](), Counter[tuple[int, ...]]()
    for begin, end, row in slices:
        if row != NONE and not data(row):
            ops[row,] += end - begin
        elif row != NONE:
            idle[idle_kind("data"), following(begin)] += end - begin
        else:
            waited = waits(trace, window, begin, end)
            idle[idle_kind("sync"), following(end)] += len(waited)
            idle[idle_kind("python"), following(end)] += end - begin - len(waited)
    return ops, +idle


def waits(trace: Trace, window: Window, low: int, high: int) -> set[int]:
    """Where the gap ``[low, high)`` waits for a collective: one that ends in it, or lies in it by more than half."""
    host, out = trace.host, set[int]()
    for i in range(len(host)):
        s, e = int(host.start[i]), int(host.end[i])
        if host.thread[i] == window.thread or trace.names[host.name[i]] != "gloo:all_reduce":
            continue
        if s >= window.end or e <= window.start:
            continue
        inside = set(range(max(s, low), min(e, high)))
        if low < e <= high or (low <= (s + e) // 2 < high and 2 * len(inside) > e - s):
            out |= inside
    return out


@pytest.mark.parametrize("first", range(0, 100, 20))
def test_a_cpu_s_entries(first: int) -> None:
    for seed in SEEDS[first : first + 20]:
        rng = random.Random(seed)
        rows = [one for one in hosts(rng, rng.randrange(14)) if one.kind in (HostKind.OP, HostKind.ANNOTATION)]
        trace = trace_of([op("aten::first", 0, 1), *rows])
        attribution = attribute(trace)
        if attribution.tree.crossing:  # what encloses what is then a matter of the tree
            continue
        low, high = sorted(rng.sample(range(-2, END + 8), 2))
        window = Window("w", low, high, low, high, 0)
        ledger = split_cpu(trace, attribution, window)
        ops, idle = cpu_rows(trace, attribution, window)
        host = trace.host
        busy = ledger.busy
        assert (
            Counter(dict(zip(((o,) for o in ledger.op[busy].tolist()), ledger.ns[busy].tolist(), strict=True))) == ops
        ), seed
        whole = [min(int(host.end[i]), high) - max(int(host.start[i]), low) for (i,) in sorted(ops)]
        assert ledger.full_ns[busy].tolist() == whole
        assert ledger.events[busy].tolist() == [int(host.start[i] >= low) for (i,) in sorted(ops)]
        assert ledger.name[busy].tolist() == [int(host.name[i]) for (i,) in sorted(ops)]
        assert set(ledger.kind[busy].tolist()) <= {int(DeviceClass.COMPUTE)}
        found = Counter[int]()
        for kind, ns in zip(ledger.kind[~busy].tolist(), ledger.ns[~busy].tolist(), strict=True):
            assert ns > 0
            found[kind] += ns
        by_cause = Counter[int]()
        for (kind, _), ns in idle.items():
            by_cause[kind] += ns
        assert found == by_cause, seed
        beside = [i for i in range(len(host)) if host.thread[i] != 0 and host.kind[i] == HostKind.OP]
        working = {t for t in range(low, high) if any(host.start[i] <= t < host.end[i] for i in beside)}
        owned = [t for t in working if at_work(trace, attribution, t)]
        assert sum(o.ns for o in ledger.overlap) == len(owned)


def at_work(trace: Trace, attribution: Attribution, t: int) -> bool:
    """Whether the main thread's innermost op or loader is an op that no loader encloses."""
    host = trace.host
    here = [i for i in range(len(host)) if host.thread[i] == 0 and (host.kind[i] == HostKind.OP or loads(trace, i))]
    here = [i for i in here if host.start[i] <= t < host.end[i]]
    return bool(here) and not any(loads(trace, i) for i in here)


def test_a_step_whose_records_cannot_be_read_is_unknown() -> None:
    trace = trace_of([op("aten::mm", 0, 9)])
    for end, rows in ((30, [(idle_kind("unknown"), 20, 1)]), (10, [])):
        ledger = split_unread(trace, attribute(trace), Window("w", 10, end, 10, end, 0))
        assert [*zip(ledger.kind.tolist(), ledger.ns.tolist(), ledger.events.tolist(), strict=True)] == rows


def summed(network: list[int] | None, names: tuple[str, ...]) -> list[tuple[str | None, str | None, int, int]]:
    kind = np.array([0, 0, 0, 0, len(CLASSES) + 1, 0], np.int32)
    ns, events = np.array([1, 2, 4, 8, 16, 0], np.int64), np.array([1, 1, 0, 1, 1, 0], np.int64)
    module, zero = np.array([0, 1, 2, NONE, 0, 0], np.int32), np.zeros(6, np.int32)
    phase = np.array([0, 0, 0, 0, 0, 1], np.int32)
    made = Ledger(Window("w", 0, 31, 0, 31, 0), kind, phase, zero, module, zero, zero, zero, events, ns, ns, events, ())
    parts = made.parts(None if network is None else np.array(network, np.int32), names)
    return [(p.class_, p.network, p.ns, p.events) for p in parts]


def test_parts_are_told_apart_by_network_where_there_are_several() -> None:
    assert summed(None, ()) == [("compute", None, 15, 3), (None, None, 16, 1)]
    assert summed([0, 0, NONE], ("a",)) == [("compute", "a", 15, 3), (None, "a", 16, 1)]
    assert summed([0, 1, NONE], ("a", "b")) == [
        ("compute", None, 12, 1), ("compute", "a", 1, 1), ("compute", "b", 2, 1), (None, "a", 16, 1),
    ]  # fmt: skip


@pytest.mark.parametrize(("shown", "last"), [(True, "python"), (False, "unknown")])
def test_what_a_host_does_between_calls_is_unknown_without_ops(shown: bool, last: str) -> None:
    trace = trace_of([op("aten::mm", 0, 9)] * shown + [call("cudaEventRecord", 3, 4)])
    assert idle_causes(trace) == (*STATES[:PYTHON], last)


def test_copies_to_the_host_that_waited() -> None:
    """Their calls take more than ten times the lower median of all that launch."""
    for seed in range(60):
        rng = random.Random(seed)
        device = []
        for i in range(rng.randrange(1, 9)):
            begin, took, back = 100 * i, rng.choice((1, 2, 3, 20, 21, 30, 31)), rng.random() < 0.4
            times = (begin + 50, begin + 60, (begin, begin + took))
            device.append(copy(*times, name="DtoH") if back else kernel(*times))
        trace = trace_of([], device)
        links, host = link(trace), trace.host
        lengths = sorted((host.end - host.start).tolist())
        limit = 10 * lengths[(len(lengths) - 1) // 2]
        slow = [trace.names[n] == "cudaMemcpyAsync" for n in host.name] & (host.end - host.start > limit)
        assert (classify(trace, links) == STATES.index("sync")).tolist() == slow.tolist(), seed
