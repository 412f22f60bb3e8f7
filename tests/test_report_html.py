import base64
import hashlib
import re
from html.parser import HTMLParser

import msgspec
import pytest
from sample_comparison import comparison
from sample_report import bare_report, empty_report, report

from loraprof.model.compare import Comparison
from loraprof.model.report import Report
from loraprof.report.html import escape, to_html

VOID = {"meta", "rect", "br"}


class Page(HTMLParser):
    """Tags with attributes in order, and the texts; fails on tags that do not nest."""

    def __init__(self, source: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(source.decode())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


SHOWN = [report(), bare_report(), empty_report(), comparison()]


@pytest.mark.parametrize("shown", SHOWN)
def test_the_page_nests_and_fetches_nothing(shown: Report | Comparison) -> None:
    page = Page(to_html(shown))
    assert [t for t, _ in page.tags if t in ("link", "img", "iframe", "object", "base", "form")] == []
    attributes = [(name, value) for _, attrs in page.tags for name, value in attrs.items()]
    assert [a for a in attributes if a[0] in ("src", "style") or a[0].startswith("on")] == []
    links = [(tag, attrs) for tag, attrs in page.tags if "href" in attrs]
    assert all(tag == "a" and attrs["rel"] == "noreferrer" for tag, attrs in links)  # followed by a click alone
    assert all(str(attrs["href"]).startswith(("https://github.com/", "https://arxiv.org/")) for _, attrs in links)
    style = to_html(shown).split(b"<style>")[1].split(b"</style>")[0]
    assert b"url(" not in style
    assert b"@import" not in style


@pytest.mark.parametrize("shown", SHOWN)
def test_the_policy_allows_exactly_the_pages_script(shown: Report | Comparison) -> None:
    source = to_html(shown).decode()
    scripts = re.findall(r"<script>(.*?)</script>", source, re.DOTALL)
    assert len(scripts) == 1
    styles = re.findall(r"<style>(.*?)</style>", source, re.DOTALL)
    script, style = (base64.b64encode(hashlib.sha256(x[0].encode()).digest()).decode() for x in (scripts, styles))
    policy = next(a["content"] for t, a in Page(source.encode()).tags if t == "meta" and "http-equiv" in a)
    wanted = f"default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; base-uri 'none'"
    assert policy == wanted


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "</title><img src=x onerror=alert(1)>", "\" onmouseover='x' \x1b[0m \ud800"]
)
def test_a_hostile_name_stays_text(name: str) -> None:
    kernels = [msgspec.structs.replace(k, name=name) for k in report().kernels]
    source = msgspec.structs.replace(report().source, path=name, workload=name)
    page = Page(to_html(msgspec.structs.replace(report(), kernels=kernels, source=source)))
    assert [attrs.get("type") for tag, attrs in page.tags if tag == "script"] == ["application/octet-stream", None]
    assert [tag for tag, _ in page.tags if tag == "img"] == []
    assert [a for _, attrs in page.tags for a in attrs if a.startswith("on")] == []


def test_a_cut_name_is_whole_in_its_title() -> None:
    titles = [a["title"] for _, a in Page(to_html(report())).tags if a.get("class") == "cut"]
    assert any("direct_copy_kernel_cuda(at::TensorIteratorBase&)" in (t or "") for t in titles)


def test_escape_covers_attributes() -> None:
    assert escape("<a b='c' d=\"e\">&\x00") == "&lt;a b=&#x27;c&#x27; d=&quot;e&quot;&gt;&amp;\ufffd"


def test_the_stacked_bar_fills_its_box() -> None:
    page = Page(to_html(report()))
    stack = next(i for i, (t, a) in enumerate(page.tags) if t == "svg" and a.get("class") == "stack")
    rest = page.tags[stack + 1 :]
    end = next(i for i, (t, _) in enumerate(rest) if t == "svg" or t == "table")
    widths = [float(a["width"] or 0) for t, a in rest[:end] if t == "rect"]
    assert sum(widths) == pytest.approx(1000, abs=0.01)
    label = page.tags[stack][1]["aria-label"]
    assert "adapter 26.1 %" in (label or "")


def test_every_column_head_can_be_reached_and_sorts_by_numbers() -> None:
    page = Page(to_html(report()))
    heads = sum(t == "th" and a.get("scope") == "col" for t, a in page.tags)
    assert heads == sum(t == "button" and a.get("class") != "copy" for t, a in page.tags) > 20
    values = [a["data-v"] for t, a in page.tags if t == "td" and "data-v" in a]
    assert len(values) > 100
    assert all(float(v or "x") is not None for v in values)


def test_the_same_report_gives_the_same_page() -> None:
    assert to_html(report()) == to_html(report())
