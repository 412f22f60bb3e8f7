import io
import re
from string import Formatter

import pytest
from golden_files import assert_golden
from msgspec.structs import replace
from rich.console import Console

from loraprof.diagnosis import judge
from loraprof.diagnosis.catalogue import Entry, texts
from loraprof.diagnosis.judge import RULES, rule_named
from loraprof.errors import UsageError
from loraprof.report.explain import render_explain, render_list

COUNTS = {"G": 6, "L": 11, "H": 6, "B": 14, "D": 7, "N": 5, "W": 1}
IDS = [f"{letter}{i}" for letter, n in COUNTS.items() for i in range(1, n + 1)]


def _console(width: int = 80) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=width, color_system=None), out


ENTRIES = [rule.entry for rule in RULES.values()]


def entry(id: str) -> Entry:
    return rule_named(id).entry


def test_every_rule_has_a_text_and_every_text_a_rule() -> None:
    assert list(RULES) == list(texts()) == IDS
    families = [rule.family for rule in RULES.values()]
    assert len(dict.fromkeys(families)) == len(COUNTS)
    assert sorted(families, key=list(dict.fromkeys(families)).index) == families


@pytest.mark.parametrize("id", IDS)
def test_signatures_hold_the_thresholds_of_the_code_and_no_other_numbers(id: str) -> None:
    """Names of dtypes and of other causes aside, a number is a threshold of the rule, and each is named."""
    rule, written = RULES[id], texts()[id].signature.partition(" Confirm:")[0]
    named = {field for _, field, _, _ in Formatter().parse(written) if field}
    assert named == set(rule.thresholds)
    rest = re.sub(r"\{[^}]*\}(\.0)?|\b(fp|float|bfloat|bf|tf)\d+|lora_dropout > 0|\bD\d", "", written)
    assert not re.search(r"\d", rest)
    for name, value in rule.thresholds.items():
        moved = replace(rule, thresholds={**rule.thresholds, name: 3 * value})
        assert moved.entry.signature != rule.entry.signature


@pytest.mark.parametrize("id", IDS)
def test_an_entry_says_something_in_every_field(id: str) -> None:
    e = entry(id)
    assert e.id == id
    for words in (e.cause, e.signature, e.remedy, e.gain):
        assert words.endswith(".")
        assert len(words) < 420
    assert not e.title.endswith(".")
    assert e.formula != ""


def test_case_and_blanks_do_not_matter() -> None:
    assert rule_named(" l2 ") is RULES["L2"]


@pytest.mark.parametrize(("id", "close"), [("L12", "L1"), ("G7", "G"), ("L", "L"), ("8B", "B8")])
def test_an_unknown_id_names_the_closest(id: str, close: str) -> None:
    with pytest.raises(UsageError) as caught:
        rule_named(id)
    assert caught.value.exit_code == 2
    assert id in caught.value.message
    assert close in (caught.value.hint or "")


def test_an_id_like_none_points_to_the_list() -> None:
    with pytest.raises(UsageError) as caught:
        rule_named("???")
    assert caught.value.hint == "`loraprof explain` lists all findings"


def test_sources_look_like_threads_papers_or_documents() -> None:
    thread = re.compile(r"[\w.-]+/[\w.-]+#\d+")
    paper = re.compile(r"arXiv \d{4}\.\d{5}")
    documents = {s for e in ENTRIES for s in e.sources if not thread.fullmatch(s) and not paper.fullmatch(s)}
    assert documents == {
        "PEFT MetaMathQA benchmark README",
        "PEFT MetaMathQA benchmark",
        "torchtune README",
        "NVIDIA Megatron-Bridge performance archive",
        "NVIDIA Megatron-Bridge docs/training/peft.md",
        "IBM fms-acceleration benchmarks",
        "Liger-Kernel",
        "CentML/lorafusion README",
        "unsloth.ai/blog/nvidia-collab",
    }
    assert [e.id for e in ENTRIES if not e.sources and e.evidence != "derived"] == []


@pytest.mark.parametrize("id", ["L2", "L10"])
def test_golden_explain(id: str) -> None:
    console, out = _console()
    render_explain(entry(id), console)
    assert_golden(f"explain-{id}.txt", out.getvalue())


def test_explain_prints_every_field_of_every_entry() -> None:
    for e in ENTRIES:
        console, out = _console(120)
        render_explain(e, console)
        printed = " ".join(out.getvalue().split())
        for words in (e.id, e.title, e.cause, e.signature, e.remedy, e.gain, e.formula or "", *e.sources):
            assert " ".join(words.split()) in printed


def test_the_list_names_every_id_once() -> None:
    console, out = _console()
    render_list(list(RULES.values()), console)
    assert re.findall(r"^  ([A-Z]\d+) ", out.getvalue(), re.MULTILINE) == IDS
    assert max(map(len, out.getvalue().splitlines())) <= 80


def test_three_words_are_near_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "terms", lambda: [f"zzzzz{i}" for i in range(5)])
    with pytest.raises(UsageError) as caught:
        judge.rule_named("zzzzz")
    assert (caught.value.hint or "").count("zzzzz") == 3
