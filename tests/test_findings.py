"""The whole list of findings: every id has a rule, their order, and what excludes what."""

import ast
import re
from pathlib import Path

import msgspec
import pytest
from provoke import found, made, shaped, synthetic, toy, workload
from recorded import recorded

import loraprof
from loraprof import units
from loraprof.diagnosis.judge import RULES

PACKAGE = Path(loraprof.__file__).parent / "diagnosis"
ELSEWHERE = ("estimate", "live_remedies")  # which causes an estimate can tell, which a change of a program answers
CACHES = {"best_times.py", "roofline.py"}  # one is called L2


def test_every_rule_has_a_test_of_its_own() -> None:
    """One is about two recordings: it is found by their comparison."""
    tests = [rule.test for rule in RULES.values() if rule.test]
    assert len(tests) == len(set(tests)) == len(RULES) - 1


def test_ids_are_written_where_a_rule_is_made_and_nowhere_else() -> None:
    """No code asks which rule made a finding by its id."""
    root = PACKAGE.parent
    for path in sorted(p for p in root.rglob("*.py") if p.relative_to(root).parts[0] not in ELSEWHERE):
        if path.name in CACHES:
            continue
        written = re.findall(r"""["'][GLHBDNW]\d{1,2}["']|\bid\[0\]|\bid\.startswith""", path.read_text())
        made = re.findall(r'\bRule\(\s*"[GLHBDNW]\d+"', path.read_text())
        assert len(written) == len(made), path


def test_sources_and_titles_come_from_the_catalogue() -> None:
    for finding in found(made(synthetic("bandwidth-v5"))).values():
        assert finding.see == list(RULES[finding.id].entry.sources)
        assert finding.title == RULES[finding.id].entry.title
        assert finding.remedy
        assert finding.evidence


def test_every_unit_of_evidence_is_one_that_reads_well() -> None:
    """Units are literals of the rules; a bare fraction or an unscaled count of bytes would reach the screen."""
    calls = [
        node
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "evidence"
    ]
    used = {ast.literal_eval(call.args[2]) for call in calls if len(call.args) > 2}
    assert len(calls) > 100
    assert used <= {"", *units.QUANTITIES, *units.PLAIN, *units.COUNTED}
    assert "share" in used


@pytest.mark.slow
def test_largest_gain_first_and_blockers_before_all() -> None:
    report = loraprof.diagnose(made(synthetic("bandwidth-v5")))
    gains = [f.gain.ns if f.gain else 0 for f in report.findings]
    assert gains == sorted(gains, reverse=True)
    assert len(gains) >= 3
    assert loraprof.diagnose(toy("unfrozen")).findings[0].id == "G5"
    for finding in report.findings:
        if finding.gain:
            assert 1 <= finding.gain.low <= finding.gain.speedup <= finding.gain.high


def test_the_limiting_cause_is_a_finding() -> None:
    report = loraprof.diagnose(made(synthetic("bandwidth-v5")))
    assert report.verdict.limiting_cause in {f.id for f in report.findings}


def test_the_same_recording_gives_the_same_findings() -> None:
    path = made(synthetic("bandwidth-v5"))
    first, second = (msgspec.json.encode(loraprof.diagnose(path).findings) for _ in range(2))
    assert first == second


def test_a_full_step_has_no_advice_on_adapters() -> None:
    for arm in ("full", "frozen"):
        run = shaped(arm=arm, hidden=4096, ffn=11008, tokens=4096)
        assert not [i for i in found(made(run, **workload(run.recording))) if i[0] in "LGW"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "overrides", "cause", "silent"),
    [
        ("resnet18", (), "L4", "L6"),  # huggingface/peft#960: dropout 0.1 on every convolution
        ("minimind-26m", ("targets=q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj",), "L6", "L4"),
        ("minimind-26m", ("targets=q_proj,k_proj",), None, "L6"),  # jingyaogong/minimind#88: the author's advice
        ("roberta-base", (), "L4", "L6"),  # huggingface/peft#664
        ("qwen2.5-0.5b", ("checkpointing=non-reentrant",), "B2", "L4"),  # hiyouga/LlamaFactory#4966
        ("qwen2.5-0.5b", (), None, "B2"),
    ],
)
def test_public_cases(preset: str, overrides: tuple[str, ...], cause: str | None, silent: str) -> None:
    """Reports of users whose LoRA was not faster, on shrunken models: the report names the catalogue's cause."""
    here = found(recorded(preset, *overrides))
    assert cause is None or cause in here
    assert silent not in here
