"""loraprof: why LoRA is, or is not, faster than full fine-tuning on your hardware.

``profile`` records a training step, ``diagnose`` explains a recording or a trace, ``compare`` holds recordings against
each other, ``estimate_step`` tells a step from shapes and data sheets alone, ``load`` reads what was recorded.
"""

import sys
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

__version__ = "0.1.0"
BEGAN_NS: Final = time.perf_counter_ns()  # the start of a command line, but for Python's own
__all__ = ["Comparison", "Profile", "Recording", "Report", "compare", "diagnose", "estimate_step", "load", "profile"]

if TYPE_CHECKING:
    from loraprof.api import Profile, profile
    from loraprof.comparison.recordings import compare
    from loraprof.diagnosis.load import diagnose
    from loraprof.estimate.ask import estimate_step
    from loraprof.model.compare import Comparison
    from loraprof.model.recording import Recording
    from loraprof.model.report import Report
    from loraprof.store.load import load

_HOMES = {
    "Comparison": "loraprof.model.compare",
    "Profile": "loraprof.api",
    "Recording": "loraprof.model.recording",
    "Report": "loraprof.model.report",
    "compare": "loraprof.comparison.recordings",
    "diagnose": "loraprof.diagnosis.load",
    "estimate_step": "loraprof.estimate.ask",
    "load": "loraprof.store.load",
    "profile": "loraprof.api",
}


def __getattr__(name: str) -> Any:
    """Public names load what they need on first use: ``import loraprof`` stays instant."""
    if name not in _HOMES:
        raise AttributeError(f"module 'loraprof' has no attribute {name!r}")
    if "IPython" in sys.modules:
        import_module("loraprof.integrations.notebook").show_reports()
    return getattr(import_module(_HOMES[name]), name)


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext loraprof``: reports show themselves, and ``%%loraprof`` profiles the training loop of a cell."""
    import_module("loraprof.integrations.notebook").extend(shell)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
