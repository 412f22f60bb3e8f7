"""What ``loraprof fix`` says of a remedy: its ratio, its loss, whether its prediction held."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import sample_report
from fixing import rounds, sample, seen
from provoke import made, synthetic

import loraprof
from loraprof.errors import InputError
from loraprof.live_remedies.catalogue import REMEDIES
from loraprof.model.finding import Finding, Gain, RemedyReport
from loraprof.model.fix import Fix, Measured
from loraprof.model.report import Proven
from loraprof.report.registry import render
from loraprof.runs.fix.job import Found
from loraprof.runs.fix.judge import loss_change, measured, noise, repeats
from loraprof.runs.fix.promises import NO_RULE, NOT_TOLD, NOTHING_SEEN, Promises
from loraprof.runs.fix.rows import _covered, refused, unchanged
from loraprof.runs.fix.schedule import BASE, TWIN


def test_a_ratio_and_its_verdict() -> None:
    fast = measured("r", rounds(seen([50, 51, 50, 49])))
    assert fast is not None
    assert fast.verdict == "faster"
    assert fast.low <= fast.ratio <= fast.high
    assert fast.ratio == pytest.approx(0.5, rel=0.03)
    even = measured("r", rounds(seen([100, 99, 101, 100])))
    assert even is not None
    assert even.verdict == "undecided"
    assert measured("other", rounds(seen([1]))) is None
    once = measured("r", rounds(seen([50, 51, 50, 49]), 1))
    assert once is not None
    assert once.verdict == "undecided"  # one round is of one moment
    assert noise(rounds(seen([1]))) == pytest.approx(0.02, abs=0.02)


@pytest.mark.parametrize(
    ("losses", "gradients", "verdict"),
    [
        ([1.0, 0.5], [1.0, 2.0], "same"),
        ([1.0, 0.500001], [1.0, 2.0], "same"),
        ([1.0, 0.502], [1.0, 2.0], "close"),
        ([1.0, 0.52], [1.0, 2.0], "differs"),
        ([1.0, float("nan")], [1.0, 2.0], "differs"),
        ([1.0, 0.5], [1.0, 0.0], "differs"),  # a gradient is lost, too late for the loss to show it
    ],
)
def test_the_loss(losses: list[float], gradients: list[float], verdict: str) -> None:
    all_rounds = rounds(seen([1], losses, gradients))
    change, reason = loss_change("r", all_rounds, repeats(all_rounds))
    assert change is not None
    assert change.verdict == verdict
    assert (reason is not None) == (gradients[1] == 0)


def test_losses_that_are_no_number_are_handed_over_and_compared() -> None:
    nan = seen([1], [float("nan"), float("inf")])
    own = [{BASE: nan, TWIN: nan, "r": nan}]
    change, _ = loss_change("r", own, repeats(own))
    assert change is not None
    assert change.verdict == "same"
    back = msgspec.msgpack.decode(msgspec.msgpack.encode(nan), type=Found)
    assert (math.isnan(back.losses[0]), back.losses[1]) == (True, math.inf)
    base = unchanged(own, nan)
    assert base.loss == [None, None]
    found = msgspec.structs.replace(sample(), base=base)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Fix) == found


def test_losses_of_a_program_that_is_not_repeatable() -> None:
    draws = [[1.0, 0.8], [1.1, 0.9], [0.9, 0.7], [1.05, 0.85]]
    some = [
        {
            BASE: seen([1], draws[i]),
            TWIN: seen([1], draws[i + 2]),
            "r": seen([1], [0.98, 0.8]),
            "s": seen([1], [2.0, 2.0]),
        }
        for i in range(2)
    ]
    known = repeats(some)
    assert not known.repeatable
    verdicts = [change.verdict for name in ("r", "s") if (change := loss_change(name, some, known)[0])]
    assert verdicts == ["same", "differs"]


@pytest.mark.parametrize(
    ("ratio", "low", "high", "covered"),
    [(0.8, 0.78, 0.82, True), (0.6, 0.55, 0.65, False), (0.95, 0.92, 0.97, False), (0.65, 0.5, 0.8, None)],
)
def test_whether_a_prediction_held(ratio: float, low: float, high: float, covered: bool | None) -> None:
    """A measured interval that reaches into the predicted 1.1x to 1.4x from outside decides nothing."""
    gain = Gain(ns=10, speedup=1.3, low=1.1, high=1.4, basis="model")
    assert _covered(gain, Measured(ratio=ratio, low=low, high=high, verdict="faster")) is covered
    assert _covered(None, None) is None
    vague = Gain(ns=10, speedup=1.3, low=1.1, high=20.0, basis="model")
    assert _covered(vague, Measured(ratio=ratio, low=low, high=high, verdict="faster")) is None


GAIN = Gain(ns=-10, speedup=0.9, low=0.8, high=1.0, basis="model")


def report_of(*findings: Finding) -> Promises:
    return Promises(msgspec.structs.replace(sample_report.report(), findings=list(findings)))


def cause(key: str, arm: str | None, gain: Gain | None, whole: Gain | None = None) -> Finding:
    remedy = RemedyReport(kind="same_training", stack="plain", text="do it", arm=arm, gain=gain)
    return Finding(
        id=key, severity="major", title="", evidence=[], remedy="", gain=whole or gain, see=[], remedies=[remedy]
    )


def test_what_a_remedy_promises_is_its_own_gain() -> None:
    """Never the whole of the cause's: that another remedy may gain more says nothing of this one."""
    large, small = (Gain(ns=ns, speedup=1.3, low=1.1, high=1.4, basis="model") for ns in (20, 10))
    compiled = REMEDIES["compile-blocks"]
    assert report_of(cause("H1", "compile-blocks", None, large)).speedup(compiled) == 1.0
    assert report_of(cause("H1", None, None, large)).speedup(compiled) == 1.0
    both = report_of(cause("H1", "compile-blocks", None, large), cause("L1", "compile-blocks", small))
    assert refused(compiled, "", both).predicted == small
    assert refused(compiled, "", both).finding == "L1"
    assert refused(compiled, "", report_of(cause("H1", None, None, large))).finding == "H1"


def test_where_nothing_is_promised_it_says_why() -> None:
    compiled, autocast = REMEDIES["compile-blocks"], REMEDIES["autocast"]
    none = report_of()
    assert Promises().of(compiled) == (None, None, "there is no recording")
    assert none.of(compiled) == (None, None, NOTHING_SEEN)
    assert none.of(autocast) == (None, None, NO_RULE)
    seen = report_of(cause("H1", "compile-blocks", None))
    assert seen.of(compiled)[1:] == (None, NOT_TOLD)
    told = replace(seen, effects={"compile-blocks": "because", "autocast": GAIN})
    assert told.of(compiled)[1:] == (None, "because")
    assert told.of(autocast) == (None, GAIN, None)


def test_a_report_says_what_fix_measured(tmp_path: Path) -> None:
    place = tmp_path / "a.loraprof"
    shutil.copytree(made(synthetic("bandwidth-v1")), place)
    before = loraprof.diagnose(place)
    assert before.verdict.proven is None
    (place / "fix.json").write_bytes(msgspec.json.encode(sample()))
    report = loraprof.diagnose(place)
    assert report.verdict.proven == Proven(arms=["lora-fused"], speedup=1.25, low=1 / 0.82, high=1 / 0.78)
    assert report.verdict.sentence.endswith("Measured by loraprof fix: 1.25x [1.22, 1.28] the speed with lora-fused.")
    assert "by loraprof fix" in render(report, "markdown").decode()
    assert report.closure == before.closure  # no file that belongs to no rank
    nothing = msgspec.structs.replace(sample(), remedies=[])
    (place / "fix.json").write_bytes(msgspec.json.encode(nothing))
    assert loraprof.diagnose(place).verdict == before.verdict
    for damaged in (b"{", msgspec.json.encode(sample()).replace(b'"ratio":0.8', b'"ratio":-1')):
        (place / "fix.json").write_bytes(damaged)
        with pytest.raises(InputError, match=r"fix\.json"):
            loraprof.diagnose(place)


def test_losses_of_other_samples() -> None:
    """Batches of like length are other batches: their mean loss counts, not each step's, nor one step's gradients."""
    base = [1.0, 1.2, 0.9, 1.1, 0.8, 1.0]
    verdicts = []
    for shift in (0.0, 0.1, 0.5):
        own = seen([1], [loss + shift for loss in reversed(base)], [9.0, 9.0])
        change, reason = loss_change("r", [{BASE: seen([1], base), TWIN: seen([1], base), "r": own}], STEADY, True)
        assert change is not None
        assert reason is None
        verdicts.append(change.verdict)
    assert verdicts == ["same", "same", "differs"]


STEADY = repeats([{BASE: seen([1]), TWIN: seen([1])}])


def test_a_machine_that_slows_down_evenly() -> None:
    """Twice as slow by the end of a round: what runs in its midst is no slower for it."""
    drifting = [{BASE: seen([100, 101] * 4), "r": seen([141, 142] * 4), TWIN: seen([200, 201] * 4)} for _ in range(4)]
    found = measured("r", drifting)
    assert found is not None
    assert found.ratio == pytest.approx(1.0, abs=0.01)
