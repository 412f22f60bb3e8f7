"""What can be shown, and the document of each."""

from loraprof.model.compare import Comparison
from loraprof.model.estimate import Estimate
from loraprof.model.fix import Fix
from loraprof.model.report import Report
from loraprof.model.sweep import Sweep
from loraprof.model.watch import Watch
from loraprof.report.document import Document
from loraprof.report.views.compare import view_comparison
from loraprof.report.views.estimate import view_estimate
from loraprof.report.views.fix import view_fix
from loraprof.report.views.report import view
from loraprof.report.views.sweep import view_sweep
from loraprof.report.views.watch import view_watch

Shown = Report | Comparison | Sweep | Estimate | Fix | Watch


def document_of(shown: Shown) -> Document:
    """The document that every renderer walks."""
    match shown:
        case Comparison():
            return view_comparison(shown)
        case Sweep():
            return view_sweep(shown)
        case Estimate():
            return view_estimate(shown)
        case Fix():
            return view_fix(shown)
        case Watch():
            return view_watch(shown)
        case _:
            return view(shown)
