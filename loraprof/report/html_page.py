"""The frame of the HTML report: style and script, both inside the page; nothing is ever fetched."""

import base64
import hashlib
from typing import Final

from loraprof.report.palette import TONES


def _variables(dark: bool) -> str:
    return "".join(f"--{key}:{t.dark if dark else t.light};" for key, t in TONES.items())


_LIGHT = f"--page:#fff;--ink:#1b1f24;--dim:#59636e;--line:#e3e6ea;--soft:#f5f6f8;{_variables(False)}"
_DARK = f"--page:#14171c;--ink:#e6e9ee;--dim:#9aa4b1;--line:#2a303a;--soft:#1b2028;{_variables(True)}"
_FILLS = "".join(f".t-{key}{{--tone:var(--{key})}}" for key in TONES)

STYLE: Final = f"""
:root{{color-scheme:light dark;{_LIGHT}}}
@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}
{_FILLS}
*{{box-sizing:border-box}}
body{{margin:0;background:var(--page);color:var(--ink);font:15px/1.55 system-ui,sans-serif}}
main{{max-width:68rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}}
h1{{font-size:1.5rem;line-height:1.35;margin:0 0 1rem;text-wrap:balance}}
h2{{font-size:1.1rem;margin:2.75rem 0 .75rem;display:flex;flex-wrap:wrap;gap:.25rem 1rem;align-items:baseline;
justify-content:space-between}}
h2 small,dt,thead,tfoot,.dim{{color:var(--dim);font-weight:400}}
h2 small{{font-size:.85rem}}
dl{{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1.25rem;margin:.75rem 0}}
dd{{margin:0;overflow-wrap:anywhere}}
.scroll{{overflow-x:auto;margin:.75rem 0}}
table{{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums}}
th,td{{padding:.22rem .7rem;text-align:left;white-space:nowrap;font-weight:400;border-bottom:1px solid var(--line)}}
th:first-child,td:first-child{{padding-left:0}}
.n{{text-align:right}}
th button{{all:unset;cursor:pointer}}
th button:hover{{color:var(--ink)}}
th button:focus-visible{{outline:2px solid var(--base);outline-offset:2px}}
th[aria-sort] button::after{{content:" \\2193"}}
th[aria-sort=ascending] button::after{{content:" \\2191"}}
.cut{{display:inline-block;max-width:22rem;overflow:hidden;text-overflow:ellipsis;vertical-align:bottom}}
.swatch::before{{content:"";display:inline-block;width:.65em;height:.65em;border-radius:2px;margin-right:.55em;
background:var(--tone)}}
.word{{color:var(--tone)}}
svg{{display:block}}
rect{{fill:var(--tone,var(--dim))}}
.stack{{width:100%;height:2.2rem;border-radius:4px;overflow:hidden;margin:.5rem 0 1rem}}
.finding{{border-left:4px solid var(--tone);background:var(--soft);padding:.7rem 1rem;margin:.8rem 0;border-radius:4px}}
.finding h3{{margin:0;font-size:1rem}}
.finding h3 b{{color:var(--tone);margin-right:.5em}}
details summary{{cursor:pointer;margin-top:2rem;font-weight:600}}
@media print{{.finding{{break-inside:avoid}}}}
"""

# Sorts a table by the clicked column: numbers by data-v, texts as texts; footers stay where they are.
SCRIPT: Final = """
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => {
  const head = button.parentElement, body = head.closest("table").tBodies[0];
  const up = head.getAttribute("aria-sort") === "descending";
  for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = row => row.cells[head.cellIndex].dataset.v ?? row.cells[head.cellIndex].textContent;
  const order = (a, b) => (key(a) - key(b)) || String(key(a)).localeCompare(String(key(b)));
  body.append(...[...body.rows].sort((a, b) => up ? order(a, b) : order(b, a)));
});
"""

_HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()

# Whatever a hostile name might smuggle in: only this script runs, and nothing is loaded.
POLICY: Final = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_HASH}'"


def page(title: str, body: str) -> str:
    """A whole document; ``title`` and ``body`` are escaped already."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )
