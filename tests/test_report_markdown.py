import re

import msgspec
import pytest
from sample_comparison import comparison
from sample_report import bare_report, empty_report, report

from loraprof.model.compare import Comparison
from loraprof.model.report import Report
from loraprof.report.markdown import escape, to_markdown


@pytest.mark.parametrize("shown", [report(), bare_report(), empty_report(), comparison()])
def test_every_row_of_a_table_has_the_cells_of_its_head(shown: Report | Comparison) -> None:
    tables = re.findall(r"(?:^\|.*\|\n)+", to_markdown(shown).decode(), re.MULTILINE)
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1
    assert len(tables) >= (0 if isinstance(shown, Report) and not shown.steps else 3)


def test_a_hostile_name_stays_text() -> None:
    name = "a|b`c`[d](e)<img>**f**\n# g"
    kernels = [msgspec.structs.replace(k, name=name) for k in report().kernels[:1]]
    text = to_markdown(msgspec.structs.replace(report(), kernels=kernels)).decode()
    row = next(line for line in text.splitlines() if line.startswith("| a\\|b"))
    assert row.startswith("| a\\|b\\`c\\`\\[d\\](e)\\<img\\>\\*\\*f\\*\\* # g | base.linear |")
    assert len(re.findall(r"(?<!\\)\|", row)) == 9


@pytest.mark.parametrize(
    ("text", "escaped"),
    [("a|b", "a\\|b"), ("launch_api", "launch_api"), ("_x_", "\\_x\\_"), ("<b>&", "\\<b\\>\\&"), ("a\nb", "a b")],
)
def test_escape(text: str, escaped: str) -> None:
    assert escape(text) == escaped


def test_details_are_folded_and_closed() -> None:
    text = to_markdown(report()).decode()
    assert text.count("<details>") == text.count("</details>") == 2


def test_findings_and_headline_are_there() -> None:
    text = to_markdown(report()).decode()
    assert text.splitlines()[2].startswith("**LoRA is 1.31x faster")
    assert "**L2 fp32 adapters on a bf16 base: every adapter call casts up and down** (major)" in text
