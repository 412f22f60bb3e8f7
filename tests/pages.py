"""Pages in a browser: opened with the network off, what their script was given, and their faults of accessibility."""

import base64
import gzip
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from loraprof.diagnosis.build import Diagnosis
from loraprof.report.html import to_html
from loraprof.report.page.drawn import drawn_of

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
REQUIRED = bool(os.environ.get("LORAPROF_REQUIRE_BROWSER"))


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; skips, or fails where one is required, without Playwright or Chromium."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        if REQUIRED:
            raise
        pytest.skip("playwright is not installed")
    if CHROMIUM is None:
        if REQUIRED:
            raise AssertionError("LORAPROF_REQUIRE_BROWSER is set and there is no Chromium")
        pytest.skip("there is no Chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


class Opened:
    """A page, with all that it asked the network for and complained of."""

    def __init__(self, browser: Any, path: Path, width: int = 1440, scheme: str = "light") -> None:
        self.address = path.as_uri()
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda asked: self.requests.append(asked.url))
        self.page.on("console", lambda said: self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(self.address)
        self.page.wait_for_selector("html[data-ready], body:not(:has(#data))", timeout=60_000)

    def shown(self, selector: str) -> int:
        return int(self.page.locator(selector).count())

    def ask(self, script: str) -> Any:
        return self.page.evaluate(script)

    def assert_quiet(self) -> None:
        """It asked for nothing, complained of nothing, and shows no slip of its script."""
        assert self.complaints == []
        assert self.requests == [self.address]
        text = self.ask("document.body.innerText + [...document.querySelectorAll('[title],[aria-label]')]"
                        ".map(e => (e.title ?? '') + e.ariaLabel).join('\\n')")  # fmt: skip
        assert not re.search(r"\bundefined\b|\bNaN\b|\bInfinity\b|\[object ", text)

    def assert_full(self) -> None:
        """No box of the page is empty: not a section below its title, not a table below its head."""
        shapes = "canvas,rect,circle"
        empty = self.ask(f"""() => {{
          const bare = parts => parts.every(e => !e.textContent.trim() && !e.matches('{shapes}') && !e.querySelector('{shapes}'));
          const titled = [...document.querySelectorAll('main section, main details')].filter(e => bare([...e.children].slice(1)));
          const boxes = [...document.querySelectorAll('.mount, .card, .finding, svg:not([aria-hidden])')].filter(e => bare([...e.children]));
          const tables = [...document.querySelectorAll('table')].filter(e => !e.tBodies[0].querySelector('tr:not(.pad)'));
          return [...titled, ...boxes, ...tables].map(e => e.outerHTML.slice(0, 200));
        }}""")  # noqa: E501
        assert not empty, "\n".join(empty)

    def faults(self) -> list[str]:
        """What axe-core calls serious or critical."""
        import axe_playwright_python

        self.ask((Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text())
        found = self.ask("axe.run(document, { resultTypes: ['violations'] })")["violations"]
        return [
            f"{fault['id']}: {node['html'][:200]} {node['any'][:1]}"
            for fault in found
            if fault["impact"] in ("serious", "critical")
            for node in fault["nodes"]
        ]


def payload(path: Path) -> dict[str, Any]:
    """What the page's script is given."""
    found = re.search(r'id="data">([^<]*)<', path.read_text())
    assert found is not None
    unpacked: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(found[1])))
    return unpacked


def page_of(diagnosis: Diagnosis) -> bytes:
    """As ``report --format html`` writes it."""
    return to_html(diagnosis.report, drawn_of(diagnosis))
