"""K9 and M10 to M12 over random partitions, and the oracles of the Shapley split."""

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as some

from loraprof.comparison.waterfall import Side, joint_means, key_of, shapley, waterfall
from loraprof.model.compare import Waterfall
from loraprof.model.report import Part, Step
from loraprof.model.vocabulary import CAUSES, CLASSES, PHASES, ROLES, Cause, Class, Phase, Role

NS = 10**9


def busy(role: Role, ns: int, events: int, phase: Phase = "forward", class_: Class = "compute") -> Part:
    return Part(kind="busy", class_=class_, cause=None, phase=phase, role=role, ns=ns, events=events)


def idle(cause: Cause, ns: int, events: int, role: Role = "norm", phase: Phase = "forward") -> Part:
    return Part(kind="idle", class_=None, cause=cause, phase=phase, role=role, ns=ns, events=events)


def side(name: str, parts: list[Part], mean_ns: int, unprofiled_ns: int | None = None) -> Side:
    wall_ns = sum(p.ns for p in parts)
    step = Step(name="ProfilerStep#1", wall_ns=wall_ns, partition=parts, overlap=[], launches=None)
    return Side(name, step, mean_ns, unprofiled_ns)


amounts = {"phase": some.sampled_from(PHASES), "role": some.sampled_from(ROLES)}
counts = {"ns": some.integers(0, NS), "events": some.integers(0, 500)}
parts = some.one_of(
    some.builds(busy, class_=some.sampled_from(CLASSES), **amounts, **counts),
    some.builds(idle, some.sampled_from(CAUSES), **amounts, **counts),
)
sides = some.builds(side, some.just("arm"), some.lists(parts, max_size=12), some.integers(1, NS), some.integers(1, NS))


def figures(w: Waterfall) -> dict[str, tuple[int, int, int]]:
    return {b.key: (b.ns, b.count_ns, b.duration_ns) for b in w.bars}


@given(sides, sides)
def test_k9_bars_add_up_and_m11_swap_changes_every_sign(a: Side, b: Side) -> None:
    forth, back = waterfall(a, b), waterfall(b, a)
    assert sum(bar.ns for bar in forth.bars) == b.mean_ns - a.mean_ns
    assert all(bar.count_ns + bar.duration_ns == bar.ns for bar in forth.bars)
    assert figures(forth) == {k: (-n, -c, -d) for k, (n, c, d) in figures(back).items()}
    assert len(figures(forth)) == len(forth.bars)


@given(sides)
def test_m10_an_arm_against_itself_is_all_zeros(a: Side) -> None:
    assert set(figures(waterfall(a, a)).values()) == {(0, 0, 0)}


@given(sides, sides, sides)
def test_m12_differences_chain(a: Side, b: Side, c: Side) -> None:
    total: Counter[str] = Counter()
    for w in (waterfall(a, b), waterfall(b, c)):
        for bar in w.bars:
            total[bar.key] += bar.ns
    direct = {bar.key: bar.ns for bar in waterfall(a, c).bars}
    assert {k: v for k, v in total.items() if v} == {k: v for k, v in direct.items() if v}


@given(some.tuples(counts["events"], counts["ns"]), some.tuples(counts["events"], counts["ns"]))
def test_shapley_parts_add_up_exactly(before: tuple[int, int], after: tuple[int, int]) -> None:
    assert sum(shapley(before, after)) == after[1] - before[1]


@pytest.mark.parametrize(
    ("before", "after", "count", "duration"),
    [
        ((40, 40 * 1000), (60, 60 * 900), 19000, -5000),
        ((0, 0), (12, 12 * 2500), 30000, 0),
        ((7, 7 * 3001), (4, 4 * 2999), -9000, -11),
        ((0, 100), (2, 300), 125, 75),  # time without events counts as one
        ((3, 300), (0, 50), -150, -100),
        ((0, 100), (0, 300), 0, 200),
    ],
)
def test_oracles(before: tuple[int, int], after: tuple[int, int], count: int, duration: int) -> None:
    assert shapley(before, after) == (Fraction(count), Fraction(duration))


@pytest.mark.parametrize(
    ("part", "key"),
    [
        (busy("base.linear", 1, 1, "backward"), "wgrad"),
        (busy("base.linear", 1, 1), "shared.base.linear"),
        (busy("base.linear", 1, 1, "recompute"), "recompute"),
        (busy("optimizer", 1, 1, "optimizer"), "optimizer"),
        (busy("grad_clip", 1, 1, "optimizer"), "grad_clip"),
        (busy("adapter.up", 1, 1, "backward"), "adapter.gemm"),
        (busy("adapter.elementwise", 1, 1), "adapter.elementwise"),
        (busy("base.linear", 1, 1, "backward", "comm"), "comm"),
        (idle("python", 1, 1, "adapter.down"), "adapter.launches"),
        (idle("python", 1, 1), "idle.python"),
        (idle("profiler", 1, 1, "adapter.down"), "profiler"),
    ],
)
def test_every_row_has_its_bar(part: Part, key: str) -> None:
    assert key_of(part) == key


def test_full_to_lora_by_hand() -> None:
    """Profiling added 50 to full and 90 to LoRA; the timed means agree with the profiled processes."""
    full = side("full", [busy("base.linear", 600, 6, "backward"), busy("optimizer", 300, 3, "optimizer"),
                         idle("python", 150, 3)], 1000, 1000)  # fmt: skip
    lora = side("lora", [busy("base.linear", 300, 3, "backward"), busy("adapter.down", 100, 4),
                         busy("adapter.up", 100, 4), idle("python", 190, 4), idle("python", 60, 2, "adapter.up")],
                660, 660)  # fmt: skip
    w = waterfall(full, lora)
    assert {b.key: b.ns for b in w.bars} == {
        "wgrad": -300, "optimizer": -300, "adapter.gemm": 200, "adapter.launches": 60, "idle.python": 40,
        "profiler": -40, "residual": 0,
    }  # fmt: skip
    assert not w.residual_flagged
    assert [b.key for b in w.bars[-2:]] == ["profiler", "residual"]


def test_unknown_profiler_share_stays_in_the_residual_and_is_flagged() -> None:
    w = waterfall(side("a", [busy("norm", 100, 1)], 90), side("b", [busy("norm", 250, 1)], 190))
    assert figures(w) == {"shared.norm": (150, 0, 150), "residual": (-50, 0, -50)}
    assert w.residual_flagged


def test_joint_means_drop_the_same_steps() -> None:
    first = [100] * 9 + [100]
    second = [110] * 9 + [990]
    assert joint_means(first, second, paired=True) == (100, 110)
    assert joint_means([100] * 4 + [150], [10, 11], paired=False) == (110, 10)  # 10.5 rounds to even
    with pytest.raises(ValueError):
        joint_means([], [1], paired=True)
