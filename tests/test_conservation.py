"""Nothing is lost and nothing is counted twice: sums that must hold for every input, broken ones included.

The right-hand sides come from plain sweeps over the decoded events.
"""

import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import transforms as t
from builders import Document, comm, copy, kernel, op, step, text_of, trace_of
from relations import ABSENT, TRACES, input_of
from synthetic import faults

from loraprof.analysis.analyse import Analysis, analyse
from loraprof.analysis.partition.ledger import Ledger
from loraprof.model.recording import Recording
from loraprof.model.vocabulary import ROLE
from loraprof.store.kineto.read import read_trace

Spans = list[tuple[int, int]]


def nothing(d: Document) -> Document:
    return d


def lossy(d: Document) -> Document:
    """A third of all events gone."""
    rng = random.Random(1)
    return faults.with_events(d, [e for e in d["traceEvents"] if rng.random() < 0.67])


def scrambled(d: Document) -> Document:
    """Device records anywhere: before their launch, over each other, outside every step."""
    rng = random.Random(2)
    return faults.mapped(d, lambda e: t.moved(e, rng.randint(-300_000, 300_000)) if faults.on_gpu(e) else e)


def late(d: Document) -> Document:
    return t.opened_at(d, t.begin(faults.gpu_events(d)[30]) - 1)


BROKEN: dict[str, Callable[[Document], Document]] = {
    "healthy": nothing,
    "lossy": lossy,
    "scrambled": scrambled,
    "late": late,
    "zeros": lambda d: faults.zero_timestamps(d, 20),
    "whole microseconds": faults.whole_microseconds,
    "overhead": t.with_overhead,
}
REAL = ("a100_resnet_ddp_train", "mi300_norm_layers_fwdbwd", "a100_event_sync_multistream", "h100_bert_small")
INPUTS = [(seed, broken) for seed in range(6) for broken in BROKEN]
INPUTS += [(name, broken) for name in REAL for broken in ("healthy", "scrambled")]  # type: ignore[misc]


def analysed(document: Document, recording: Recording | None, folder: Path) -> Analysis:
    path = folder / "trace.json"
    path.write_bytes(text_of(document))
    return analyse(read_trace(path), recording)


@pytest.fixture(scope="module", params=INPUTS, ids=lambda p: f"{p[0]}-{p[1]}")
def analysis(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    name, broken = request.param
    if isinstance(name, str) and not TRACES.is_dir():
        pytest.skip(ABSENT)
    document, recording = input_of(name)
    return analysed(BROKEN[broken](document), recording, tmp_path_factory.mktemp("trace"))


def records(analysis: Analysis) -> Spans:
    assert analysis.work is not None
    return list(zip(analysis.work.start.tolist(), analysis.work.end.tolist(), strict=True))


def clipped(spans: Spans, ledger: Ledger) -> Spans:
    low, high = ledger.window.start, ledger.window.end
    return [(max(s, low), min(e, high)) for s, e in spans if s < high and e > low]


def covered(spans: Spans) -> tuple[int, int]:
    """Time in which at least one span is open, and the integral of all further open ones."""
    edges = sorted([(s, 1) for s, _ in spans] + [(e, -1) for _, e in spans])
    union = excess = open_ = 0
    for (at, change), (after, _) in pairwise(edges):
        open_ += change
        union += (after - at) * (open_ > 0)
        excess += (after - at) * max(open_ - 1, 0)
    return union, excess


def test_k1_k2_k3_k6_every_window_is_accounted_for(analysis: Analysis) -> None:
    spans = records(analysis)
    for step_, ledger in zip(analysis.steps, analysis.ledgers, strict=True):
        inside = clipped(spans, ledger)
        union, excess = covered(inside)
        busy, idle = step_.ns(kind="busy"), step_.ns(kind="idle")
        assert busy + idle == step_.wall_ns == ledger.window.end - ledger.window.start
        assert busy == union
        by_module = [int(ledger.ns[ledger.busy & (ledger.module == m)].sum()) for m in np.unique(ledger.module)]
        assert sum(by_module) == busy
        assert sum(e - s for s, e in inside) - busy == excess
        own, full = ledger.ns[ledger.busy], ledger.full_ns[ledger.busy]
        assert ((own >= 0) & (own <= full)).all()
        assert sorted(full.tolist()) == sorted(e - s for s, e in inside)


def test_k4_windows_tile(analysis: Analysis) -> None:
    for before, after in pairwise(analysis.ledgers):
        assert before.window.end == after.window.start
    walls = sum(s.wall_ns for s in analysis.steps)
    if analysis.ledgers:
        assert walls == analysis.ledgers[-1].window.end - analysis.ledgers[0].window.start


def test_k5_k7_every_record_is_counted_once(analysis: Analysis) -> None:
    """In the window that holds its start; before the first window, in the first it reaches into."""
    if not analysis.ledgers:
        return
    low, high = analysis.ledgers[0].window.start, analysis.ledgers[-1].window.end
    inside = [(s, e) for s, e in records(analysis) if s < high and (s >= low or e > low)]
    parts = [p for s in analysis.steps for p in s.partition if p.kind == "busy"]
    assert sum(p.events for p in parts) == len(inside)


def test_k7_launches(analysis: Analysis) -> None:
    """Each step counts the distinct calls whose records start in its window."""
    assert analysis.work is not None
    for step_, ledger in zip(analysis.steps, analysis.ledgers, strict=True):
        rows = zip(analysis.work.launch.tolist(), analysis.work.start.tolist(), strict=True)
        calls = {c for c, s in rows if c >= 0 and ledger.window.start <= s < ledger.window.end}
        assert step_.launches is not None
        assert step_.launches.count == len(calls)


def test_a_record_across_a_step_edge_is_counted_in_the_first_of_the_two() -> None:
    """Step 1 issues a copy early, on another stream, that runs past the end of step 0's last kernel."""
    trace = trace_of(
        host=[step(0, 0, 1000), step(1, 1000, 9000), op("aten::mm", 100, 900), op("aten::copy_", 1100, 1700)],
        device=[
            kernel(700, 5000, launch=(200, 300)),
            copy(1500, 6000, launch=(1200, 1300), stream=20),
            comm(5500, 7000, launch=(1400, 1500), stream=30),
        ],
    )
    one, two = analyse(trace).steps
    assert (one.wall_ns, two.wall_ns) == (5000, 2000)
    assert Counter({p.class_: p.events for p in one.partition if p.kind == "busy"}) == {"compute": 1, "copy": 1}
    counts = {p.class_: (p.events, p.ns) for p in two.partition if p.kind == "busy"}
    assert counts == {"copy": (0, 500), "comm": (1, 1500)}


def test_a_record_from_before_a_step_without_a_forerunner_is_counted_there() -> None:
    trace = trace_of(
        host=[step(0, 1000, 3000), step(1, 3000, 5000), op("aten::mm", 1100, 1500), op("aten::mm", 3100, 3500)],
        device=[
            kernel(500, 1200),
            kernel(1300, 3500, launch=(1150, 1250)),
            kernel(3600, 4000, launch=(3200, 3300)),
        ],
    )
    one, two = analyse(trace).steps
    assert [sum(p.events for p in s.partition if p.kind == "busy") for s in (one, two)] == [2, 1]
    assert one.ns(kind="busy") == 200 + 2200


def test_a_record_without_a_launch_call_across_a_step_edge_is_counted_once() -> None:
    trace = trace_of(
        host=[step(0, 0, 1000), step(1, 8000, 9000), op("aten::mm", 100, 900), op("aten::mm", 8100, 8900)],
        device=[
            kernel(700, 5000, launch=(200, 300)),
            kernel(900, 6000, stream=20),
            kernel(8500, 8700, launch=(8200, 8300)),
        ],
    )
    steps = analyse(trace).steps
    assert [sum(p.events for p in s.partition if p.kind == "busy") for s in steps] == [2, 1]
    assert [s.ns(kind="busy") for s in steps] == [4300, 1000 + 200]


def test_unattributed_work_is_a_category() -> None:
    """A kernel whose call is lost is busy time of no module, and of nobody's role."""
    trace = trace_of(
        host=[step(0, 0, 1000), op("my::op", 10, 900)], device=[kernel(100, 700), kernel(800, 900, (600, 650))]
    )
    analysis = analyse(trace)
    ledger = analysis.ledgers[0]
    assert analysis.closure.unattributed_ns == analysis.steps[0].ns(kind="busy") == 700
    assert set(ledger.role[ledger.busy].tolist()) == {ROLE["other"]}
