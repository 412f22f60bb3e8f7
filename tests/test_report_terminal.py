import io
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from golden_files import assert_golden
from rich.cells import cell_len
from rich.console import Console
from sample_comparison import comparison
from sample_report import HOSTILE, bare_report, empty_report, report

from loraprof.errors import UsageError
from loraprof.model.compare import Comparison
from loraprof.model.report import Report
from loraprof.report.document import Bar, Cell, Column, Table
from loraprof.report.terminal.render import render
from loraprof.report.terminal.table import table_lines
from loraprof.report.terminal.text import pieces
from loraprof.report.views.report import view

REPORTS: dict[str, Callable[[], Report]] = {"report": report, "bare": bare_report, "empty": empty_report}


WIDTHS = (40, 60, 80, 100, 160)


def printed(shown: Report | Comparison, width: int, *, terminal: bool = True, colour: bool = False, **wish: Any) -> str:
    """On a terminal of 16 colours, one without colour, or (``terminal=False``) in a pipe."""
    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        force_terminal=terminal,
        color_system="standard" if colour else None,
        no_color=not colour,
    )
    render(shown, console, **wish)
    return out.getvalue() if colour else re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", REPORTS)
def test_golden_report(name: str, width: int) -> None:
    assert_golden(f"terminal-{name}-{width}.txt", printed(REPORTS[name](), width))


@pytest.mark.parametrize("width", WIDTHS)
def test_golden_comparison(width: int) -> None:
    assert_golden(f"terminal-compare-{width}.txt", printed(comparison(), width))


@pytest.mark.parametrize("width", [40, 100])
def test_golden_of_everything(width: int) -> None:
    assert_golden(f"terminal-full-{width}.txt", printed(report(), width, full=True))
    assert_golden(f"terminal-piped-{width}.txt", printed(report(), width, terminal=False))


def test_golden_in_sixteen_colours() -> None:
    text = printed(report(), 100, colour=True)
    assert_golden("terminal-colour-100.txt", text)
    codes = {int(code) for codes in re.findall(r"\x1b\[([0-9;]+)m", text) for code in codes.split(";")}
    assert codes <= {0, 1, 2, *range(30, 38)}  # no bright ones, pale on white: no 256 colours, no background
    assert {"▓", "█", "░"} <= set(text)  # and without colours the glyphs tell parts apart


@pytest.mark.parametrize("width", [20, 40, 51, 60, 80, 90, 100, 120, 200])
@pytest.mark.parametrize("wish", [{}, {"full": True}])
def test_no_line_is_wider_than_the_page_or_ends_in_blanks(width: int, wish: dict[str, Any]) -> None:
    unknown = [
        msgspec.structs.replace(f, gain=None, remedies=[msgspec.structs.replace(x, gain=None) for x in f.remedies])
        for f in report().findings
    ]
    gainless = msgspec.structs.replace(report(), findings=unknown)
    for shown in (report(), gainless, bare_report(), empty_report(), comparison()):
        for line in printed(shown, width, **wish).splitlines():
            assert cell_len(line) <= min(width, 120)
            assert line == line.rstrip()


def test_a_page_fits_a_screen() -> None:
    for width in (100, 120):
        for shown in (report(), bare_report(), empty_report()):
            assert len(printed(shown, width).splitlines()) <= 40
    many = [
        msgspec.structs.replace(f, title=f"{f.title} {'and more ' * 20}{i}")
        for i in range(50)
        for f in report().findings
    ]
    assert len(printed(msgspec.structs.replace(report(), findings=many), 100).splitlines()) <= 40


@pytest.mark.parametrize("width", [40, 80, 100])
def test_nothing_is_cut_in_a_pipe_or_in_full(width: int) -> None:
    long = "averylongmodelname" * 6
    given = msgspec.structs.replace(report(), source=msgspec.structs.replace(report().source, workload=long))
    for text in (printed(given, width, terminal=False), printed(given, width, full=True)):
        assert "…" not in text
        assert long in text.replace("\n", "").replace(" ", "")


def test_one_section_alone() -> None:
    text = printed(report(), 100, section="kernels")
    assert text.startswith("Top kernels")
    assert "Where the" not in text
    with pytest.raises(UsageError, match="no section 'colours'") as caught:
        printed(report(), 100, section="colours")
    assert "account, time, do, sure, phases" in (caught.value.hint or "")


def test_five_phases_fit_in_eighty_columns() -> None:
    parts = report().steps[1].partition
    recompute = [msgspec.structs.replace(p, phase="recompute") for p in parts if p.phase == "forward"]
    step = msgspec.structs.replace(
        report().steps[1],
        partition=[*parts, *recompute],
        wall_ns=sum(p.ns for p in [*parts, *recompute]),
    )
    given = msgspec.structs.replace(report(), steps=[step], unprofiled=None)
    lines = printed(given, 80, section="phases").splitlines()
    assert max(map(cell_len, lines)) <= 80
    head = lines[lines.index("Time by phase and role") + 1]
    assert head.split() == ["role,", "ms", "fwd", "bwd", "recomp", "optim", "other", "idle", "total", "%"]


def test_no_colour_means_no_escape_codes() -> None:
    assert "\x1b" not in printed(report(), 80, terminal=False)
    out = io.StringIO()
    render(report(), Console(file=out, force_terminal=True, no_color=True, width=80))
    assert "\x1b[38" not in out.getvalue()


def test_a_hostile_name_cannot_steer_the_terminal() -> None:
    assert "\x1b" in HOSTILE
    kernels = [msgspec.structs.replace(k, name="\x1b[2Jkernel[red]") for k in report().kernels]
    text = printed(msgspec.structs.replace(report(), kernels=kernels), 120, terminal=False, full=True)
    assert "\x1b" not in text
    assert "\ufffd[2Jkernel[red]" in text


@pytest.mark.parametrize("width", [4, 7, 20, 33])
def test_characters_of_two_cells_are_broken_by_cells(width: int) -> None:
    words = "名前" * 40 + " plain " + "宽" * 3 + " end"
    lines = pieces(words, width)
    assert max(map(cell_len, lines)) <= width
    assert "".join(lines).replace(" ", "") == words.replace(" ", "")


def test_an_ascii_terminal_gets_ascii() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    render(report(), Console(file=out, width=80))
    out.flush()
    text = raw.getvalue().decode("ascii")
    assert re.search(r"base linears +####", text)
    assert "?" not in text.replace("sure?", "")


def test_the_bars_shares_add_up_to_one_hundred() -> None:
    lines = printed(report(), 120).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("Where the"))
    shares = re.findall(r"([\d.]+) %(?!.* %)|<0.1 %", "\n".join(lines[start + 1 : lines.index("", start)]))
    assert len(shares) >= 7
    bar = next(b for s in view(report()).sections for b in s.blocks if isinstance(b, Bar))
    assert sum(float(s.share.rstrip(" %").lstrip("<")) for s in bar.segments) == pytest.approx(100, abs=0.3)


@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_number_before_empty_cells_is_not_cut(width: int) -> None:
    """The last row of the kernels ends in its share: nothing is known of the bound of many kernels."""
    columns = (Column("kernel", elastic=True), Column("%", number=True), Column("bound"), Column("roof", number=True))
    rows = ((Cell("k" * 200), Cell("4.5 %", 4.5), Cell("memory"), Cell("75 %")),)
    footer = ((Cell("90 more"), Cell("18.1 %", 18.1), Cell(""), Cell("")),)
    assert "18.1 %" in [*table_lines(Table(columns, rows, footer), width)][-1].plain
