"""A rule is one object: registered, it appears wherever findings do."""

import ast
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from provoke import made, synthetic, timing
from synthetic.simulate import Synthetic
from typer.testing import CliRunner

import loraprof
from loraprof.cli.app import app
from loraprof.diagnosis.case import Case
from loraprof.diagnosis.catalogue import Entry
from loraprof.diagnosis.judge import RULES
from loraprof.diagnosis.remedy import COMPARED, ORDER, Remedy
from loraprof.diagnosis.rule import Family, Rule, Seen, evidence
from loraprof.diagnosis.worth import Worth
from loraprof.live_remedies.catalogue import REMEDIES
from loraprof.model.recording import Timing
from loraprof.workloads.arms import ARMS

TEXT = Entry(
    id="X1",
    title="The step is odd",
    cause="Its kernels are odd in number.",
    signature="More than {count} kernels.",
    remedy="One more or one fewer.",
    gain="None.",
    evidence="derived",
    sources=(),
)


def _odd(case: Case) -> Seen | None:
    return Seen(evidence=[evidence("kernels", len(case.busy.rows), "kernels")], values={"often": "twice"})


ODD = Rule(
    id="X1",
    family=Family("oddities"),
    test=_odd,
    remedies=(Remedy(kind="hardware", text={"plain": "count $often"}, arm="even"),),
    thresholds={"count": 41},
    text=TEXT,
)


def printed(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.output


def test_a_rule_alone_appears_in_report_page_and_explain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = str(made(synthetic("bandwidth-v1")))
    monkeypatch.setitem(RULES, "X1", ODD)
    found = next(f for f in json.loads(printed("report", path, "--format", "json"))["findings"] if f["id"] == "X1")
    assert found["title"] == TEXT.title
    assert found["remedy"] == "count twice"
    assert [(r["kind"], r["text"], r["arm"]) for r in found["remedies"]] == [("hardware", "count twice", "even")]
    for form in ("terminal", "html", "markdown", "github"):
        page = tmp_path / form
        printed("report", path, "--format", form, "-o", str(page), *["--full"] * (form == "terminal"))
        assert TEXT.title in page.read_text()
        assert "count twice" in page.read_text()
    assert "oddities" in printed("explain")
    assert "More than 41 kernels." in " ".join(printed("explain", "x1").split())


def _saves(share: float, **given: Any) -> Rule:
    def test(case: Case) -> Seen:
        assert case.timing.unprofiled is not None
        ns = share * case.timing.unprofiled.median_ns
        return Seen(
            evidence=[evidence("kernels", 1, "kernels")], saved=Worth(ns, ns, ns), values={"often": "1"}, **given
        )

    return replace(ODD, test=test)


def _spread(run: Synthetic, by: float) -> Path:
    """Steps that differ by so much."""
    (median, *_), clock = timing(run).samples_ns, "cuda_event"
    samples = [round(median * (1 + by * (i % 3 - 1))) for i in range(12)]
    return made(run, timing=Timing(samples_ns=samples, dropped=3, clock=clock))


@pytest.mark.parametrize(("share", "spread", "said", "claimed"), [
    (0.004, 0.0, False, False), (0.007, 0.0, True, True), (0.007, 0.02, True, False), (0.03, 0.02, True, True),
    (0.2, 0.4, True, True),
])  # fmt: skip
def test_a_gain_that_cannot_be_told_from_nothing_is_no_claim(
    share: float, spread: float, said: bool, claimed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cause that is there is named, however much the steps spread; what it costs is said where it can be told."""
    path = _spread(synthetic("bandwidth-v1"), spread)
    monkeypatch.setitem(RULES, "X1", _saves(share))
    report = loraprof.diagnose(path)
    found = next((f for f in report.findings if f.id == "X1"), None)
    assert (found is not None) == said
    assert (found is not None and found.gain is not None) == claimed
    unprofiled = report.timing.unprofiled
    if found is not None and found.gain is not None and unprofiled is not None:
        assert found.gain.high - found.gain.low >= 0.01 * found.gain.speedup
        ends = (unprofiled.median_ns * (1 - 1 / x) for x in (found.gain.high, max(found.gain.low, 1.0)))
        most, least = ends
        spread_ns = (unprofiled.high_ns - unprofiled.low_ns) / 2
        assert most - found.gain.ns >= 0.99 * min(spread_ns, 0.9 * unprofiled.median_ns - found.gain.ns)
        assert least == 0 or found.gain.ns - least >= 0.99 * spread_ns
    monkeypatch.setitem(RULES, "X1", _saves(share, severity="major"))
    assert any(f.id == "X1" for f in loraprof.diagnose(path).findings)


def test_the_first_remedy_is_the_one_of_the_finding_and_keeps_the_training_if_any_does() -> None:
    for finding in loraprof.diagnose(made(synthetic("bandwidth-v5"))).findings:
        kinds = [ORDER.index(r.kind) for r in finding.remedies]
        assert finding.remedies[0].text == finding.remedy
        assert kinds == sorted(kinds)
        gains = [r.gain.ns for r in finding.remedies if r.gain]
        assert (finding.gain.ns if finding.gain else None) == max(gains, default=None)


def test_what_explains_a_rule_is_another_one() -> None:
    for rule in RULES.values():
        assert rule.remedies
        assert rule not in rule.explained_by
        assert all(other is RULES[other.id] for other in rule.explained_by)


def remedies() -> list[Remedy]:
    return [remedy for rule in RULES.values() for remedy in rule.remedies]


def test_what_is_assumed_has_a_source_and_a_wide_range() -> None:
    assumed = [remedy.assumed for remedy in remedies() if remedy.assumed]
    assert len(assumed) >= 3
    for part in assumed:
        assert part.source
        assert part.high >= 1.5 * part.low
    whole = Worth(100.0, 90.0, 110.0)
    for part in assumed:
        saved = whole.share(part)
        assert (saved.basis, saved.source) == ("assumed", part.source)


def _factors(source: str) -> list[float]:
    """Fractions that code multiplies or divides by, or scales a gain by."""
    nodes = list(ast.walk(ast.parse(source)))
    sides = [
        side
        for n in nodes
        if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Mult | ast.Div)
        for side in (n.left, n.right)
    ]
    for n in nodes:
        if isinstance(n, ast.Call) and getattr(n.func, "attr", getattr(n.func, "id", "")) in ("times", "Worth"):
            sides += n.args
    values = (side.value for side in sides if isinstance(side, ast.Constant))
    return [v for v in values if isinstance(v, float) and not v.is_integer()]


def test_no_gain_that_is_modelled_or_replayed_has_a_constant_factor() -> None:
    """What a family's tests and its remedies multiply by is computed from the recording; ranges from elsewhere are
    ``Assumed``."""
    tests = {inspect.getmodule(rule.test) for rule in RULES.values() if rule.test}
    remedies = {inspect.getmodule(r.saved) for rule in RULES.values() for r in rule.remedies if r.saved}
    for module in (tests | remedies) - {None}:
        assert module is not None
        assert _factors(inspect.getsource(module)) == [], module
    assert len(tests) >= 8
    assert sorted(_factors("Worth(0.5 * spent, 0.2, 1.0).times(0.9)")) == [0.2, 0.5, 0.9]


def test_every_remedy_has_words_for_a_loop_of_ones_own_or_is_for_a_library() -> None:
    """And what these words ask for is what the rule's test hands over: they are printed by the tests of the rules."""
    for remedy in remedies():
        assert "plain" in remedy.text or "peft" in remedy.text
        plain = remedy.text.get("plain", "")
        assert not re.search("TrainingArguments|LoraConfig|get_peft_model|per_device|axolotl|Unsloth", plain)


def test_arms_are_those_of_compare_and_fix() -> None:
    arms = {remedy.arm for remedy in remedies() if remedy.arm}
    assert set(COMPARED) <= arms <= ARMS.keys() | REMEDIES.keys()
