"""The frame of the HTML report: style, script and data, all inside the page; nothing is ever fetched.

The script is the plain files of ``page/`` one after the other; the data travel as gzip in base64.
"""

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import Final

from loraprof.report.palette import TONES

PARTS: Final = ("core", "timeline", "perfetto", "icicle", "roofline", "tables", "what_if", "ranks", "main")


def _variables(dark: bool) -> str:
    """Each tone, and what is legible on it."""
    tones = {key: t.dark if dark else t.light for key, t in TONES.items()}
    return "".join(f"--{key}:{tone};--on-{key}:{_legible_on(tone)};" for key, tone in tones.items())


def _legible_on(colour: str) -> str:
    """Black or white, whichever stands out more (WCAG 2's contrast ratio)."""
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts)
    luminance = sum(weight * v for weight, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "#000" if (luminance + 0.05) ** 2 > 0.05 * 1.05 else "#fff"


_LIGHT = f"--page:#fff;--ink:#1b1f24;--dim:#59636e;--line:#e3e6ea;--soft:#f5f6f8;{_variables(False)}"
_DARK = f"--page:#14171c;--ink:#e6e9ee;--dim:#9aa4b1;--line:#2a303a;--soft:#1b2028;{_variables(True)}"
_FILLS = "".join(f".t-{key}{{--tone:var(--{key});--on:var(--on-{key})}}" for key in TONES)


def _file(name: str) -> str:
    return resources.files("loraprof.report").joinpath("page", name).read_text(encoding="utf-8")


@cache
def style() -> str:
    return (
        f"\n:root{{color-scheme:light dark;{_LIGHT}}}\n"
        f"@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}\n{_FILLS}\n{_file('style.css')}"
    )


@cache
def script() -> str:
    """One function, so that nothing of it is global."""
    return "(() => {\n" + "".join(_file(f"{name}.js") for name in PARTS) + "})();\n"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def policy() -> str:
    """Whatever a hostile name might smuggle in: only this script and this style run, and nothing is loaded."""
    return f"default-src 'none'; style-src {_hash(style())}; script-src {_hash(script())}; base-uri 'none'"


def page(title: str, body: str, data: str = "") -> str:
    """A whole document; ``title`` and ``body`` are escaped already, ``data`` is base64."""
    packed = f'<script type="application/octet-stream" id="data">{data}</script>\n' if data else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy()}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{style()}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        f"{packed}<script>{script()}</script>\n</body>\n</html>\n"
    )
