"""How fast is the page in the browser? Its size, the time until it stands, and a redraw of the timeline.

    python benchmarks/page.py [TRACE.json.gz] [--events 20000 200000]

The input's events, without the marks of steps, are repeated up to each count (see ``traces.py``): one step. Chromium
shows the page with the network off, and the timeline is zoomed and panned forty times. Times in ms: until the first
content is painted, until the script is done, and the median and longest redraw.
"""

import argparse
import gzip
import re
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.traces import recorded, write  # noqa: E402
from loraprof.diagnosis.load import diagnosis_of  # noqa: E402
from loraprof.report.html import to_html  # noqa: E402
from loraprof.report.json import to_json  # noqa: E402
from loraprof.report.page.drawn import drawn_of  # noqa: E402
from loraprof.store.recordings import load_source  # noqa: E402

KEYS: Final = ("w", "w", "d", "w", "s", "a", "w", "d", "s", "s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seed", nargs="?", type=Path)
    parser.add_argument("--events", nargs="*", type=int, default=[20_000, 200_000])
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    print("events   slices   size kB   json s   page s   paint ms   ready ms   redraw ms   longest ms")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        seed = _one_step(options.seed or recorded(Path(folder)))
        for count in options.events:
            trace, page = Path(folder) / f"{count}.json.gz", Path(folder) / f"{count}.html"
            write(seed, count, trace)
            cells = (f"{count:<6}", *_made(trace, page), *_shown(browser, page))
            print("   ".join(cells), flush=True)
        browser.close()
    return 0


def _one_step(seed: Path) -> bytes:
    """The trace as one window: nothing in it says where a step ends."""
    text = gzip.decompress(seed.read_bytes())
    return re.sub(rb"ProfilerStep ?#|Optimizer\.step#", b"part ", text)


def _made(trace: Path, page: Path) -> tuple[str, ...]:
    began = time.perf_counter()
    found = diagnosis_of(load_source(trace))
    to_json(found.report)
    json_s = time.perf_counter() - began
    began = time.perf_counter()
    shown = drawn_of(found)
    page.write_bytes(to_html(found.report, shown))
    slices = sum(len(row.start) for scene in shown.scenes for row in scene.rows)
    more_s = time.perf_counter() - began
    return f"{slices:<6}", f"{page.stat().st_size / 1000:7.0f}", f"{json_s:6.2f}", f"{more_s:6.2f}"


def _shown(browser: Any, page: Path) -> tuple[str, ...]:
    tab = browser.new_context(viewport={"width": 1440, "height": 900}, offline=True).new_page()
    tab.goto(page.as_uri())
    tab.wait_for_selector("html[data-ready]", timeout=120_000)
    canvas = tab.locator("#timeline canvas")
    canvas.focus()
    times = []
    for key in KEYS * 4:
        tab.keyboard.press(key)
        tab.wait_for_timeout(60)
        times.append(float(canvas.get_attribute("data-redraw-ms")))
    ready = tab.evaluate("document.documentElement.dataset.ready")
    paint = tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN")
    tab.context.close()
    return f"{paint:8.0f}", f"{ready:>8}", f"{statistics.median(times):9.1f}", f"{max(times):10.1f}"


if __name__ == "__main__":
    sys.exit(main())
