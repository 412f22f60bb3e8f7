"""A step that the replay reproduces to the nanosecond: moved by nothing it is the recorded one, at less of the
host's time it is what that much of each of its host's times makes it."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from builders import Device, Host, call, kernel, op, step, trace_of
from msgspec.structs import replace

from loraprof.analysis.analyse import Analysis, analyse
from loraprof.analysis.partition.host_state import STATES, Timeline, measure
from loraprof.analysis.partition.ledger import Ledger
from loraprof.analysis.prediction import plain_scene
from loraprof.analysis.prediction.moved import moved, moved_ledger
from loraprof.analysis.prediction.replay import Call
from loraprof.analysis.prediction.replayed import Added, StepReplay, step_replay
from loraprof.analysis.step.scene import HOST, TONES, Names, scene_of
from loraprof.analysis.trace.step_windows import Window
from loraprof.model.report import Unprofiled
from loraprof.model.scene import Scene
from loraprof.model.vocabulary import ROLES

US = 1000
LATENCY = 6 * US
STEP = 100 * US
CALLS = (20, 40, 60)  # us in the step: launch calls of 5 us each, on the main thread, on another and on the main one
THREADS = (1, 2, 1)


def analysed() -> Analysis:
    host, device = list[Host](), list[Device]()
    for i in range(3):
        at = i * STEP
        host += [
            step(i, at, at + STEP),
            op("aten::a", at + 10 * US, at + 30 * US),
            op("aten::b", at + 50 * US, at + 66 * US),
        ]
        host.append(op("aten::c", at + 93 * US, at + 97 * US))
        host.append(call("cudaStreamSynchronize", at + 88 * US, at + 90 * US, correlation=1000 + i))
        for us, thread, stream in zip(CALLS, THREADS, (7, 7, 8), strict=True):
            begin = at + us * US
            launch = (begin, begin + 5 * US)
            device.append(kernel(begin + LATENCY, begin + LATENCY + 4 * US, launch, thread=thread, stream=stream))
    return analyse(trace_of(host, device))


def replayable(analysis: Analysis) -> tuple[Ledger, StepReplay]:
    ledger = analysis.ledgers[1]
    found = step_replay(analysis, ledger, Unprofiled(median_ns=STEP, low_ns=STEP, high_ns=STEP, steps=5))
    assert found is not None
    return ledger, found


def parts(ledger: Ledger) -> Counter[tuple[object, ...]]:
    out: Counter[tuple[object, ...]] = Counter()
    for p in ledger.parts():
        out[p.class_ or p.cause, p.phase, p.role] += p.ns
    return out


def test_the_replay_needs_no_change() -> None:
    _, found = replayable(analysed())
    assert (found.gate_error, found.sigma, found.solved, found.cost_ns) == (0, 1, 1, 0)
    assert (found.latency_ns, found.turnaround_ns) == (LATENCY, 0)
    assert found.step.calls.kind.tolist() == [Call.LAUNCH] * 3 + [Call.SYNC]
    assert found.step.calls.gap_ns.tolist() == [0, 15 * US, 15 * US, 23 * US]
    assert found.step.calls.lead_ns == 20 * US + 10 * US
    assert found.refusal is None
    assert (found.report.host_factor, found.report.accepted) == (1, True)


def test_a_step_that_was_not_slowed_stays_where_it_is() -> None:
    analysis = analysed()
    ledger, found = replayable(analysis)
    made = moved(analysis, ledger, found, STEP)
    assert made is not None
    assert (made.window.start, made.window.end) == (0, STEP)
    begin = ledger.window.start
    assert analysis.work is not None
    own = (analysis.work.start >= begin) & (analysis.work.start < ledger.window.end)
    for name in ("start", "end", "call", "called"):
        assert (getattr(made.work, name) == getattr(analysis.work, name)[own] - begin).all()
    assert made.work.reach.tolist() == made.work.end.tolist()
    for name in ("rows", "kind", "module", "phase", "role", "launch", "op"):
        assert (getattr(made.work, name) == getattr(analysis.work, name)[own]).all()
    edges = np.arange(0, STEP, 500)
    for thread, line in analysis.timelines.items():
        alone = analysis.timelines[analysis.marks.thread] if thread != analysis.marks.thread else line
        assert thread in made.states
        if thread == analysis.marks.thread:
            then = measure(alone, edges + begin, edges + begin + 500)
            assert (measure(made.states[thread], edges, edges + 500) == then).all()
    plain = moved_ledger(analysis, ledger, found, STEP)
    assert plain is not None
    assert parts(plain) == parts(ledger)
    assert int(plain.events[plain.busy].sum()) == 3


def test_three_quarters_of_the_host_s_time() -> None:
    """Launches of 3.75 us every 15, the latency as it is."""
    analysis = analysed()
    ledger, found = replayable(analysis)
    quick = replace(found, sigma=0.75)
    made, plain = moved(analysis, ledger, quick, 75 * US), moved_ledger(analysis, ledger, quick, 75 * US)
    assert made is not None
    assert plain is not None
    assert made.work.start.tolist() == [41 * US, 56 * US, 71 * US]
    assert made.work.call.tolist() == [35 * US, 50 * US, 65 * US]
    assert made.work.called.tolist() == [38_750, 53_750, 68_750]
    causes = Counter[object]()
    for (cause, *_), ns in parts(plain).items():
        causes[cause] += ns
    assert sum(causes.values()) == 75 * US
    known = {"compute": 12 * US, "launch_api": 3 * 3750, "launch_latency": 3 * 2250, "sync": 1500}
    assert {cause: causes[cause] for cause in known} == known


def test_kernels_that_exceed_the_step_are_scaled_to_it() -> None:
    analysis = analysed()
    ledger, found = replayable(analysis)
    made = moved(analysis, ledger, found, STEP // 4)
    assert made is not None
    assert made.work.start.tolist() == [14_000, 19_000, 24_000]
    longer = moved(analysis, ledger, found, STEP * 2)
    assert longer is not None
    assert longer.work.start.tolist() == [56 * US, 76 * US, 96 * US]  # they are not drawn out
    refused = replace(found, sigma=None)
    assert moved(analysis, ledger, refused, STEP) is None
    assert moved_ledger(analysis, ledger, refused, STEP) is None
    assert moved(replace(analysis, work=None), ledger, found, STEP) is None


def slices(scene: Scene, title: str) -> list[tuple[int, int, str]]:
    (row,) = (r for r in scene.rows if r.title == title)
    return [(s, n, scene.names[i]) for s, n, i in zip(row.start, row.ns, row.name, strict=True)]


def test_the_scene_without_the_profiler() -> None:
    analysis = analysed()
    ledger, found = replayable(analysis)
    plain = moved_ledger(analysis, ledger, found, STEP)
    assert plain is not None
    scene, recorded = plain_scene.plain_scene(analysis, ledger, plain, found), scene_of(replace(analysis, reported=1))
    assert recorded is not None
    assert (scene.step, scene.wall_ns, scene.left_out) == (recorded.step, STEP, 0)
    assert [r.title for r in scene.rows] == ["partition", "stream 7", "stream 8", "thread 1", "thread 2"]
    assert slices(scene, "partition") == slices(recorded, "partition")
    for stream in (7, 8):
        assert slices(scene, f"stream {stream}") == slices(recorded, f"GPU 0 stream {stream}")
    assert sum(ns for _, ns, _ in slices(scene, "thread 1")) == STEP
    waits = [(start, ns) for start, ns, name in slices(scene, "thread 1") if name == "host: sync"]
    assert waits == [(18 * US, 2 * US)]
    launches = [(start, ns) for start, ns, name in slices(scene, "thread 1") if name == "host: launch_api"]
    assert launches == [(50 * US, 5 * US), (90 * US, 5 * US)]
    assert {t for r in scene.rows if r.title.startswith("thread") for t in r.tone} == {HOST}
    split = scene.rows[0]
    blamed = {}
    for i, (since, tone, at) in enumerate(zip(split.start, split.tone, split.blame, strict=True)):
        if tone < len(ROLES):
            assert at == -1
        else:
            row, number = scene.rows[at >> 32], at & 0xFFFFFFFF
            end = since + split.ns[i]
            call_at = next(c for c, start in ((50, 56), (70, 76), (90, 96)) if end <= start * US)
            blamed[call_at] = (row.title, row.start[number] <= call_at * US < row.start[number] + row.ns[number])
    assert blamed == {50: ("thread 1", True), 70: ("thread 2", True), 90: ("thread 1", True)}
    nothing = plain_scene.plain_scene(analysis, ledger, plain, None)
    assert (nothing.rows, nothing.cells == scene.cells) == ([], True)
    assert TONES[HOST] == "host"
    assert STATES[0] == "profiler"


def test_slices_lie_within_the_step() -> None:
    """From 0 to 100: of stream 7 what overlaps is on a level of its own; what only touches the step is left out."""
    times = [(-20, 0), (-10, 5), (10, 40), (30, 60), (70, 70), (90, 120), (100, 130), (20, 30)]
    start, end = (np.array(column, np.int64) for column in zip(*times, strict=True))
    device = SimpleNamespace(stream=np.array([7] * 7 + [8]), name=np.zeros(8, np.int64))
    work = SimpleNamespace(rows=np.arange(8), start=start, end=end, role=np.arange(8))
    step: Any = SimpleNamespace(work=work, window=Window("s", 0, 100, 0, 100, 0))
    analysis: Any = SimpleNamespace(trace=SimpleNamespace(device=device, names=["k"]))
    rows = [(r.title, r.depth, r.start, r.ns, r.tone) for r in plain_scene._streams(analysis, step, Names())]
    assert rows == [
        ("stream 7", 0, [0, 10, 90], [5, 30, 10], [1, 2, 5]),
        ("stream 7", 1, [30], [30], [3]),
        ("stream 8", 0, [20], [10], [7]),
    ]
    line = Timeline(np.array([-9, -4, 10, 10, 100, 120]), np.array([1, 2, 1, 3, 2, 1], np.int8))
    host = plain_scene._host("thread 1", line, step, names := Names())
    assert (host.start, host.ns) == ([0, 10], [10, 90])
    assert [[*names.texts][i] for i in host.name] == [f"host: {STATES[i]}" for i in (2, 3)]


def test_launches_that_come_and_work_that_goes() -> None:
    """One more kernel of 3 us is launched as the others are; the host, which is what takes time, takes 20 us more."""
    analysis = analysed()
    _, found = replayable(analysis)
    assert found.delta_ns([], None) == found.delta_ns([Added(5, 0.9)], 0.5) == 0
    assert found.delta_ns([Added(5, 3000.0)], None) == 20 * US
    assert found.delta_ns([Added(5, 1.0)], 1.0) == 40 * US  # and one at the end
    assert found.faster_ns(0.5) == STEP // 2
    with pytest.raises(ValueError, match="refused"):
        replace(found, sigma=None).delta_ns([], None)
    assert replace(found, sigma=None).refusal is not None
    assert "misses the step by 60" in (replace(found, gate_error=-0.6).refusal or "")
