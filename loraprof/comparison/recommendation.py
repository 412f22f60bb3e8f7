"""Which arm to run? From the verdicts on speed and, where it was measured, from what the arms learn.

Fastest are the arms surely faster than the reference, and as one those whose intervals meet the best one's. An arm
learns visibly worse where its loss falls by less than VISIBLE of the best learner's fall, with every seed. Where not
even the best learner loses half of its first loss, the training runs are too short to tell arms apart.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final

from msgspec import Struct

from loraprof import units
from loraprof.model.compare import ArmResult, Ratio

VISIBLE: Final = 0.9
ENOUGH: Final = 0.5  # of the first loss, that the best learner must lose
BOUND: Final = "frozen"  # trains nothing


class Learning(Struct, frozen=True):
    """Of the arms that were ``judged``, ``best`` loses most of its loss and ``worse`` visibly less than it.

    ``too_short``: neither can be told.
    """

    judged: frozenset[str] = frozenset()
    best: str | None = None
    worse: frozenset[str] = frozenset()
    too_short: bool = False


def learning(arms: Mapping[str, ArmResult]) -> Learning:
    """What the short training runs say about the arms that train."""
    falls = {name: fall for name, arm in arms.items() if name != BOUND and (fall := _falls(arm))}
    if not falls:
        return Learning()
    best = max(falls, key=lambda name: median(falls[name]))
    if median(falls[best]) < ENOUGH:
        return Learning(too_short=True)
    worse = (
        name for name, fall in falls.items() if all(a < VISIBLE * b for a, b in zip(fall, falls[best], strict=True))
    )
    return Learning(frozenset(falls), best, frozenset(worse))


def _falls(arm: ArmResult) -> list[float]:
    """Per seed, the share of the first loss that was lost; empty where unknown or not finite."""
    pairs = list(zip(arm.initial_loss or (), arm.final_loss or (), strict=False))
    known = [(first - last) / first for first, last in pairs if first and last is not None]
    return known if len(known) == len(pairs) else []


def diverges(arm: ArmResult) -> bool:
    """Whether a loss of this arm was seen that is not finite."""
    losses = [*(arm.initial_loss or ()), *(arm.final_loss or ())]
    return arm.loss_finite is False or None in losses


def recommend(ratios: Sequence[Ratio], reference: str, arms: Mapping[str, ArmResult]) -> str | None:
    """One or two sentences, None where no arm that trains was compared."""
    trains = sorted((r for r in ratios if r.to == reference and r.of != BOUND), key=lambda r: (r.ratio, r.of))
    if not trains:
        return None
    if reference == BOUND:
        return "The first arm, frozen, trains nothing and is only a bound: name the arm you would replace first."
    known = learning(arms)
    broken = {name for name, arm in arms.items() if diverges(arm)}
    faster = [r for r in trains if r.verdict == "faster"]
    sound = [r for r in faster if r.of not in known.worse | broken]
    unsound = [r.of for r in faster if r not in sound and (not sound or r.ratio < sound[0].ratio)]
    sentences = [_run(sound, known, bool(unsound)) if sound else _stay(reference, trains, faster)]
    worse = f"learning visibly worse than {known.best} in the same steps"
    for names, flaw in ((broken, "with a loss that is not finite"), (known.worse - broken, worse)):
        if found := [name for name in unsound if name in names]:
            sentences.append(f"Faster, but {flaw}: {', '.join(found)}.")
    if not sound and reference in broken:
        sentences.append(f"The loss of {reference} itself is not finite.")
    elif not sound and reference in known.worse:
        sentences.append(f"{reference} itself learns visibly worse than {known.best}.")
    return " ".join(sentences)


def _run(sound: Sequence[Ratio], known: Learning, others_are_faster: bool) -> str:
    """``sound`` is sorted by ratio; those that meet the first one's interval are named with it."""
    names = [r.of for r in sound if r.low <= sound[0].high]
    several = len(names) > 1
    which = (
        "the fastest arms measured that train, not clearly apart" if several else "the fastest arm measured that trains"
    )
    if others_are_faster:
        which += " and learn" if several else " and learns"
        which += f" as well as {known.best}" if known.best else " with a finite loss"
        return f"Run {' or '.join(names)}: {which}."
    if not known.judged.issuperset(names):
        more = "more steps of --quality would tell" if known.too_short else "look at the loss before you rely on it"
        return f"Run {' or '.join(names)}: {which}; what is learnt is not known, {more}."
    return f"Run {' or '.join(names)}: {which}, and none learns visibly better in a short run."


def _stay(reference: str, trains: Sequence[Ratio], faster: Sequence[Ratio]) -> str:
    if faster:
        return f"No arm is shown to be faster than {reference} and to learn as well."
    if all(r.verdict == "slower" for r in trains):
        return f"Stay with {reference}: every other arm that trains is slower."
    return f"Choose by memory or quality, not by speed: no arm is shown to be faster than {reference}."


def at_equal_memory(arms: Mapping[str, ArmResult], reference: str | None, limit_bytes: int) -> str | None:
    """What memory decides, in numbers: the arm that trains fastest at the batch it can afford, and the reference."""
    known = {n: (a.iso_tokens_per_s, a.iso_batch) for n, a in arms.items() if a.iso_batch and a.iso_tokens_per_s}
    trains = [name for name in known if name != BOUND]
    if reference is None or reference not in arms or not trains:
        return None
    best = max(trains, key=lambda name: known[name][0] or 0)
    names = dict.fromkeys((best, reference) if reference in known else (best,))
    parts = [
        f"{n} runs batch {units.count(known[n][1])} at {units.count(round(known[n][0] or 0))} tokens/s" for n in names
    ]
    parts += [f"{reference} does not fit"] if reference not in known else []
    low, high = arms[best].iso_low, arms[reference].iso_high
    together = best != reference and low is not None and high is not None and low <= high
    unsure = ", which is not clearly apart" if together else ""
    return f"Within {units.nbytes(limit_bytes)}: {', '.join(parts)}{unsure}."
