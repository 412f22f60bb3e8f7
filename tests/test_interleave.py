"""The timing engine on a fake clock: arms are callables that advance it."""

import gc
from collections.abc import Callable

import pytest
import torch

from loraprof.capture.device.cpu import Cpu
from loraprof.capture.device.memory import is_out_of_memory
from loraprof.capture.device.protocol import DeviceState
from loraprof.comparison.ratios import ratios_of
from loraprof.errors import MeasurementError
from loraprof.runs.compare.interleave import StepTimer, interleave

MS = 1_000_000


class Machine:
    """A clock, and a log of which arm ran when."""

    def __init__(self) -> None:
        self.now = 0
        self.log: list[str] = []

    def arm(self, name: str, ns: int | Callable[[int], int], result: object = 0.5) -> Callable[[], object]:
        calls = 0

        def step() -> object:
            nonlocal calls
            self.now += ns if isinstance(ns, int) else ns(calls)
            calls += 1
            self.log.append(name)
            return result

        return step

    def clock(self) -> int:
        return self.now

    def timer(self) -> StepTimer:
        return StepTimer(Cpu(torch.device("cpu"), self.clock))


def noisy(ns: int) -> Callable[[int], int]:
    """Deterministic jitter of up to half a percent."""
    return lambda i: ns + ns * (i * 7919 % 11 - 5) // 1000


def test_blocks_run_there_and_back_and_every_arm_has_the_same_steps() -> None:
    m = Machine()
    timed = interleave({"a": m.arm("a", 60 * MS), "b": m.arm("b", 90 * MS)}, m.timer(), 10**12, clock=m.clock)
    warm = sum(timed.dropped.values())
    assert timed.dropped == {"a": 20, "b": 20}
    assert m.log[warm : warm + 6] == ["a", "b", "a", "a", "b", "a"]
    assert timed.reference == "a"
    assert timed.series["a"].samples() == [60 * MS] * 10
    assert timed.series["b"].samples() == [90 * MS] * 10
    assert timed.twin is not None
    assert timed.twin.samples() == [60 * MS] * 10
    assert timed.stopped == "every interval is within 1%"


def test_short_steps_are_grouped_into_visits() -> None:
    m = Machine()
    timed = interleave({"a": m.arm("a", 1 * MS), "b": m.arm("b", 10 * MS)}, m.timer(), 10**12, clock=m.clock)
    assert [len(block) for block in timed.series["b"].blocks] == [10] * 5  # 50 ms / 10 ms, there and back


def test_ratios_and_floor_of_a_planted_difference() -> None:
    m = Machine()
    arms = {"full": m.arm("full", noisy(100 * MS)), "lora": m.arm("lora", noisy(80 * MS))}
    ratios, floor = ratios_of(interleave(arms, m.timer(), 10**12, clock=m.clock))
    assert [(r.of, r.to, r.verdict) for r in ratios] == [("lora", "full", "faster")]
    assert ratios[0].low <= 0.8 <= ratios[0].high
    assert floor is not None
    assert floor.low <= 1 <= floor.high


def test_linear_drift_does_not_make_a_difference() -> None:
    m = Machine()
    arms = {name: m.arm(name, lambda _: 60 * MS + m.now // 2000) for name in "ab"}
    timed = interleave(arms, m.timer(), 10**12, clock=m.clock)
    ratios, _ = ratios_of(timed)
    assert ratios[0].verdict == "undecided"
    assert ratios[0].ratio == pytest.approx(1, abs=1e-4)


def test_warm_up_lasts_until_the_slow_steps_are_over() -> None:
    m = Machine()
    slow = m.arm("a", lambda i: (90 if i < 14 else 60) * MS)
    timed = interleave({"a": slow, "b": m.arm("b", 60 * MS)}, m.timer(), 10**12, clock=m.clock)
    assert timed.dropped["a"] == 24  # 14 slow steps, and ten that show the new level
    assert set(timed.series["a"].samples()) == {60 * MS}


def test_the_budget_ends_it_and_says_so() -> None:
    m = Machine()
    wild = m.arm("b", lambda i: (60 + i * 7919 % 61) * MS)
    timed = interleave({"a": m.arm("a", 60 * MS), "b": wild}, m.timer(), 20_000 * MS, clock=m.clock)
    assert timed.stopped == "the time budget is spent"
    assert m.now <= 21_000 * MS


def test_slow_steps_get_a_short_warm_up_and_at_least_two_blocks() -> None:
    m = Machine()
    timed = interleave({"a": m.arm("a", 9000 * MS), "b": m.arm("b", 9000 * MS)}, m.timer(), 10_000 * MS, clock=m.clock)
    assert timed.dropped == {"a": 2, "b": 2}
    assert len(timed.series["a"].blocks) == 2
    assert timed.notes == ("the budget cut the warm-up short, steps may still get faster: a 2, b 2 steps",)
    assert [r.verdict for r in ratios_of(timed)[0]] == ["undecided"]


def test_out_of_memory_drops_the_arm_and_the_others_go_on() -> None:
    m = Machine()

    def broken() -> object:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nmore text")

    arms = {"full": broken, "lora": m.arm("lora", 60 * MS), "frozen": m.arm("frozen", 50 * MS)}
    timed = interleave(arms, m.timer(), 10**12, clock=m.clock, peak=lambda: 123)
    assert timed.failed["full"].reason == "CUDA out of memory. Tried to allocate 2 GiB"
    assert timed.failed["full"].peak_bytes == 123
    assert timed.reference == "lora"
    assert set(timed.series) == {"lora", "frozen"}


def test_out_of_memory_in_a_block_starts_over_without_the_arm() -> None:
    m = Machine()

    def late(i: int) -> int:
        if i == 23:
            raise MemoryError
        return 60 * MS

    arms = {"a": m.arm("a", 60 * MS), "b": m.arm("b", late), "c": m.arm("c", 60 * MS)}
    timed = interleave(arms, m.timer(), 10**12, clock=m.clock)
    assert set(timed.series) == {"a", "c"}
    assert {len(s.blocks) for s in timed.series.values()} == {5}


def test_no_arm_left_is_an_error_and_other_errors_pass() -> None:
    def starved() -> object:
        raise MemoryError("no memory")

    def wrong() -> object:
        raise RuntimeError("shapes do not match")

    with pytest.raises(MeasurementError, match="no memory"):
        interleave({"a": starved}, StepTimer(Cpu(torch.device("cpu"))), 10**9)
    with pytest.raises(RuntimeError, match="shapes"):
        interleave({"a": wrong}, StepTimer(Cpu(torch.device("cpu"))), 10**9)
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"))
    assert not is_out_of_memory(RuntimeError("shapes"))


def test_throttled_and_uneven_blocks_are_redone_and_counted() -> None:
    m = Machine()
    visits = 0

    def state() -> DeviceState:
        nonlocal visits
        visits += 1
        block, place = divmod(visits - 1, 6)
        if block == 0:
            return DeviceState(1500.0, place == 2)  # throttled once
        return DeviceState(1500.0 if block > 1 or place in (0, 5) else 1600.0, False)  # one uneven block

    arms = {"a": m.arm("a", 60 * MS), "b": m.arm("b", 90 * MS)}
    timed = interleave(arms, m.timer(), 10**12, clock=m.clock, state=state)
    assert timed.rejected == 2
    assert timed.series["a"].clocks_mhz == (1500.0,) * 5
    assert ratios_of(timed)[0][0].verdict == "slower"


def test_constant_throttling_ends_with_the_budget() -> None:
    m = Machine()
    timed = interleave({"a": m.arm("a", 60 * MS)}, m.timer(), 5000 * MS, clock=m.clock,
                       state=lambda: DeviceState(None, True))  # fmt: skip
    assert timed.series == {}
    assert timed.rejected > 0
    assert ratios_of(timed) == ([], None)


def test_a_nan_loss_is_noted_once() -> None:
    m = Machine()
    arms = {"a": m.arm("a", 60 * MS), "b": m.arm("b", 60 * MS, result=float("nan"))}
    assert interleave(arms, m.timer(), 10**12, clock=m.clock).diverged == {"b"}


def test_garbage_collection_is_off_meanwhile_and_on_again() -> None:
    m = Machine()
    seen = set()
    inner = m.arm("a", 60 * MS)

    def step() -> object:
        seen.add(gc.isenabled())
        return inner()

    interleave({"a": step}, m.timer(), 10**12, clock=m.clock)
    assert seen == {False}
    assert gc.isenabled()
