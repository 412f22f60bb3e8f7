"""A rule is one object: registered, it appears wherever findings do."""

import json
from pathlib import Path

import pytest
from provoke import made, synthetic
from typer.testing import CliRunner

import loraprof
from loraprof.cli.app import app
from loraprof.diagnosis.case import Case
from loraprof.diagnosis.catalogue import Entry
from loraprof.diagnosis.judge import RULES
from loraprof.diagnosis.remedy import Remedy
from loraprof.diagnosis.rule import Family, Rule, Seen, evidence

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
    remedies=(Remedy("hardware", lambda case, values: f"count {values['often']}", arm="even"),),
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
        printed("report", path, "--format", form, "-o", str(page))
        assert TEXT.title in page.read_text()
        assert "count twice" in page.read_text()
    assert "oddities" in printed("explain")
    assert "More than 41 kernels." in " ".join(printed("explain", "x1").split())


def test_the_first_remedy_is_the_one_of_the_finding() -> None:
    for finding in loraprof.diagnose(made(synthetic("bandwidth-v5"))).findings:
        assert finding.remedies[0].text == finding.remedy
        assert finding.remedies[0].gain == finding.gain


def test_what_explains_a_rule_is_another_one() -> None:
    for rule in RULES.values():
        assert rule.remedies
        assert rule not in rule.explained_by
        assert all(other is RULES[other.id] for other in rule.explained_by)
