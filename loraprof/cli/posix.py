"""Can a program be run and recorded on this system? Reading, comparing recordings and estimating can be done on any."""

import os

from loraprof.errors import MeasurementError


def needs_posix() -> None:
    """Raises MeasurementError where processes cannot fork (Windows)."""
    if not hasattr(os, "fork"):
        hint = "report, explain, estimate, export and compare of recordings work here; record on Linux or under WSL"
        raise MeasurementError("running and recording a program needs a POSIX system", hint)
