"""The page in a real browser, with the network off: everything has content, nothing is fetched, names stay text."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import reference
from pages import Opened, payload
from sample_comparison import comparison
from sample_report import bare_report, empty_report, report

import loraprof
from loraprof.cli.app import run
from loraprof.report.html import to_html
from loraprof.report.json import to_json
from loraprof.store.profiles import profiles_dir

pytestmark = [pytest.mark.browser, pytest.mark.slow]
GPU = next(p for p in reference.found_in(profiles_dir() / "recordings") if p.stem == "llama-3.2-1b")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    assert run(["report", str(GPU), "--format", "html", "-o", str(path)]) == 0
    return path


@pytest.fixture
def opened(browser: Any, written: Path) -> Iterator[Opened]:
    made = Opened(browser, written)
    yield made
    made.assert_quiet()
    made.context.close()


def test_every_section_has_content_and_the_page_is_small(opened: Opened, written: Path) -> None:
    assert written.stat().st_size < 1_000_000
    for id in ("icicle", "timeline", "roofline", "all-kernels", "all-modules", "all-gaps"):
        assert opened.ask(f"document.querySelector('#{id} .mount').childElementCount") > 1, id
    text = opened.ask("document.body.innerText")
    assert "undefined" not in text
    assert "NaN" not in text


def test_numbers_are_those_of_the_json(opened: Opened, tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    assert run(["report", str(GPU), "--format", "json", "-o", str(target)]) == 0
    whole = json.loads(target.read_text())
    opened.page.locator("#all-kernels input[type=checkbox]").uncheck()
    assert f"{len(whole['kernels']):,} rows" in opened.page.locator("#all-kernels").inner_text()
    step = next(s for s in whole["steps"] if s["name"] == whole["reported_step"])
    for button, shown in (("without the profiler", whole["unprofiled"]), ("as profiled", step)):
        opened.page.locator("#which button", has_text=button).click()
        opened.page.locator("#icicle .crumbs button").first.click()  # the place is kept
        idle = sum(p["ns"] for p in shown["partition"] if p["kind"] == "idle")
        opened.page.locator("#icicle .icicle button", has_text="idle").first.click()
        share = f"{100 * idle / shown['wall_ns']:.1f} %"
        assert share in opened.page.locator("#icicle .crumbs").inner_text()


def test_zoom_pan_and_keys_redraw_the_timeline(opened: Opened) -> None:
    canvas = opened.page.locator("#timeline canvas")
    picture = canvas.screenshot()
    canvas.focus()
    for key in ("w", "w", "d"):
        opened.page.keyboard.press(key)
    opened.page.wait_for_timeout(200)
    assert canvas.screenshot() != picture
    opened.page.keyboard.press("0")
    opened.page.wait_for_timeout(200)
    assert canvas.screenshot() == picture


def test_perfetto_is_handed_the_rows_that_are_drawn(opened: Opened) -> None:
    """By a stand-in for its window: the network is off."""
    opened.ask("""() => {
      const source = document.body.appendChild(document.createElement('iframe')).contentWindow;
      source.postMessage = (sent, to) => {
        window.handed = [sent, to];
        if (sent === 'PING') dispatchEvent(new MessageEvent('message', { data: 'PONG', source }));
      };
      window.open = address => { window.asked = address; return source; };
    }""")
    opened.page.click("text=open in Perfetto")
    opened.page.wait_for_timeout(500)
    assert opened.ask("[window.asked, window.handed[1]]") == ["https://ui.perfetto.dev"] * 2
    events = json.loads(opened.ask("new TextDecoder().decode(window.handed[0].perfetto.buffer)"))["traceEvents"]
    slices = [event for event in events if event["ph"] == "X" and event["tid"] == 0]
    step = msgspec.json.decode(to_json(loraprof.diagnose(GPU)))["unprofiled"]["wall_ns"]
    assert round(sum(event["dur"] for event in slices) * 1000) == step  # the partition's row


def test_the_longest_gap_names_who_is_to_blame(opened: Opened) -> None:
    opened.page.click("text=longest idle gap")
    said = opened.page.locator("#timeline output").inner_text()
    assert "idle: " in said
    assert "launched on thread" in said


def test_the_icicle_zooms_folds_layers_finds_and_keeps_its_place(opened: Opened) -> None:
    folded = opened.page.locator("#icicle .icicle button[title*='[0-15]']")
    assert folded.count() > 0
    opened.page.locator("#icicle .icicle").get_by_role("button", name="forward", exact=True).click()
    assert "icicle=forward" in opened.ask("location.hash")
    opened.page.fill("#icicle input", "adapter")
    assert opened.shown("#icicle .faint") > 0
    opened.page.reload()
    opened.page.wait_for_selector("html[data-ready]")
    assert "forward" in opened.page.locator("#icicle .crumbs").inner_text()
    opened.requests[:] = opened.requests[:1]


def test_tables_filter_sort_and_hold_only_what_is_in_sight(opened: Opened) -> None:
    box = "#all-kernels tbody tr"
    assert opened.shown(box) < 60
    opened.page.fill("#all-kernels input[type=search]", "adapter.up")
    roles = {row.split("\t")[1] for row in opened.page.locator(f"{box}:not(.pad)").all_inner_texts()}
    assert roles == {"adapter.up"}
    opened.page.locator("#all-kernels th button", has_text="count").click()
    assert opened.page.locator("#all-kernels th[aria-sort]").inner_text().startswith("count")


def test_two_ticked_changes_show_the_outcome_of_both(opened: Opened, written: Path) -> None:
    what = payload(written)["what_if"]
    boxes, said = opened.page.locator("#what-if input:enabled"), opened.page.locator("#what-if output")
    assert boxes.count() == len([c for c in what["choices"] if c["apart"] is None]) >= 2
    boxes.nth(0).check()
    boxes.nth(1).check()
    for chosen in (3, 2):
        outcome = what["outcomes"][chosen]
        assert f"{outcome['step_ns'] / 1e6:.3g} ms" in said.inner_text()
        assert f"{outcome['speedup']:.2f}x [{outcome['low']:.2f}, {outcome['high']:.2f}]" in said.inner_text()
        assert f"what-if={chosen}" in opened.ask("location.hash")
        boxes.nth(0).uncheck()
    for choice in (c for c in what["choices"] if c["apart"]):
        assert choice["apart"] in opened.page.locator("#what-if li:has(input:disabled)").inner_text()


def test_a_brush_on_the_roofline_filters_the_kernels(opened: Opened) -> None:
    before = opened.page.locator("#all-kernels p").last.inner_text()
    chart = opened.page.locator("#roofline svg")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    opened.page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.2 * box["height"])
    opened.page.mouse.down()
    opened.page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.9 * box["height"], steps=4)
    opened.page.mouse.up()
    assert opened.page.locator("#all-kernels p").last.inner_text() != before


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(browser: Any, written: Path, width: int, scheme: str) -> None:
    made = Opened(browser, written, width, scheme)
    assert made.ask("document.documentElement.scrollWidth <= innerWidth")
    background = made.ask("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    assert made.complaints == []
    made.context.close()


@pytest.mark.parametrize("name", ["<script>window.hit=1</script>", "\u202eRTL", "x" * 1_000_000, "</script><b>"])
def test_a_hostile_name_stays_text(browser: Any, tmp_path: Path, name: str) -> None:
    kernels = [msgspec.structs.replace(k, name=name) for k in report().kernels]
    path = tmp_path / "hostile.html"
    path.write_bytes(to_html(msgspec.structs.replace(report(), kernels=kernels)))
    made = Opened(browser, path)
    assert made.ask("window.hit") is None
    assert made.shown("b:has-text('x'):not(main b)") == 0
    assert made.complaints == []
    made.context.close()


@pytest.mark.parametrize("shown", [bare_report(), empty_report(), comparison()], ids=["bare", "empty", "comparison"])
def test_what_is_missing_leaves_no_empty_box(browser: Any, tmp_path: Path, shown: Any) -> None:
    path = tmp_path / "page.html"
    path.write_bytes(to_html(shown))
    made = Opened(browser, path)
    empty = made.ask("[...document.querySelectorAll('.mount')].filter(m => !m.innerText.trim()).length")
    assert empty == 0
    assert "undefined" not in made.ask("document.body.innerText")
    assert made.complaints == []
    made.context.close()


def test_it_prints(browser: Any, written: Path, tmp_path: Path) -> None:
    made = Opened(browser, written)
    pdf = made.page.pdf(path=str(tmp_path / "page.pdf"), print_background=True)
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 50_000
    made.context.close()
