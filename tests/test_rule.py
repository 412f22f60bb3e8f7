"""A rule is one object: registered, it appears wherever findings do."""

import ast
import inspect
import json
import re
from pathlib import Path

import pytest
from provoke import made, synthetic
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
