"""The sentence on top: shares of the step in words that fit the device."""

import pytest
from msgspec.structs import replace

from loraprof.analysis.prediction.counterfactual import Counterfactual
from loraprof.diagnosis.build import _nameless
from loraprof.diagnosis.verdict import GROUPS, limiting, proven, verdict
from loraprof.model.finding import Finding, Gain
from loraprof.model.fix import Fix, Measured, Status, Together, Tried, Unchanged
from loraprof.model.report import Interval, Launches, Part, Savings, Step, TimingReport, Unprofiled
from loraprof.model.vocabulary import Cause, Role
from loraprof.report.palette import ROLE_TONES


def sentence(launches: Launches | None, *parts: Part, plain: bool = False, inflation: float | None = None) -> str:
    step = Step(name="s", wall_ns=sum(p.ns for p in parts), partition=list(parts), overlap=[], launches=launches)
    known = Unprofiled(median_ns=1, low_ns=1, high_ns=1, steps=1) if inflation else None
    timing = TimingReport(unprofiled=known, profiled_ns=None, inflation=inflation, tokens_per_step=None)
    return verdict(step, None, timing, None, [], unprofiled=plain).sentence


def busy(role: Role, ns: int) -> Part:
    return Part(kind="busy", class_="compute", cause=None, phase="forward", role=role, ns=ns, events=1)


def idle(cause: Cause, ns: int) -> Part:
    return Part(kind="idle", class_=None, cause=cause, phase="forward", role="other", ns=ns, events=1)


LAUNCHES = Launches(count=1, api_median_ns=1, latency_floor_ns=1, turnaround_median_ns=1)


def test_idle_time_is_named_for_what_it_is() -> None:
    parts = busy("base.linear", 50), idle("python", 30), idle("data", 20)
    shares = "Of this step, 50.0 % goes to the linear layers, 30.0 % to {}, 20.0 % to {}."
    assert sentence(None, *parts) == shares.format("Python between the ops", "waiting for data or other ranks")
    device = "a device that waits for the host", "waiting for data or a synchronisation"
    assert sentence(LAUNCHES, *parts) == shares.format(*device)


def test_causes_of_a_kind_count_together() -> None:
    text = sentence(LAUNCHES, idle("framework", 30), idle("launch_api", 30), busy("norm", 25), busy("other", 15))
    assert text == (
        "Of this step, 60.0 % goes to a device that waits for the host, 25.0 % to norms, activations "
        "and additions, 15.0 % to work of unknown role."
    )


def test_a_kernel_that_is_held_back_after_its_launch_does_not_wait_for_the_host() -> None:
    """Streams wait for each other: only the floor of the latency is the host's."""
    held = Part(kind="idle", class_=None, cause="launch_latency", phase="forward", role="other", ns=40, events=10)
    launches = Launches(count=10, api_median_ns=1, latency_floor_ns=1, turnaround_median_ns=1)
    text = "Of this step, 40.0 % goes to the linear layers, 30.0 % to {}, 30.0 % to {}."
    parts = busy("base.linear", 40), idle("python", 20), held
    assert sentence(launches, *parts) == text.format("gaps between queued kernels", "a device that waits for the host")
    quick = Launches(count=10, api_median_ns=1, latency_floor_ns=4, turnaround_median_ns=1)
    assert "60.0 % goes to a device that waits for the host" in sentence(quick, *parts)


def test_communication_has_a_name_in_every_phase() -> None:
    """Gradients that are reduced while the optimizer's annotation is open are no work of the optimizer."""
    comm = Part(kind="busy", class_="comm", cause=None, phase="optimizer", role="comm", ns=60, events=1)
    text = sentence(LAUNCHES, comm, busy("base.linear", 25), busy("optimizer", 10), busy("dropout", 5))
    assert text == (
        "Of this step, 60.0 % goes to communication, 25.0 % to the linear layers, 10.0 % to the optimizer and clipping."
    )


def test_the_sentence_says_which_step_its_shares_are_of() -> None:
    parts = busy("base.linear", 60), busy("norm", 30), idle("framework", 10)
    assert sentence(LAUNCHES, *parts, plain=True).startswith("Of this step without the profiler, 60.0 % goes")
    refused = "Of this step under the profiler, which takes 1.89x the time it does without, 60.0 % goes"
    assert sentence(LAUNCHES, *parts, inflation=1.89).startswith(refused)


def test_from_a_twentieth_of_unknown_role_on_a_trace_should_be_recorded_otherwise() -> None:
    def said(*parts: Part) -> str | None:
        partition = [*parts, idle("data", 99)]
        wall_ns = sum(p.ns for p in partition)
        return _nameless(Step(name="s", wall_ns=wall_ns, partition=partition, overlap=[], launches=None), None)

    assert said(busy("other", 5), busy("norm", 96)) is said() is None
    assert (said(busy("other", 5), busy("norm", 95)) or "").startswith("5.0 % of the busy time has no known role")


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (80, 200, True),
        (80, 201, False),
        (1, 2, True),
        (0, 90, False),
        (20, 99, True),
        (101, 300, True),
        (39, 100, False),
    ],
)
def test_a_wide_prediction_says_nothing_unless_it_is_all_on_one_side(low: int, high: int, told: bool) -> None:
    interval, saved = Interval(low=low, high=high), Savings(wgrad_ns=0, optimizer_ns=0, comm_ns=0)
    other = Counterfactual(120, interval, 90, interval, saved, 10, 0)
    timing = TimingReport(
        unprofiled=Unprofiled(median_ns=100, low_ns=100, high_ns=100, steps=9),
        profiled_ns=None,
        inflation=None,
        tokens_per_step=None,
    )
    said = verdict(None, None, timing, other, [])
    assert said.ideal_speedup == 120 / 90
    assert said.speedup_vs_full == (1.2 if told else None)
    assert ("predicted too widely" in said.sentence) != told


def test_causes_of_unknown_gain_are_in_no_order() -> None:
    def cause(id: str, gain: Gain | None = None) -> Finding:
        return Finding(id=id, severity="major", title=id, evidence=[], remedy="", gain=gain, gate=id.startswith("G"))

    small = replace(cause("L5"), severity="minor")
    assert limiting([small]) is None  # of which nothing is known that would make it one
    assert limiting([cause("H1"), small]) == "H1"
    assert limiting([cause("D6"), cause("H1")]) is None
    assert limiting([cause("H1")]) == "H1"
    assert limiting([cause("G3"), cause("H1")]) == "H1"
    gain = Gain(ns=1, speedup=1.1, low=1.05, high=1.2, basis="model")
    assert limiting([cause("H1", gain), cause("D6")]) == "H1"
    unsure, sure = (replace(gain, low=low) for low in (1.005, 1.0051))
    assert limiting([cause("H1", unsure), cause("D6", sure)]) == "D6"


def test_the_fastest_of_what_was_kept_is_proven() -> None:
    def measured(ratio: float) -> Measured:
        return Measured(ratio=ratio, low=ratio * 0.9, high=ratio * 1.1, verdict="faster")

    def tried(arm: str, status: Status, ratio: float | None) -> Tried:
        told = None if ratio is None else measured(ratio)
        return Tried(finding=None, arm=arm, kind="same_training", text="", status=status, measured=told)

    base = Unchanged(median_ns=1, low_ns=1, high_ns=1, peak_bytes=None)
    every = [
        tried("a", "kept", 0.8),
        tried("b", "loss differs", 0.5),
        tried("c", "kept", None),
        tried("d", "kept", 0.9),
    ]
    found = Fix(target="", device_name="", base=base, noise_floor=None, remedies=every)
    one = proven(found)
    assert one is not None
    assert (one.arms, one.speedup) == (["a"], 1.25)
    assert (one.low, one.high) == pytest.approx((1 / 0.88, 1 / 0.72))
    assert proven(replace(found, remedies=every[1:3])) is None
    both = proven(replace(found, together=Together(arms=["a", "d"], measured=measured(0.5))))
    assert both is not None
    assert (both.arms, both.speedup) == (["a", "d"], 2)


def test_the_sentence_groups_roles_as_the_bar_does() -> None:
    """A share of the sentence and that of the bar below it are one number under one name."""
    tones = {group: {ROLE_TONES[role] for role in roles} for group, roles in GROUPS.items()}
    assert all(len(tone) == 1 for tone in tones.values())
    for group, (tone,) in tones.items():
        if tone == "rest":  # of which the sentence tells copies from work of unknown role
            continue
        assert set(GROUPS[group]) == {role for role, its in ROLE_TONES.items() if its == tone}
