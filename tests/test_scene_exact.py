"""A step's timelines entry by entry, against plain loops."""

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from builders import Host, call, kernel, note, op, overhead, step, trace_of

from loraprof.analysis.analyse import Analysis, analyse
from loraprof.analysis.step import scene as scenes
from loraprof.analysis.step.scene import TONES, launched_after, scene_of
from loraprof.analysis.trace.step_windows import Window
from loraprof.model.trace import NONE
from loraprof.model.vocabulary import CAUSES, ROLES


def drawn(rng: random.Random) -> list[Host]:
    out = [step(0, 0, 60)]
    for _ in range(rng.randrange(10)):
        start = rng.randrange(-5, 60)
        end, thread = start + rng.randrange(12), rng.choice((1, 2))
        made = rng.choice((op, op, note, overhead, call))
        out.append(made(f"n{rng.randrange(3)}", start, end, thread))
    return out


def lanes(rows: list[tuple[int, int]]) -> list[int]:
    """The first line that is free."""
    ends, out = list[int](), list[int]()
    for start, end in rows:
        lane = next((i for i, free in enumerate(ends) if free <= start), len(ends))
        ends[lane:] = [end, *ends[lane + 1 :]]
        out.append(lane)
    return out


Line = tuple[str, int, int, int, str]  # title, depth, start, ns, name


def seen(table: Any, i: int, window: Window) -> bool:
    return bool(table.start[i] < table.end[i] and table.end[i] > window.start and table.start[i] < window.end)


def cut(analysis: Analysis, title: str, table: Any, rows: list[int], window: Window) -> Counter[Line]:
    pairs, out = [(int(table.start[i]), int(table.end[i])) for i in rows], Counter[Line]()
    for i, (start, end), lane in zip(rows, pairs, lanes(pairs), strict=True):
        low, high = max(start, window.start), min(end, window.end)
        out[title, lane, low - window.start, high - low, analysis.trace.names[table.name[i]]] += 1
    return out


def test_scenes() -> None:
    """Every record that shares time with the step is on its thread's or stream's lines, cut to the step."""
    for seed in range(60):
        rng = random.Random(seed)
        device = []
        for _ in range(rng.randrange(5)):
            start, called = rng.randrange(0, 70), rng.randrange(0, 50)
            made = kernel(start, start + rng.randrange(9), (called, called + 2), stream=rng.choice((7, 8)), thread=2)
            device.append(made)
        analysis = analyse(trace_of(drawn(rng), device))
        found, window, host = scene_of(analysis), analysis.ledgers[0].window, analysis.trace.host
        assert found is not None
        lines = Counter[Line]()
        for row in found.rows[1:]:
            for at, ns, name in zip(row.start, row.ns, row.name, strict=True):
                lines[row.title, row.depth, at, ns, found.names[name]] += 1
        expected = Counter[Line]()
        for thread, (_, tid) in enumerate(analysis.trace.threads):
            some = [i for i in np.flatnonzero(host.thread == thread).tolist() if seen(host, i, window)]
            expected += cut(analysis, f"thread {tid}", host, some, window)
        records = analysis.trace.device
        for stream in (7, 8):
            some = [i for i in np.flatnonzero(records.stream == stream).tolist() if seen(records, i, window)]
            expected += cut(analysis, f"GPU 0 stream {stream}", records, some, window)
        assert lines == expected, seed
        split = found.rows[0]
        assert (split.title, sum(split.ns), split.start[0]) == ("partition", window.end - window.start, 0)
        assert {found.names[n] for n in split.name} == {TONES[t].replace("idle:", "idle: ") for t in split.tone}
        for since, ns, tone, blame in zip(split.start, split.ns, split.tone, split.blame, strict=True):
            end = window.start + since + ns
            launch = int(launched_after(analysis, np.array([end]))[0])
            if tone < len(ROLES) or launch == NONE or not seen(host, launch, window):
                assert blame == NONE
            else:
                row, number = found.rows[blame >> 32], blame & 0xFFFFFFFF
                assert row.start[number] == max(int(host.start[launch]), window.start) - window.start
                assert found.names[row.name[number]] == analysis.trace.names[host.name[launch]]
        cells = Counter[str]()
        for cell in found.cells:
            assert cell.ns > 0
            cells["busy" if cell.busy else cell.name] += cell.ns
            assert not cell.busy or cell.name in analysis.trace.names
        parts = Counter(
            {"busy": int(analysis.ledgers[0].ns[analysis.ledgers[0].busy].sum())}
            | {c: analysis.steps[0].ns(cause=c) for c in CAUSES}
        )
        assert cells == +parts


def test_what_was_launched_next() -> None:
    cpu = analyse(trace_of([step(0, 0, 90), op("a", 10, 20), op("b", 30, 40), op("c", 12, 14, thread=2)]))
    names = [
        cpu.trace.names[cpu.trace.host.name[i]] if i != NONE else ""
        for i in launched_after(cpu, np.array([0, 10, 11, 30, 31]))
    ]
    assert names == ["a", "a", "b", "b", ""]
    gpu = analyse(trace_of([step(0, 0, 90)], [kernel(20, 30, (1, 2)), kernel(40, 50)]))
    rows = launched_after(gpu, np.array([0, 20, 21, 40, 41])).tolist()
    assert [r != NONE for r in rows] == [True, True, False, False, False]


def test_too_many_records_lose_their_deepest(monkeypatch: pytest.MonkeyPatch) -> None:
    nested = [op("x", i, 60 - i) for i in range(5)]
    analysis = analyse(trace_of([step(0, 0, 60), *nested], [kernel(20, 30, (7, 8))]))
    for most, left in ((100, 0), (8, 0), (7, 1), (5, 3), (1, 6)):
        monkeypatch.setattr(scenes, "MOST", most)
        found = scene_of(analysis)
        assert found is not None
        shown = sum(len(r.start) for r in found.rows if r.group == "host")
        assert (found.left_out, shown) == (left, 7 - left)
