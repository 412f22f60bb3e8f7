"""Which formats are there? One line per renderer, imported only when it is asked for."""

from collections.abc import Callable
from importlib import import_module
from typing import Final

from loraprof.errors import UsageError
from loraprof.report.shown import Shown

RENDERERS: Final[dict[str, str]] = {
    "terminal": "loraprof.report.terminal.render:to_text",
    "json": "loraprof.report.json:to_json",
    "html": "loraprof.report.html:to_html",
    "markdown": "loraprof.report.markdown:to_markdown",
    "github": "loraprof.report.github:to_github",
    "agent": "loraprof.report.agent:to_agent",
    "issue": "loraprof.report.issue:to_issue",
}


def render(shown: Shown, format: str) -> bytes:
    """The report or comparison in a format, UTF-8. Raises UsageError for an unknown format."""
    return renderer(format)(shown)


def renderer(format: str) -> Callable[[Shown], bytes]:
    """The function behind a format's name."""
    if format not in RENDERERS:
        raise UsageError(f"There is no format {format!r}.", f"Choose one of {', '.join(RENDERERS)}.")
    module, name = RENDERERS[format].split(":")
    found: Callable[[Shown], bytes] = getattr(import_module(module), name)
    return found
