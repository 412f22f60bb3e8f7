"""Which formats are there? One line per renderer, imported only when it is asked for."""

from collections.abc import Callable
from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING, Final, Self

from loraprof.errors import UsageError

if TYPE_CHECKING:
    from loraprof.report.shown import Shown


class Format(StrEnum):
    """``--format``: a renderer's name, and the function behind it."""

    function: str  # module:name

    def __new__(cls, name: str, function: str = "") -> Self:
        member = str.__new__(cls, name)
        member._value_, member.function = name, function
        return member

    terminal = "terminal", "loraprof.report.terminal.render:to_text"
    json = "json", "loraprof.report.json:to_json"
    html = "html", "loraprof.report.html:to_html"
    markdown = "markdown", "loraprof.report.markdown:to_markdown"
    github = "github", "loraprof.report.github:to_github"
    agent = "agent", "loraprof.report.agent:to_agent"
    issue = "issue", "loraprof.report.issue:to_issue"


RENDERERS: Final = tuple(Format)


def render(shown: "Shown", format: str) -> bytes:
    """The report or comparison in a format, UTF-8. Raises UsageError for an unknown format."""
    return renderer(format)(shown)


def renderer(format: str) -> Callable[["Shown"], bytes]:
    """The function behind a format's name."""
    if format not in RENDERERS:
        raise UsageError(f"There is no format {format!r}.", f"Choose one of {', '.join(RENDERERS)}.")
    module, name = Format(format).function.split(":")
    found: Callable[[Shown], bytes] = getattr(import_module(module), name)
    return found
