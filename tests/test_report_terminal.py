import io
import re
from collections.abc import Callable

import msgspec
import pytest
from golden_files import assert_golden
from rich.cells import cell_len
from rich.console import Console
from sample_comparison import comparison
from sample_report import HOSTILE, bare_report, empty_report, report

from loraprof.model.compare import Comparison
from loraprof.model.report import Report
from loraprof.report.document import Cell, Column, Table
from loraprof.report.terminal import render as terminal
from loraprof.report.terminal.table import table_lines

REPORTS: dict[str, Callable[[], Report]] = {"report": report, "bare": bare_report, "empty": empty_report}


def printed(shown: Report | Comparison, width: int, *, colour: bool = False) -> str:
    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        force_terminal=colour,
        color_system="truecolor" if colour else None,
        no_color=not colour,
    )
    terminal.render(shown, console)
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", REPORTS)
def test_golden_report(name: str, width: int) -> None:
    assert_golden(f"terminal-{name}-{width}.txt", printed(REPORTS[name](), width))


@pytest.mark.parametrize("width", [80, 120])
def test_golden_comparison(width: int) -> None:
    assert_golden(f"terminal-compare-{width}.txt", printed(comparison(), width))


@pytest.mark.parametrize("width", [80, 90, 100, 120, 200])
def test_no_line_is_wider_than_the_page_or_ends_in_blanks(width: int) -> None:
    for shown in (report(), bare_report(), empty_report(), comparison()):
        for line in printed(shown, width).splitlines():
            assert cell_len(line) <= min(width, 120)
            assert line == line.rstrip()


def test_five_phases_fit_in_eighty_columns() -> None:
    parts = report().steps[1].partition
    recompute = [msgspec.structs.replace(p, phase="recompute") for p in parts if p.phase == "forward"]
    step = msgspec.structs.replace(
        report().steps[1],
        partition=[*parts, *recompute],
        wall_ns=sum(p.ns for p in [*parts, *recompute]),
    )
    lines = printed(msgspec.structs.replace(report(), steps=[step]), 80).splitlines()
    assert max(map(cell_len, lines)) <= 80
    head = lines[lines.index("Time by phase and role") + 1]
    assert head.split() == ["role,", "ms", "fwd", "bwd", "recomp", "optim", "other", "idle", "total", "%"]


def test_the_stacked_bar_fills_the_page_and_only_colour_shows_it() -> None:
    coloured = printed(report(), 80, colour=True)
    plain_lines = re.sub(r"\x1b\[[0-9;]*m", "", coloured).splitlines()
    assert plain_lines.count("  " + "█" * 78) == 1
    assert "█" * 78 not in printed(report(), 80)


def test_no_colour_means_no_escape_codes() -> None:
    assert "\x1b" not in printed(report(), 80)
    out = io.StringIO()
    terminal.render(report(), Console(file=out, force_terminal=True, no_color=True, width=80))
    assert "\x1b[38" not in out.getvalue()


def test_a_hostile_name_cannot_steer_the_terminal() -> None:
    assert "\x1b" in HOSTILE
    kernels = [msgspec.structs.replace(k, name="\x1b[2Jkernel[red]") for k in report().kernels]
    text = printed(msgspec.structs.replace(report(), kernels=kernels), 120)
    assert "\x1b" not in text
    assert "\ufffd[2Jkernel[red]" in text


def test_an_ascii_terminal_gets_ascii() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    terminal.render(report(), Console(file=out, width=80))
    out.flush()
    text = raw.getvalue().decode("ascii")
    assert "base linears                        ####" in text
    assert "?" not in text.replace("Where", "")


def test_the_bars_shares_add_up_to_one_hundred() -> None:
    lines = printed(report(), 120).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("Where the step goes"))
    end = lines.index("", start)
    shares = [line.rsplit(maxsplit=2)[-2] for line in lines[start + 1 : end]]
    assert len(shares) == 11
    assert sum(0 if s.startswith("<") else round(10 * float(s)) for s in shares) == 1000


@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_number_before_empty_cells_is_not_cut(width: int) -> None:
    """The last row of the kernels ends in its share: nothing is known of the bound of many kernels."""
    columns = (Column("kernel", elastic=True), Column("%", number=True), Column("bound"), Column("roof", number=True))
    rows = ((Cell("k" * 200), Cell("4.5 %", 4.5), Cell("memory"), Cell("75 %")),)
    footer = ((Cell("90 more"), Cell("18.1 %", 18.1), Cell(""), Cell("")),)
    assert "18.1 %" in [*table_lines(Table(columns, rows, footer), width)][-1].plain
