"""loraprof: why LoRA is, or is not, faster than full fine-tuning on your hardware."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Report", "diagnose"]

if TYPE_CHECKING:
    from loraprof.diagnosis.load import diagnose
    from loraprof.model.report import Report


def __getattr__(name: str) -> Any:
    """Public names load what they need on first use: ``import loraprof`` stays instant."""
    if name == "diagnose":
        from loraprof.diagnosis.load import diagnose

        return diagnose
    if name == "Report":
        from loraprof.model.report import Report

        return Report
    raise AttributeError(f"module 'loraprof' has no attribute {name!r}")
