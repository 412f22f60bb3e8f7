"""CPU steps against a second opinion that walks every instant between two changes: random nested call trees."""

import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import transforms as t
from builders import Host, call, json_of, marker, note, op, step, text_of, trace_of
from relations import causes, diagnosed
from synthetic import faults

from loraprof.analysis.analyse import Analysis, analyse
from loraprof.model.vocabulary import HostKind

SEEDS = range(40)
LOADER = "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__"
MAIN, WORKER = 1, 2


def calls(rng: random.Random, low: int, high: int, depth: int = 0) -> list[Host]:
    """Nested records that fill part of ``[low, high)`` on the main thread; some abut, some share an edge."""
    out, at = [], low
    while at < high and rng.random() < 0.93:
        start = at + rng.choice((0, 0, rng.randint(0, 40)))
        end = min(high, start + rng.randint(0, (high - low) // 2 + 1))
        if start >= end:
            break
        kinds = (op, op, op, note, marker, call, loader)
        made = rng.choice(kinds if depth else kinds[:-2])(f"m{rng.randint(0, 5)}", start, end)
        out.append(made)
        if depth < 5:
            out += calls(rng, start, end, depth + 1)
        at = end
    return out


def loader(_: str, start: int, end: int) -> Host:
    return note(LOADER, start, end)


def waiting(rng: random.Random, high: int) -> list[Host]:
    """Collectives and ops of another thread."""
    spans = sorted(rng.sample(range(high), 12))
    pairs = list(zip(spans[::2], spans[1::2], strict=True))
    return [note("gloo:all_reduce", a, b, WORKER) if rng.random() < 0.6 else op("w", a, b, WORKER) for a, b in pairs]


def run(seed: int) -> list[Host]:
    rng = random.Random(seed)
    edges = sorted(rng.sample(range(50, 5000), 3))
    steps = [step(i, a, b - rng.choice((0, 30))) for i, (a, b) in enumerate(pairwise([0, *edges]))]
    body = [record for a, b in pairwise(sorted(rng.sample(range(edges[-1]), 9))) for record in calls(rng, a, b)]
    return [*steps, *body, *waiting(rng, edges[-1])]


def second_opinion(rows: list[Host]) -> list[tuple[Counter[str], Counter[str], int]]:
    """Per step: busy ns by op name, idle ns by cause, ns of the other thread's ops under busy time."""
    main = [r for r in rows if r.thread == MAIN and (r.kind == HostKind.OP or r.name == LOADER)]
    other = [r for r in rows if r.thread == WORKER]
    cuts = sorted({at for r in rows for at in (r.start, r.end)})
    out = []
    for one in sorted((r for r in rows if r.name.startswith("ProfilerStep#")), key=lambda r: r.start):
        busy: Counter[str] = Counter()
        idle: Counter[str] = Counter()
        hidden = 0
        gap: list[tuple[int, int]] = []
        for a, b in pairwise(c for c in cuts if one.start <= c <= one.end):
            on = [r for r in main if r.start <= a and r.end >= b]
            if not on:
                gap.append((a, b))
                continue
            idle += waited(gap, other)
            gap = []
            inner = max(on, key=lambda r: (r.start, -r.end, r.kind != HostKind.OP, r.name))
            if any(r.name == LOADER for r in on):
                idle["data"] += b - a
            else:
                busy[inner.name] += b - a
                hidden += (b - a) * any(r.kind == HostKind.OP and r.start <= a and r.end >= b for r in other)
        idle += waited(gap, other)
        out.append((+busy, +idle, hidden))
    return out


def waited(gap: list[tuple[int, int]], other: list[Host]) -> Counter[str]:
    """A gap is python, but for the time under a collective that ends in it or lies in it by more than half."""
    out: Counter[str] = Counter()
    for a, b in gap:
        low, high = gap[0][0], gap[-1][1]
        both = [r for r in other if r.kind == HostKind.ANNOTATION and r.start <= a and r.end >= b]
        shared = [2 * (min(r.end, high) - max(r.start, low)) > r.end - r.start for r in both]
        ends = [low < r.end <= high for r in both]
        out["sync" if any(shared + ends) else "python"] += b - a
    return out


def by_name(analysis: Analysis, i: int) -> Counter[str]:
    out: Counter[str] = Counter()
    ledger = analysis.ledgers[i]
    for name, ns, is_busy in zip(ledger.name.tolist(), ledger.ns.tolist(), ledger.busy.tolist(), strict=True):
        if is_busy:
            out[analysis.trace.names[name]] += ns
    return +out


@pytest.mark.parametrize("seed", SEEDS)
def test_every_instant_has_the_owner_the_second_opinion_gives_it(seed: int) -> None:
    rows = run(seed)
    analysis = analyse(trace_of(rows))
    for i, (busy, idle, hidden) in enumerate(second_opinion(rows)):
        found = causes(analysis.steps[i])
        assert by_name(analysis, i) == busy
        assert found - Counter({"compute": found["compute"]}) == idle
        assert sum(o.ns for o in analysis.steps[i].overlap) == hidden
    assert len(analysis.steps) == 3


def test_the_runs_exercise_every_cause() -> None:
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        for busy, idle, hidden in second_opinion(run(seed)):
            seen += idle + Counter({"busy": sum(busy.values()), "hidden": hidden})
    assert set(seen) == {"python", "data", "sync", "busy", "hidden"}


@pytest.mark.parametrize("seed", SEEDS[:12])
def test_shifted_shuffled_and_scaled(seed: int, tmp_path: Path) -> None:
    document = t.shifted(json_of(run(seed)), 10_000)
    report = diagnosed(text_of(document), None, tmp_path)
    for changed in (t.shifted(document, 123_457), faults.shuffled(document, seed), t.renumbered(document)):
        assert diagnosed(text_of(changed), None, tmp_path) == report
    scaled = diagnosed(text_of(t.scaled(document, 3)), None, tmp_path)
    for one, other in zip(report.steps, scaled.steps, strict=True):
        assert causes(other) == Counter({cause: 3 * ns for cause, ns in causes(one).items()})


@pytest.mark.parametrize("seed", SEEDS[:12])
def test_ranges_that_cross_keep_every_sum(seed: int) -> None:
    """Starts and ends at random: nothing nests, and still every nanosecond has one owner."""
    rng = random.Random(seed)
    spans = [sorted(rng.sample(range(6000), 2)) for _ in range(60)]
    names = ("a", "b", "c", LOADER)
    crossing = [(note if n == LOADER else op)(n, a, b) for a, b in spans for n in [rng.choice(names)]]
    rows = [step(0, 0, 3000), step(1, 3000, 6000), *crossing]
    analysis = analyse(trace_of(rows))
    for one, (low, high) in zip(analysis.steps, ((0, 3000), (3000, 6000)), strict=True):
        covered = {at for r in crossing for at in range(max(r.start, low), min(r.end, high))}
        assert one.wall_ns == 3000
        assert one.ns(kind="busy") + one.ns(cause="data") == len(covered)
        assert one.ns(cause="python") == 3000 - len(covered)
