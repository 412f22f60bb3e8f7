"""What several changes give together: never less than one of them, never more than their sum, replayed as one."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import reference

from loraprof.analysis.prediction.edits import without
from loraprof.analysis.prediction.replay import replayed
from loraprof.diagnosis import what_if as module
from loraprof.diagnosis.build import Diagnosis
from loraprof.diagnosis.case import Case
from loraprof.diagnosis.select import reported, roles, saved_ns, worth
from loraprof.diagnosis.what_if import what_if
from loraprof.diagnosis.worth import HostEdit, Taken, Worth
from loraprof.model.vocabulary import ADAPTER_ROLES, ROLE
from loraprof.model.what_if import WhatIf
from loraprof.store.profiles import profiles_dir

GPU = {path.stem: path for path in reference.found_in(profiles_dir() / "recordings")}
NAMES = ("gpt2-xl-512", "llama-3.2-1b", "minimind-26m", "tinyllama-512")


@cache
def diagnosis(name: str) -> Diagnosis:
    return reference.job(GPU[name]).diagnosis


def case_of(name: str) -> Case:
    case = diagnosis(name).case
    assert case is not None
    return case


@cache
def found(name: str) -> WhatIf:
    made = what_if(case_of(name), diagnosis(name).report.findings)
    assert made is not None
    return made


def saved(what: WhatIf) -> list[int]:
    """Per set, what it takes off the step, ns."""
    return [what.outcomes[0].step_ns - outcome.step_ns for outcome in what.outcomes]


@pytest.mark.parametrize("name", NAMES)
def test_there_is_an_outcome_for_every_set_and_more_changes_never_gain_less(name: str) -> None:
    what, now = found(name), diagnosis(name).report.timing.unprofiled
    assert now is not None
    assert len(what.outcomes) == 1 << len(what.choices)
    assert what.outcomes[0].step_ns == now.median_ns
    gained = saved(what)
    for chosen in range(len(gained)):
        for bit in (1 << i for i in range(len(what.choices)) if chosen >> i & 1):
            assert gained[chosen] >= gained[chosen & ~bit]
            assert gained[chosen] >= gained[bit]


@pytest.mark.parametrize("name", NAMES)
def test_one_change_alone_gains_what_the_report_says(name: str) -> None:
    what = found(name)
    for choice, outcome in [*((c, what.outcomes[1 << i]) for i, c in enumerate(what.choices)), *what.alone]:
        finding = next(f for f in diagnosis(name).report.findings if f.id == choice.id)
        gain = next(r.gain for r in finding.remedies if r.text == choice.text)
        assert gain is not None
        assert outcome.step_ns == what.outcomes[0].step_ns - gain.ns
        assert (outcome.speedup, outcome.low, outcome.high) == (gain.speedup, gain.low, gain.high)


@pytest.mark.parametrize("name", ["gpt2-xl-512", "llama-3.2-1b"])
def test_changes_to_the_work_gain_no_more_than_their_sum_and_overlap(name: str) -> None:
    what = found(name)
    gained = saved(what)
    alone = [gained[1 << i] for i in range(len(what.choices))]
    for chosen, ns in enumerate(gained):
        assert ns <= sum(one for i, one in enumerate(alone) if chosen >> i & 1) + 1
    places = {choice.id: i for i, choice in enumerate(what.choices)}
    both = gained[1 << places["L1"] | 1 << places["L2"]]  # both take casts away: those count once
    assert max(alone[places["L1"]], alone[places["L2"]]) < both < alone[places["L1"]] + alone[places["L2"]]


@pytest.mark.parametrize("name", NAMES)
def test_an_interval_holds_its_speedup_and_the_step_left_is_its_gain(name: str) -> None:
    what = found(name)
    for outcome in what.outcomes[1:]:
        assert outcome.low <= outcome.speedup <= outcome.high
        assert outcome.speedup == pytest.approx(what.outcomes[0].step_ns / outcome.step_ns, rel=1e-3)


def test_what_goes_of_work_and_of_launches_is_replayed_together() -> None:
    """Without the adapter path, on a host twice as fast: the same as its calls taken out by hand."""
    case = case_of("tinyllama-512")
    path = worth(case, roles(*ADAPTER_ROLES))
    assert case.replay is not None
    assert case.replay.sigma is not None
    assert path is not None
    assert path.edit is not None
    calls, own = case.replay.step.calls, [ROLE[r] for r in ADAPTER_ROLES]
    gone = np.isin(case.replay.record_role, own)
    floors = case.replay.latency_ns, case.replay.turnaround_ns
    now = replayed(calls, case.replay.sigma, *floors).window_ns
    then = replayed(without(calls, np.zeros(len(calls.kind), np.bool_), gone), 0.5 * case.replay.sigma, *floors)
    step = module._Edited(reported(case), case.replay)
    assert step.saved_ns([path.edit, HostEdit(share=0.5)]) == pytest.approx(now - then.window_ns, rel=0.01)
    assert step.saved_ns([path.edit]) == pytest.approx(path.ns)


def test_what_two_changes_take_of_the_same_entries_counts_once() -> None:
    case = case_of("llama-3.2-1b")
    step = module._Edited(reported(case), None)
    down, path = worth(case, roles("adapter.down")), worth(case, roles(*ADAPTER_ROLES))
    up = worth(case, roles("adapter.up"))
    assert down is not None
    assert up is not None
    assert path is not None
    edits = [w.edit for w in (down, up, path, path.times(0.5))]
    some = [e for e in edits if isinstance(e, Taken)]
    assert len(some) == 4
    assert step.saved_ns([some[0], some[0]]) == pytest.approx(down.ns)
    assert step.saved_ns([some[0], some[1]]) == pytest.approx(down.ns + up.ns)
    assert step.saved_ns([some[0], some[2]]) == pytest.approx(path.ns)
    assert path.ns / 2 < step.saved_ns([some[0], some[3]]) < path.ns / 2 + down.ns


def test_every_worth_of_chosen_entries_is_what_its_edit_takes() -> None:
    case = case_of("llama-3.2-1b")
    for select in (roles("adapter.elementwise"), roles("loss", "head"), roles("norm")):
        for waiting in (True, False):
            value = worth(case, select, waiting)
            assert value is not None
            assert isinstance(value.edit, Taken)
            assert saved_ns(reported(case), value.edit) == pytest.approx(value.ns)
            assert saved_ns(reported(case), value.times(0.3).edit) == pytest.approx(0.3 * value.ns)  # type: ignore[arg-type]


def test_what_cannot_be_combined_says_why() -> None:
    [(choice, _)] = found("llama-3.2-1b").alone
    assert choice.id == "W1"
    assert choice.apart is not None
    assert "no adapter" in choice.apart
    assert "one sum" in (module._apart(None, Worth(5.0, 1.0, 9.0)) or "")
    assert Worth(5.0, 1.0, 9.0, edit=HostEdit(share=0.5)).times(0.5).edit is None  # half of a replay is none


def test_a_long_step_combines_fewer_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(found("tinyllama-512").choices) == 5
    case, findings = case_of("tinyllama-512"), diagnosis("tinyllama-512").report.findings
    sizes = []
    for visits in (0, 400_000, module.VISITS):
        monkeypatch.setattr(module, "VISITS", visits)
        made = what_if(case, findings)
        assert made is not None
        sizes.append(len(made.choices))
    assert sizes[0] == 2
    assert sizes[-1] == 5
    assert all(a <= b for a, b in pairwise(sizes))


def test_without_an_unprofiled_time_there_is_nothing_to_choose() -> None:
    import msgspec
    from msgspec.structs import replace

    case = case_of("llama-3.2-1b")
    untimed = replace(case, timing=msgspec.structs.replace(case.timing, unprofiled=None))
    assert what_if(untimed, diagnosis("llama-3.2-1b").report.findings) is None
    assert what_if(case, []) is None
