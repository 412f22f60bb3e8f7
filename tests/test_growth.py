"""What is written twice, once for many levels and once for many rows, gives the same; deep traces are read."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from reports import assert_conserved

import loraprof
from loraprof.analysis.trace import call_tree, intervals
from loraprof.analysis.trace.call_tree import tree_of
from loraprof.analysis.trace.intervals import innermost, nesting, outlasting
from loraprof.store.kineto.read import read_trace


def some_intervals(dice: random.Random) -> tuple[intervals.Int64, intervals.Int64]:
    """A few, sorted by (start, -end); some cross, some are empty."""
    pairs = {(low := dice.randrange(12), -low - dice.randrange(8)) for _ in range(dice.randrange(1, 14))}
    ordered = sorted(pairs)
    return np.array([low for low, _ in ordered]), np.array([-high for _, high in ordered])


@pytest.mark.parametrize("seed", range(200))
def test_parents_are_the_same_by_level_and_by_row(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    start, end = some_intervals(random.Random(seed))
    by_level = nesting(start, end)
    monkeypatch.setattr(intervals, "MANY_LEVELS", 0)
    by_row = nesting(start, end)
    assert by_level[2] == by_row[2]
    assert by_level[0].tolist() == by_row[0].tolist()
    assert by_level[1].tolist() == by_row[1].tolist()


@pytest.mark.parametrize("seed", range(200))
def test_the_innermost_of_crossing_intervals_started_last(seed: int) -> None:
    start, end = some_intervals(random.Random(seed))
    begin, stop, owner = innermost(start, end)
    for low, high, attribution in zip(begin.tolist(), stop.tolist(), owner.tolist(), strict=True):
        covering = [i for i in range(len(start)) if start[i] <= low and high <= end[i]]
        assert attribution == covering[-1]
    assert int((stop - begin).sum()) == len({t for s, e in zip(start, end, strict=True) for t in range(s, e)})


@pytest.mark.parametrize("seed", range(200))
def test_outlasting_is_what_it_says(seed: int) -> None:
    dice = random.Random(seed)
    start, end = some_intervals(dice)
    ranged = np.array([dice.random() < 0.5 for _ in start])
    said = [
        bool(ranged[i]) and any(not ranged[j] and start[i] < end[j] < end[i] for j in range(i))
        for i in range(len(start))
    ]
    assert outlasting(start, end, ranged).tolist() == said


def test_a_deep_tree_answers_as_a_flat_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dice, rows = random.Random(1), [{"cat": "user_annotation", "name": "ProfilerStep#0", "ts": 0, "dur": 5000}]
    for i in range(600):
        name = f"aten::op{dice.randrange(5)}"
        rows.append({"cat": "cpu_op", "name": name, "ts": 1 + i, "dur": 2 * (1200 - i)})
    events = [{"ph": "X", "pid": 1, "tid": 1} | row for row in rows]
    (tmp_path / "t.json").write_text(json.dumps(events))
    trace = read_trace(tmp_path / "t.json")
    tree, flag = tree_of(trace), np.array([dice.random() < 0.1 for _ in rows])
    assert len(tree.levels) > intervals.MANY_LEVELS
    leaping = tree.nearest(flag).tolist()
    monkeypatch.setattr(call_tree, "MANY_LEVELS", 10**9)
    assert tree.nearest(flag).tolist() == leaping
    assert_conserved(loraprof.diagnose(tmp_path / "t.json"))
