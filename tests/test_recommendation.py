"""What to run: speed alone never decides where it is known what the arms learn."""

import pytest

from loraprof.comparison.recommendation import at_equal_memory, learning, recommend
from loraprof.model.compare import ArmResult, Ratio

GIB = 2**30
FULL = ArmResult(initial_loss=[5.5, 5.6, 5.4], final_loss=[1.0, 1.1, 0.9])
AS_GOOD = ArmResult(initial_loss=[5.5, 5.6, 5.4], final_loss=[1.2, 1.0, 1.2])
WORSE = ArmResult(initial_loss=[5.5, 5.6, 5.4], final_loss=[2.0, 2.1, 1.9])
ONCE_AS_GOOD = ArmResult(initial_loss=[5.5, 5.6, 5.4], final_loss=[2.0, 2.1, 1.0])
BARELY = ArmResult(initial_loss=[5.5, 5.6, 5.4], final_loss=[4.0, 4.1, 4.2])
DIVERGED = ArmResult(initial_loss=[5.5, 5.6, 5.4], final_loss=[1.0, None, 1.0])
UNKNOWN = ArmResult()


def ratio(of: str, value: float, to: str = "full", half: float = 0.01) -> Ratio:
    verdict = "faster" if value + half < 1 else "slower" if value - half > 1 else "undecided"
    return Ratio(of=of, to=to, ratio=value, low=value - half, high=value + half, verdict=verdict)  # type: ignore[arg-type]


def test_an_arm_learns_worse_only_where_every_seed_says_so() -> None:
    found = learning({"full": FULL, "lora": WORSE, "dora": ONCE_AS_GOOD, "paca": AS_GOOD, "frozen": WORSE})
    assert (found.best, found.worse) == ("full", {"lora"})  # type: ignore[comparison-overlap]
    assert learning({"full": BARELY, "lora": WORSE}).best == "lora"
    assert learning({"full": BARELY, "lora": UNKNOWN}).too_short
    assert learning({"full": UNKNOWN, "lora": DIVERGED}).judged == frozenset()


@pytest.mark.parametrize(
    ("arms", "ratios", "said"),
    [
        ({"full": UNKNOWN, "lora": UNKNOWN}, {"lora": 0.8}, "Run lora: the fastest arm measured that trains; what is"
         " learnt is not known, look at the loss before you rely on it."),
        ({"full": BARELY, "lora": BARELY}, {"lora": 0.8}, "Run lora: the fastest arm measured that trains; what is"
         " learnt is not known, more steps of --quality would tell."),
        ({"full": FULL, "lora": AS_GOOD}, {"lora": 0.8}, "Run lora: the fastest arm measured that trains, and none"
         " learns visibly better in a short run."),
        ({"full": FULL, "lora": WORSE}, {"lora": 0.8}, "No arm is shown to be faster than full and to learn as well."
         " Faster, but learning visibly worse than full in the same steps: lora."),
        ({"full": FULL, "lora": AS_GOOD, "paca": WORSE}, {"lora": 0.8, "paca": 0.6}, "Run lora: the fastest arm"
         " measured that trains and learns as well as full. Faster, but learning visibly worse than full in the same"
         " steps: paca."),
        ({"full": FULL, "lora": UNKNOWN}, {"lora": 0.8}, "Run lora: the fastest arm measured that trains; what is"
         " learnt is not known, look at the loss before you rely on it."),
        ({"full": FULL, "lora": DIVERGED}, {"lora": 0.8}, "No arm is shown to be faster than full and to learn as"
         " well. Faster, but with a loss that is not finite: lora."),
        ({"full": ArmResult(loss_finite=False), "lora": UNKNOWN}, {"lora": 1.2}, "Stay with full: every other arm that"
         " trains is slower. The loss of full itself is not finite."),
        ({"full": WORSE, "lora": AS_GOOD}, {"lora": 1.2}, "Stay with full: every other arm that trains is slower. full"
         " itself learns visibly worse than lora."),
        ({"full": FULL, "lora": UNKNOWN}, {"lora": 1.0}, "Choose by memory or quality, not by speed: no arm is shown"
         " to be faster than full."),
        ({"full": UNKNOWN, "lora": UNKNOWN, "dora": UNKNOWN}, {"lora": 0.8, "dora": 0.81}, "Run lora or dora: the"
         " fastest arms measured that train, not clearly apart; what is learnt is not known, look at the loss before"
         " you rely on it."),
    ],
)  # fmt: skip
def test_the_sentence(arms: dict[str, ArmResult], ratios: dict[str, float], said: str) -> None:
    assert recommend([ratio(of, value) for of, value in ratios.items()], "full", arms) == said


def test_the_frozen_arm_is_never_recommended() -> None:
    assert recommend([ratio("frozen", 0.5)], "full", {"full": FULL, "frozen": WORSE}) is None
    told = recommend([ratio("lora", 1.4, to="frozen")], "frozen", {"frozen": WORSE, "lora": FULL})
    assert told is not None
    assert told.startswith("The first arm, frozen, trains nothing")


def test_equal_memory_in_numbers() -> None:
    arms = {
        "full": ArmResult(iso_batch=8, iso_tokens_per_s=800.4),
        "frozen": ArmResult(iso_batch=64, iso_tokens_per_s=9000.0),
        "lora": ArmResult(iso_batch=16, iso_tokens_per_s=1200.0),
        "dora": ArmResult(),
    }
    assert at_equal_memory(arms, "full", GIB) == (
        "Within 1.00 GiB: lora runs batch 16 at 1,200 tokens/s, full runs batch 8 at 800 tokens/s."
    )
    assert at_equal_memory(arms, "dora", GIB) == (
        "Within 1.00 GiB: lora runs batch 16 at 1,200 tokens/s, dora does not fit."
    )
    near = {
        "full": ArmResult(iso_batch=8, iso_tokens_per_s=800.0, iso_low=700.0, iso_high=1300.0),
        "lora": ArmResult(iso_batch=16, iso_tokens_per_s=1200.0, iso_low=1100.0, iso_high=1250.0),
    }
    told = at_equal_memory(near, "full", GIB)
    assert told is not None
    assert told.endswith("full runs batch 8 at 800 tokens/s, which is not clearly apart.")
    assert at_equal_memory({"full": ArmResult()}, "full", GIB) is None
