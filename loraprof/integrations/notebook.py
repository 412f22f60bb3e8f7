"""How does a report look in a notebook? As its own page in a frame, so that neither's style touches the other.

IPython looks formatters up by type; registering them by name keeps ``model`` free of renderers and of IPython.
"""

import datetime
import html
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from loraprof.api import Profile
    from loraprof.model.report import Report
    from loraprof.model.scene import Drawn
    from loraprof.report.shown import Shown

TYPES: Final = (
    ("loraprof.model.report", "Report"),
    ("loraprof.model.compare", "Comparison"),
    ("loraprof.model.estimate", "Estimate"),
    ("loraprof.model.sweep", "Sweep"),
    ("loraprof.model.fix", "Fix"),
)


def show_reports() -> None:
    """Lets the running IPython show what the command line prints; without one, does nothing."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        return
    formatters = shell.display_formatter.formatters
    for module, name in TYPES:
        formatters["text/html"].for_type_by_name(module, name, frame)
        formatters["text/plain"].for_type_by_name(module, name, _print)
    formatters["text/html"].for_type_by_name("loraprof.api", "Profile", _recorded)


def extend(shell: Any) -> None:
    """Reports show themselves from now on, and cells can be profiled."""
    show_reports()
    shell.register_magic_function(lambda line, cell: profiled(shell, line, cell), "cell", "loraprof")


def profiled(shell: Any, line: str, cell: str) -> "Report":
    """``%%loraprof [NAME.loraprof]``: the cell trains; what its steps were is the cell's result.

    Raises MeasurementError where the cell makes too few optimizer steps, the cell's own error where it fails.
    """
    from loraprof.api import profile

    place = line.strip() or f"cell-{datetime.datetime.now():%Y%m%d-%H%M%S}.loraprof"
    with profile(place) as recorded:
        shell.run_cell(cell).raise_error()
    return recorded.report


def _recorded(profile: "Profile") -> str | None:
    """With the step to look at; nothing while there is no recording."""
    if profile.path is None:
        return None
    from loraprof.diagnosis.load import diagnosis_of
    from loraprof.report.page.drawn import drawn_of
    from loraprof.store.recordings import load_source

    found = diagnosis_of(load_source(profile.path))
    return frame(found.report, drawn_of(found))


def frame(shown: "Shown", drawn: "Drawn | None" = None) -> str:
    """The HTML report as one element, scripts allowed but cut off from the notebook."""
    from loraprof.report.html import to_html

    page = html.escape(to_html(shown, drawn).decode(), quote=True)
    kind = 'sandbox="allow-scripts allow-popups" style="width:100%;height:45rem;border:0"'
    return f'<iframe srcdoc="{page}" {kind}></iframe>'


def _print(shown: "Shown", printer: Any, cycle: bool) -> None:
    from loraprof.report.terminal.render import to_text

    printer.text(to_text(shown).decode().rstrip())
