"""The order of the runs of ``loraprof fix``, and when they end."""

import time
from itertools import cycle
from pathlib import Path

import pytest
from fixing import FakeForks, bench, seen

from loraprof.errors import MeasurementError
from loraprof.live_remedies.catalogue import REMEDIES
from loraprof.model.fix import Reached, Tried
from loraprof.runs.fix.equal import Goal, reach
from loraprof.runs.fix.job import Found
from loraprof.runs.fix.judge import measured, repeats
from loraprof.runs.fix.run import _plan, _repeat, _together
from loraprof.runs.fix.schedule import BASE, LEAST_STEPS, STEPS, TWIN, steps_within
from loraprof.runs.profile.remedy_arm import WATCHED


def test_rounds_alternate_and_leave_out_what_failed() -> None:
    fake = FakeForks(lambda names: Found(status="failed", reason="no") if names == ["b"] else seen([1, 1]))
    one = bench(fake)
    for number in range(2):
        one.round([("a",), ("b",), ("a", "c")], "alone", number)
    assert fake.asked == ["-", "a", "b", "a+c", "-", "-", "a+c", "a", "-"]
    assert one.ended["b"].reason == "no"
    assert [set(found) for found in one.rounds] == [{BASE, "a", "a+c", TWIN}] * 2


def test_an_interrupted_fix_goes_on_where_it_was(tmp_path: Path) -> None:
    fake = FakeForks(lambda names: seen([1, 2]))
    bench(fake, tmp_path).round([("a",)], "alone", 0)
    later = bench(fake, tmp_path)
    later.round([("a",)], "alone", 0)
    assert fake.asked == ["-", "a", "-"]
    later.round([("a",)], "alone", 1)
    assert len(fake.asked) == 6


def test_a_program_that_ends_early_is_timed_for_fewer_steps() -> None:
    answers = iter([Found(status="failed", reason="it ended", steps_seen=12), seen([1])])
    one = bench(FakeForks(lambda names: next(answers)))
    one.first()
    assert one.opening is not None
    assert one.steps == 12 - WATCHED - one.warmup
    with pytest.raises(MeasurementError, match="cannot be measured: it ended"):
        bench(FakeForks(lambda names: Found(status="failed", reason="it ended", steps_seen=8))).first()


def test_long_steps_get_short_runs() -> None:
    survey = Found(times_ns=[100] * 5, wall_ns=2000, steps_seen=10)
    assert steps_within(10**9, 6, survey, warmup=3) == STEPS
    assert steps_within(4 * 6 * (1000 + 100 * (3 + WATCHED + 7)), 6, survey, warmup=3) == 7
    assert steps_within(1, 6, survey, warmup=3) == LEAST_STEPS


def test_what_is_clearly_slower_is_not_tried_again() -> None:
    times = {"a": 130, "b": 100, "c": 210}
    one = bench(FakeForks(lambda names: seen([times["".join(names)] if names else 100] * 4)))
    entries = [("a",), ("b",), ("c",)]
    one.round(entries, "alone", 0)
    assert [one.slower(entry) for entry in entries] == [False, False, True]  # one round may be of a bad moment
    one.round(entries, "alone", 1)
    assert [one.slower(entry) for entry in entries] == [True, False, True]


def test_remedies_are_added_while_they_help() -> None:
    """c helps alone and not beside the others; d changes the loss only together with a."""
    speed = {"": 100, "a": 80, "b": 90, "c": 95, "d": 85, "a+d": 60, "a+b": 70, "a+b+c": 72}

    def answers(names: list[str]) -> Found:
        key = "+".join(names)
        return seen([speed[key], speed[key] + 1] * 5, [9.0, 9.0] if key == "a+d" else [1.0, 0.5])

    one = bench(FakeForks(answers))
    one.base_s = 1.0
    entries = [(name,) for name in "abcd"]
    for number in range(2):
        one.round(entries, "alone", number)
    known = repeats(one.rounds)
    alone = [
        Tried(finding=None, arm=name, kind="numerics", text="", measured=measured(name, one.rounds), status="kept")
        for (name,) in entries
    ]
    found = _together(one, alone, known, None, 0)
    assert found is not None
    assert found.arms == ["a", "b"]
    assert found.measured.ratio == pytest.approx(0.7, abs=0.01)
    assert _together(one, alone[:1], known, None, 0) is None
    one.deadline_ns = 0
    assert _together(one, alone, known, None, 0) is None


def test_what_is_settled_needs_no_further_round() -> None:
    def asked(*medians: int) -> int:
        turns = cycle(medians)
        fake = FakeForks(lambda names: seen([next(turns) if names else 100] * 4))
        _repeat(bench(fake), [REMEDIES["autocast"]], 0)
        return fake.asked.count("autocast")

    assert asked(50) == 3
    assert asked(80, 120) == 10
    assert asked(130) == 2  # clearly slower
    assert asked(230) == 1


def test_where_the_time_is_short_the_most_promising_are_tried() -> None:
    """Ten seconds, runs of two: the unchanged program twice, and three of five."""
    fake = FakeForks(lambda names: seen([100] * 4))
    one = bench(fake)
    one.base_s, one.deadline_ns = 2.0, time.perf_counter_ns() + 10_900_000_000
    names = ["fused-optimizer", "autocast", "set-to-none", "sdpa", "no-mask"]
    _repeat(one, [REMEDIES[name] for name in names], 0)
    assert set(fake.asked) == {"-", *names[:3]}
    one.deadline_ns = 0
    before = len(fake.asked)
    _repeat(one, [REMEDIES["sdpa"]], 0)
    assert len(fake.asked) == before


def test_at_equal_time() -> None:
    def answers(names: list[str]) -> Found:
        if names == ["paca"]:
            return Found(status="failed", reason="it ran out of memory")
        return Found(reached=Reached(steps=9, ns=10**9, loss=0.5))

    fake = FakeForks(answers)
    wanted = [REMEDIES[name] for name in ("autocast", "full", "paca", "lora-qv")]
    one = bench(fake)
    one.ended["lora-qv"] = Found(status="refused", reason="no")
    found = reach(one, wanted, Goal(seconds=1.0))
    assert fake.asked == ["-", "full", "paca"]
    assert found[BASE].loss == found["full"].loss == 0.5
    assert found["paca"].reason == "it ran out of memory"
    assert reach(one, wanted[:1], Goal(until_loss=0.1)) == {}


def test_the_plan_says_what_it_will_take() -> None:
    one = bench(FakeForks(lambda names: seen([1])))
    first = Found(wall_ns=2_000_000_000)
    said = _plan(first, one, [REMEDIES["autocast"], REMEDIES["fused-optimizer"]])
    assert said == "2 remedies fit; a run takes 2.00 s for 10 timed steps, a round 8.00 s; 24.0 s to 104 s in all"
    one.deadline_ns = time.perf_counter_ns()
    said = "1 remedy fits; a run takes 2.00 s for 10 timed steps, and 0 ns are left: too little to try one"
    assert _plan(first, one, [REMEDIES["compile-blocks"]]) == said
    assert _plan(first, one, []) == "no remedy fits"


def test_what_is_settled_makes_room_for_what_is_not() -> None:
    turns = cycle((80, 120))
    fake = FakeForks(lambda names: seen([next(turns) if names == ["autocast"] else 50 if names else 100] * 4))
    _repeat(bench(fake), [REMEDIES["autocast"], REMEDIES["sdpa"]], 0)
    assert (fake.asked.count("autocast"), fake.asked.count("sdpa")) == (10, 3)
