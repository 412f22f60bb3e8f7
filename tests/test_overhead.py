"""The overhead benchmark's arithmetic, and that its arms leave nothing behind."""

from contextlib import nullcontext
from itertools import count

import pytest
import torch
from torch.nn.modules import module as hooks

from benchmarks.overhead import Arm, added, attached, interleave, marked, process_rows, python_ranges
from benchmarks.overhead_step import build


def test_rounds_take_turns_there_and_back() -> None:
    clock = count()
    samples = interleave({"bare": nullcontext, "with": nullcontext}, lambda: next(clock), 3)
    assert samples == {"bare": [0, 3, 4], "with": [1, 2, 5]}


def test_what_is_added_is_the_median_of_the_pairs() -> None:
    assert added([1500, 2500, 3500], [1000, 1000, 1000]) == "+1.50 [+0.50, +2.50] µs"


@pytest.mark.parametrize("arm", [attached, marked, python_ranges])
def test_an_arm_leaves_no_hook(arm: Arm) -> None:
    step = build(torch.device("cpu"))
    with arm():
        step()
    assert not hooks._global_forward_pre_hooks
    assert not hooks._global_forward_hooks


def test_slower_steps_and_much_memory_miss_their_limits() -> None:
    one = {"before_ns": 100.0, "during_ns": 150.0, "after_ns": 130.0, "attached_mb": 5.0, "recorded_mb": 70.0}
    same = {**one, "after_ns": 100.0}
    rows = process_rows({"control": [same] * 3, "session": [one] * 3, "plain": [one] * 3, "shapes": [one] * 3})
    assert [row.limit.rsplit(" ", 1)[-1] for row in rows[2:]] == ["missed", "met", "missed"]
    assert rows[0].ratio is not None
    assert rows[0].ratio.ratio == pytest.approx(1.5)
