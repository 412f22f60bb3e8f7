"""The words of the pages: each has one explanation, and the JSON's shape can be asked for."""

import json
from typing import get_args

import msgspec
import pytest
from sample_comparison import comparison
from sample_report import report

from loraprof.cli.app import run
from loraprof.cli.schema import OUTPUTS
from loraprof.diagnosis.glossary import term, terms
from loraprof.model.finding import GainBasis
from loraprof.model.report import Bound
from loraprof.model.vocabulary import CAUSES, CLASSES, PHASES, ROLES
from loraprof.report.palette import CAUSE_TONES, CPU_LABELS, TONES

OWN_WORDS = {*CAUSES, *CLASSES, *PHASES, *ROLES, "closure", "replay", "turnaround", "role", "roof", "A/A"}
SAMPLES = {"report": report(), "compare": comparison()}


@pytest.mark.parametrize("word", sorted(OWN_WORDS))
def test_every_word_of_the_vocabulary_is_explained(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", word]) == 0
    assert word.lower() in capsys.readouterr().out.lower()


def test_no_word_has_two_explanations() -> None:
    seen: dict[str, str] = {}
    for one in set(terms().values()):
        for word in one.words:
            assert seen.setdefault(word.lower(), one.text) == one.text


def test_the_bases_of_a_gain_and_the_bounds_of_a_kernel_are_words() -> None:
    assert {"measured", "model"} <= set(get_args(GainBasis))
    assert {"bound", "measured", "model", "assumed"} <= set(terms())
    assert set(get_args(Bound)) >= {"compute", "unknown"}


def test_an_unknown_word_names_the_closest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "turnarond"]) == 2
    assert "did you mean turnaround" in capsys.readouterr().err


@pytest.mark.parametrize("output", sorted(OUTPUTS))
def test_every_output_has_a_schema(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema", output]) == 0
    made = json.loads(capsys.readouterr().out)
    name = made["$ref"].rpartition("/")[2]
    assert made["$schema"].startswith("https://json-schema.org/")
    assert "schema" in made["$defs"][name]["properties"]
    if output in SAMPLES:
        printed = json.loads(msgspec.json.encode(SAMPLES[output]))
        assert set(printed) == set(made["$defs"][name]["properties"])


def test_an_unknown_output_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema", "reports"]) == 2
    assert "choose one of report" in capsys.readouterr().err


LABELS = {*(TONES[tone].label for tone in CAUSE_TONES.values()), *CPU_LABELS.values()}


@pytest.mark.parametrize("label", sorted(label for label in LABELS if label.startswith("idle: ")))
def test_every_label_of_idle_time_is_explained(label: str) -> None:
    assert term(label)
