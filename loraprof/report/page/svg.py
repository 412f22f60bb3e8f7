"""Shapes and texts of the page's static figures; texts stay texts."""

import html

from loraprof.text import printable

LETTER = 6.6  # width of a letter of the figures' 11 px text, at most


def escape(text: str) -> str:
    """Text that is only ever text, in an element as in an attribute."""
    return html.escape(printable(text), quote=True)


def rect(x: float, width: float, height: int, tone: str, title: str, y: float = 0, data: str = "") -> str:
    at = f' y="{y:g}"' if y else ""
    shape = f'<rect class="t-{tone}" x="{x:.3f}"{at} width="{width:.3f}" height="{height}"{data}>'
    return f"{shape}<title>{escape(title)}</title></rect>"


def label(x: float, y: float, text: str, room: float, on: str = "") -> str:
    """As much of a text as there is room for; ``on`` a shape of that tone. Nothing where that says too little."""
    letters = int(room / LETTER)
    if letters < min(len(text), 4):
        return ""
    shortened = text if len(text) <= letters else f"{text[: letters - 1]}…"
    kind = f' class="on t-{on}"' if on else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{kind}>{escape(shortened)}</text>'


def figure(kind: str, height: float, caption: str, *parts: str, width: int = 900) -> str:
    """``caption`` tells the whole figure to those who do not see it."""
    return (
        f'<div class="scroll" tabindex="0"><svg class="figure {kind}" viewBox="0 0 {width} {height:g}" role="img" '
        f'aria-label="{escape(caption)}">{"".join(parts)}</svg></div>'
    )
