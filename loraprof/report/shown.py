"""What can be shown, and the document of each."""

from loraprof.model.compare import Comparison
from loraprof.model.estimate import Estimate
from loraprof.model.fix import Fix
from loraprof.model.report import Report
from loraprof.model.sweep import Sweep
from loraprof.model.watch import Watch
from loraprof.report.document import Document
from loraprof.report.views.report import view

Shown = Report | Comparison | Sweep | Estimate | Fix | Watch


def document_of(shown: Shown) -> Document:
    """The document that every renderer walks. Other views than a report's are imported where there is one to show."""
    match shown:
        case Comparison():
            from loraprof.report.views.compare import view_comparison

            return view_comparison(shown)
        case Sweep():
            from loraprof.report.views.sweep import view_sweep

            return view_sweep(shown)
        case Estimate():
            from loraprof.report.views.estimate import view_estimate

            return view_estimate(shown)
        case Fix():
            from loraprof.report.views.fix import view_fix

            return view_fix(shown)
        case Watch():
            from loraprof.report.views.watch import view_watch

            return view_watch(shown)
        case _:
            return view(shown)
