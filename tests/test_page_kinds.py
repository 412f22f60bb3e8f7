"""The page of everything that has one, and of unusual inputs: full, quiet, legible, with the numbers of the JSON."""

import re
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import fleets
import msgspec
import pytest
import reference
from builders import json_of, kernel, step, text_of
from msgspec.structs import replace
from pages import Opened, page_of, payload
from recorded import recorded
from sample_comparison import comparison
from sample_report import bare_report, empty_report, report
from test_fix import sample
from test_sweep import sweep

from loraprof.cli.app import run
from loraprof.diagnosis.build import Diagnosis
from loraprof.diagnosis.load import diagnosis_of
from loraprof.integrations.notebook import frame
from loraprof.report.html import to_html
from loraprof.report.page.drawn import drawn_of
from loraprof.store.profiles import profiles_dir
from loraprof.store.recordings import load_source

pytestmark = [pytest.mark.browser, pytest.mark.slow]
GPU = next(p for p in reference.found_in(profiles_dir() / "recordings") if p.stem == "llama-3.2-1b")
GRID = sweep({"hidden": ["512", "1024", "2048"], "tokens": ["256", "1024"]}, [0.8, 0.9, 1.01, 1.25, None, 1.3])


@cache
def fleet() -> Diagnosis:
    return diagnosis_of(load_source(fleets.fleet(4)))


def many_ranks() -> Diagnosis:
    """As many rows as 1,024 ranks have."""
    found = fleet()
    rows = found.report.ranks
    assert rows
    more = [msgspec.structs.replace(rows[i % 4], rank=i, own_ns=rows[i % 4].own_ns + i * 1000) for i in range(1024)]
    return replace(found, report=msgspec.structs.replace(found.report, ranks=more))


def trace(steps: int, kernels: int) -> Diagnosis:
    """A foreign trace of kernels alone, launched one by one."""
    length = 3000 * kernels + 10_000
    host = [step(i, i * length, (i + 1) * length - 1000) for i in range(steps)]
    device = []
    for i in range(steps * kernels):
        at = (i // kernels) * length + 3000 * (i % kernels) + 1000
        device.append(kernel(at + 1500, at + 2500, (at, at + 500), f"kernel_{i % 500}"))
    place = Path(fleets.mkdtemp()) / "trace.json"
    place.write_bytes(text_of(json_of(host, device)))
    return diagnosis_of(load_source(place))


def estimate(folder: Path) -> bytes:
    place = folder / "estimate.html"
    assert run(["estimate", "llama-3.2-1b", "--gpu", "h100-sxm", "--format", "html", "-o", str(place), "--quiet"]) == 0
    return place.read_bytes()


KINDS: dict[str, Callable[[Path], bytes]] = {
    "report": lambda _: page_of(diagnosis_of(load_source(GPU))),
    "compare": lambda _: to_html(comparison()),
    "fix": lambda _: to_html(sample()),
    "sweep": lambda _: to_html(GRID),
    "estimate": estimate,
    "ranks": lambda _: page_of(fleet()),
}
INPUTS: dict[str, Callable[[], bytes]] = {
    "no GPU": lambda: page_of(diagnosis_of(load_source(recorded("tiny-llama-cpu")))),
    "no NVML": lambda: page_of(diagnosis_of(replace(load_source(GPU), nvml=None))),
    "one step, one kernel, no findings, no adapter": lambda: page_of(trace(1, 1)),
    "a hundred steps": lambda: page_of(trace(100, 3)),
    "ten thousand kernels": lambda: page_of(trace(1, 10_000)),
    "1,024 ranks": lambda: page_of(many_ranks()),
    "no step": lambda: to_html(empty_report()),
    "nothing known": lambda: to_html(bare_report()),
    "everything known": lambda: to_html(report()),
}


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kind")
    place = folder / f"{request.param}.html"
    place.write_bytes(KINDS[request.param](folder))
    return place


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_accessible_full_and_quiet(browser: Any, kind: Path, scheme: str) -> None:
    made = Opened(browser, kind, scheme=scheme)
    made.assert_quiet()
    made.assert_full()
    assert made.faults() == []
    made.context.close()


def test_a_phone_shows_every_page_without_scrolling_aside(browser: Any, kind: Path) -> None:
    made = Opened(browser, kind, width=390)
    assert made.ask("document.documentElement.scrollWidth <= innerWidth")
    made.assert_quiet()
    made.context.close()


@pytest.mark.parametrize("name", INPUTS)
def test_an_unusual_input_leaves_no_empty_box(browser: Any, tmp_path: Path, name: str) -> None:
    place = tmp_path / "page.html"
    place.write_bytes(INPUTS[name]())
    made = Opened(browser, place)
    made.assert_quiet()
    made.assert_full()
    made.context.close()


def test_the_boxes_of_a_comparison_are_sums_of_its_bars(browser: Any, tmp_path: Path) -> None:
    place, bars = tmp_path / "page.html", comparison().waterfall
    place.write_bytes(to_html(comparison()))
    made = Opened(browser, place)
    shown = made.ask(
        "[...document.querySelectorAll('.difference rect')].map(r => [+r.dataset.ns, +r.getAttribute('y')])"
    )
    assert bars is not None
    for depth in (0, 28, 56):
        assert sum(ns for ns, y in shown if y == depth) == bars.to_ns - bars.from_ns
    sides = [ns for ns, y in shown if y == 0]
    named = [bar.ns for bar in bars.bars if bar.phase]
    assert sides[:2] == [sum(ns for ns in named if ns < 0), sum(ns for ns in named if ns > 0)]
    made.context.close()


def test_a_sweeps_dots_are_its_cells(browser: Any, tmp_path: Path) -> None:
    place = tmp_path / "page.html"
    place.write_bytes(to_html(GRID))
    made = Opened(browser, place)
    shown = made.ask(
        "[...document.querySelectorAll('.curve [data-v]')].map(d => [+d.dataset.v, +d.getAttribute('cy')])"
    )
    assert [v for v, _ in shown] == [cell.speedup for cell in GRID.cells if cell.speedup]
    even = float(made.page.locator(".curve .even").get_attribute("y1"))
    assert all((v > 1) == (y < even) for v, y in shown)
    made.context.close()


def test_a_fixs_dots_are_what_was_measured(browser: Any, tmp_path: Path) -> None:
    place = tmp_path / "page.html"
    place.write_bytes(to_html(sample()))
    made = Opened(browser, place)
    shown = made.ask("[...document.querySelectorAll('.tried [data-v]')].map(d => +d.dataset.v)")
    assert shown == [1 / t.measured.ratio for t in sample().remedies if t.measured]
    assert made.shown(".tried rect") == sum(t.predicted is not None for t in sample().remedies if t.measured)
    made.context.close()


def test_ranks_tell_their_own_numbers_and_keys_go_from_one_to_the_next(browser: Any, tmp_path: Path) -> None:
    place = tmp_path / "page.html"
    place.write_bytes(page_of(many_ranks()))
    made, rows = Opened(browser, place), payload(place)["ranks"]
    said = made.page.locator("#all-ranks output").first
    most = max(rows, key=lambda r: r["own_ns"])
    assert said.inner_text().startswith(f"rank {most['rank']}: own work {most['own_ns'] / 1e6:.3g} ms")
    made.page.locator("#all-ranks canvas").focus()
    for key, rank in (("Home", 0), ("ArrowRight", 1), ("End", 1023)):
        made.page.keyboard.press(key)
        assert said.inner_text().startswith(f"rank {rank}: ")
    made.page.select_option("#all-ranks select", "own")
    made.page.keyboard.press("Tab")
    made.page.locator("#all-ranks canvas").focus()
    made.page.keyboard.press("Home")
    assert said.inner_text().startswith(f"rank {most['rank']}: ")
    made.page.fill("#rank-table input[type=search]", "77")
    assert "rows of 1,024 ranks" in made.page.locator("#rank-table p").last.inner_text()
    made.context.close()


def test_the_frame_is_as_wide_as_its_cell_and_works_without_an_address(browser: Any, tmp_path: Path) -> None:
    found, cell = diagnosis_of(load_source(GPU)), tmp_path / "cell.html"
    cell.write_text(f'<!doctype html><div style="width:700px">{frame(found.report, drawn_of(found))}</div>')
    page = browser.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(cell.as_uri())
    inside = page.frames[1]
    inside.wait_for_selector("html[data-ready]")
    assert inside.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [700, 700]
    inside.locator("#what-if input:enabled").first.check()
    assert "→" in inside.locator("#what-if output").inner_text()
    inside.locator("#icicle .icicle button").first.click()
    assert complaints == []
    page.close()


def test_print_keeps_the_swatches(browser: Any, tmp_path: Path) -> None:
    """Colours of what fills a shape are in the PDF, though backgrounds are not asked for."""
    place = tmp_path / "page.html"
    place.write_bytes(KINDS["report"](tmp_path))
    made = Opened(browser, place)
    swatch = made.ask("getComputedStyle(document.querySelector('.swatch.t-adapter'), '::before').backgroundColor")
    red, green, blue = (int(v) / 255 for v in re.findall(r"\d+", swatch))
    pdf = made.page.pdf(print_background=False)
    painted = b"".join(_inflated(part) for part in pdf.split(b"stream\n")[1:])
    colours = {
        tuple(round(float(v), 3) for v in found) for found in re.findall(rb"([\d.]+) ([\d.]+) ([\d.]+) rg", painted)
    }
    assert (round(red, 3), round(green, 3), round(blue, 3)) in colours
    made.context.close()


def _inflated(part: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(part)
    except zlib.error:
        return b""


@pytest.mark.parametrize("why", ["exists", "no folder", "a folder"])
def test_a_destination_that_cannot_be_is_one_line(why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "page.html"
    if why == "exists":
        target.write_text("mine")
    elif why == "a folder":
        target.mkdir()
    else:
        target = tmp_path / "none" / "page.html"
    assert run(["report", str(GPU), "--format", "html", "-o", str(target)]) in (2, 4)
    said = capsys.readouterr()
    assert said.out == ""
    lines = [line for line in said.err.splitlines() if line.strip()]
    assert len(lines) <= 2  # and its hint
    assert str(target.parent.name) in lines[0] or str(target) in lines[0]
    assert "Traceback" not in said.err
    if why == "exists":
        assert target.read_text() == "mine"
