import subprocess
import sys

import pytest
from sample_comparison import comparison
from sample_report import bare_report, report

from loraprof.errors import UsageError
from loraprof.report.registry import RENDERERS, render


@pytest.mark.parametrize("format", RENDERERS)
def test_every_format_renders_reports_and_comparisons(format: str) -> None:
    reports = (report(), bare_report())
    for shown in reports if format == "issue" else (*reports, comparison()):
        text = render(shown, format).decode()
        assert text.endswith("\n")
        assert "\x1b" not in text


def test_an_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        render(report(), "yaml")
    assert caught.value.hint == "Choose one of terminal, json, html, markdown, github, agent, issue."


@pytest.mark.parametrize(
    ("format", "absent"), [("json", "rich"), ("html", "rich"), ("markdown", "rich"), ("terminal", "torch")]
)
def test_a_format_loads_only_what_it_needs(format: str, absent: str) -> None:
    code = (
        "import sys; from loraprof.report.registry import renderer; "
        f"renderer({format!r}); print([m for m in sys.modules if m.split('.')[0] in ({absent!r}, 'torch')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_terminal_report_for_a_file_is_plain() -> None:
    lines = render(report(), "terminal").decode().splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0].startswith("LoRA is 1.31x faster")
