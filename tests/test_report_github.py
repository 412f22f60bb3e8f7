import re

import msgspec
from sample_comparison import comparison
from sample_report import report

from loraprof.report.github import to_github
from loraprof.report.views.answer import headline

COMMAND = re.compile(r"::(error|warning|notice) title=([^:,\n]*)::(.*)")


def test_one_command_per_finding_after_the_verdict() -> None:
    lines = to_github(report()).decode().splitlines()
    found = [COMMAND.fullmatch(line) for line in lines]
    assert all(found)
    assert [m.group(1) for m in found if m] == ["notice", "warning", "notice", "notice"]
    assert lines[0] == f"::notice title=loraprof::{headline(report())}"


def test_a_blocker_is_an_error() -> None:
    blocker = msgspec.structs.replace(report().findings[0], severity="blocker")
    lines = to_github(msgspec.structs.replace(report(), findings=[blocker])).decode().splitlines()
    assert lines[1].startswith("::error title=L2 ")


def test_nothing_ends_a_command_early() -> None:
    hostile = msgspec.structs.replace(
        report().findings[0], title="a: b, c%\n::error::x", remedy="100 %\r\n::set-output name=x::y"
    )
    lines = to_github(msgspec.structs.replace(report(), findings=[hostile])).decode().splitlines()
    assert len(lines) == 2
    match = COMMAND.fullmatch(lines[1])
    assert match
    assert match.group(2) == "L2 a%3A b%2C c%25%0A%3A %3Aerror%3A%3Ax"
    assert match.group(3).startswith("100 %25%0A: :set-output name=x::y%0Again: ")


def test_a_comparison_says_its_answer() -> None:
    lines = to_github(comparison()).decode().splitlines()
    assert lines[0].startswith("::notice title=loraprof::lora is faster than full: 1.319x [")
    assert len(lines) == 2
